"""Random tiny worlds that may go on for ever: spinning, retrying and waiting, made by a seed.

Loops are ``while`` loops, and at every op all that a task knows is in its locals: see
``brute_rounds``. Some loops reach a goal that the world names, some one that it does not.
"""

from __future__ import annotations

import textwrap
from random import Random

from tests.search.random_worlds import build, function
from vmm.engine.task import TaskKind
from vmm.engine.world import World

BACKGROUND = (
    (TaskKind.EVENTUAL, "while True:\n    await atomically(one_more, {c}, when=lambda v: v == 1)"),
    (TaskKind.EVENTUAL, "await wait_until({c}, bool)\nawait {d}.set(1)"),
    (TaskKind.EVENTUAL, "while True:\n    await wait_until({c}, bool)\n    await {c}.set(0)"),
    (TaskKind.EVENTUAL, "while True:\n    await {c}.update(flip)"),
    (TaskKind.EVENTUAL, "while True:\n    async with locks[0]:\n        await {c}.update(flip)"),
    (TaskKind.DAEMON, "while True:\n    await {c}.update(flip)"),
    (TaskKind.DAEMON, "while True:\n    await wait_until({c}, bool)\n    await {c}.set(0)"),
    (TaskKind.DAEMON, "while True:\n    async with locks[0]:\n        await {c}.set(1)"),
    (TaskKind.DAEMON, "while await {c} == 0:\n    await mark('goal 0')"),
    (TaskKind.OPTIONAL, "await {c}.set(1)"),
    (TaskKind.OPTIONAL, "await wait_until({c}, bool)\nawait {d}.set(1)"),
    (TaskKind.OPTIONAL, "while True:\n    await {c}.update(flip)"),
)
"""What may run beside: {c} and {d} are cells."""

HELPERS = """
def one_more(value):
    return ((value + 1) % 3,), value

def flip(value):
    return 1 - min(value, 1), value
"""


class _Author:
    def __init__(self, random: Random) -> None:
        self.random = random
        self.depth = 0

    def pick(self, *options: str) -> str:
        return self.random.choice(options)

    def cell(self) -> str:
        return f"c[{self.random.randrange(2)}]"

    def block(self, least: int = 1) -> str:
        return "\n".join([self.statement() for _ in range(self.random.randint(least, 2))])

    def statement(self) -> str:
        if self.depth < 2 and self.random.random() < 0.45:
            self.depth += 1
            text = self.loop()
            self.depth -= 1
            return text
        return self.flat()

    def loop(self) -> str:
        head = self.pick(
            f"while await {self.cell()} != {self.pick('0', '1', 'x')}:",
            f"while not await {self.cell()}.cas({self.pick('0', '1')}, 1):",
            "while await choose(2):",
            "while True:",
            f"async with locks[{self.random.randrange(2)}]:",
        )
        if head == "while True:":
            leave = f"x = await {self.cell()}\nif x == {self.pick('0', '1')}: break"
            body = self.pick(leave, f"{leave}\n{self.block()}", f"{self.block()}\n{leave}")
        else:
            body = self.pick("pass", self.block(), self.block())
        return f"{head}\n{textwrap.indent(body, '    ')}"

    def flat(self) -> str:
        cell = self.cell()
        return self.pick(
            f"await {cell}.set({self.pick('0', '1', '1', 'x')})",
            f"await {cell}.set({self.pick('0', '1', '1', 'x')})",
            f"x = await {cell}",
            f"await {cell}.update(flip)",
            f"await wait_until({cell}, lambda v: v == {self.pick('0', '1')})",
            f"await mark('goal {self.random.randrange(2)}')",
        )


def looping_world(seed: int) -> tuple[World, str]:
    """A world and its source."""
    random = Random(seed)
    sources, kinds = [HELPERS], []
    for number in range(random.choice((1, 2, 2, 2, 3))):
        sources.append(function(number, f"x = 0\n{_Author(random).block()}"))
        kinds.append(TaskKind.FOREGROUND)
    for _ in range(random.choice((0, 1, 1, 2))):
        kind, body = random.choice(BACKGROUND)
        c, d = random.sample(("c[0]", "c[1]"), 2)
        sources.append(function(len(kinds), body.format(c=f"{c}", d=d)))
        kinds.append(kind)
    text = "\n\n".join(sources).replace("atomically(one_more, c[0]", "atomically(one_more, c[:1]")
    text = text.replace("atomically(one_more, c[1]", "atomically(one_more, c[1:2]")
    world = build(f"looping {seed}", text, kinds)
    world.goals = ("goal 0",)
    return world, text
