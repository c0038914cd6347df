"""A directory with scenarios of its own, and the command line at work in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from vmm.cli import main

LOST_UPDATE = '''
"""Some tasks add one to a counter, with or without a lock."""

from vmm.scenario import (
    AuditPoint, Finding, Monitor, Parameter, Scenario, World, audit_point, mark
)

SCENARIO = Scenario(
    title="tasks add one to a counter",
    source="any textbook",
    goals=("all added",),
    parameters=(
        Parameter("locked", 0, "whether they take a lock", minimum=0, maximum=1),
        Parameter("tasks", 2, "how many", minimum=1, maximum=4),
        Parameter("unit", "ones", choices=("ones", "tens")),
    ),
)


@SCENARIO.world
def build(world, params):
    counter, done, lock = world.cell("counter", 0), world.cell("done", 0), world.lock("lock")
    total, locked = params["tasks"], params["locked"]

    async def adder():
        if locked:
            await lock.acquire()
        value = await counter
        await counter.set(value + 1)
        if locked:
            await lock.release()
        if await done.update(one_more) == total:
            await mark("all added")
            await audit_point("end")

    class Counts(Monitor):
        name = "counter/lost-update"
        events = (AuditPoint,)

        def on_event(self, state, event, step, view):
            if view[counter] == total:
                return state, ()
            message = f"the counter is {view[counter]}, not {total}"
            found = Finding(self.name, message, "each task adds one", "any textbook", ("counter",))
            return state, (found,)

    world.monitors.append(Counts())
    for number in range(total):
        world.task(f"adder {number}", adder)


def one_more(value):
    return value + 1, value + 1
'''

DEADLOCK = '''
"""Two tasks take two locks in opposite order."""

from vmm.scenario import Scenario, World

SCENARIO = Scenario(title="opposite lock order", source="Coffman et al. (1971)")


@SCENARIO.world
def build(world, params):
    a, b = world.lock("a"), world.lock("b")

    async def both(first, second):
        async with first:
            async with second:
                pass

    world.task("t0", both, a, b)
    world.task("t1", both, b, a)
'''


def one_task(body: str, imports: str = "", extra: str = "") -> str:
    """A scenario of one task ``worker`` with that body."""
    return f"""
from vmm.scenario import Scenario
{imports}
SCENARIO = Scenario(title="one task", source="a test")

@SCENARIO.world
def build(world, params):
    cell = world.cell("cell", 0)

    async def worker():
        {body}

    world.task("worker", worker)
    {extra}
"""


@dataclass(frozen=True)
class Said:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        (line,) = self.out.splitlines()
        found: dict[str, Any] = json.loads(line)
        return found

    @property
    def complaint(self) -> str:
        """The one line on stderr of a command that failed."""
        (line,) = self.err.splitlines()
        assert not self.out
        return line


@dataclass(frozen=True)
class Lab:
    """The current directory of a test."""

    path: Path

    def scenario(self, name: str, text: str) -> Path:
        """Write ``scenarios/<name>.py``."""
        file = self.path / "scenarios" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def vmm(self, *words: object) -> Said:
        """Run a command in this process."""
        result = CliRunner().invoke(main, [str(word) for word in words], prog_name="vmm")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Said(result.exit_code, result.stdout, result.stderr)
