"""The race table: which steps it shows, and how they are laid out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from vmm.engine.cells import Cell
from vmm.engine.events import AuditPoint
from vmm.engine.hosts import driver
from vmm.engine.monitor import Finding, Monitor
from vmm.engine.ops import audit_point
from vmm.engine.schedule import Schedule
from vmm.engine.task import TaskKind
from vmm.engine.tso import add_store_buffers
from vmm.engine.world import World
from vmm.report.race_table import RaceTable, race_table
from vmm.search.replay import CheckedRun
from vmm.strategies.recorded import RecordedPicker

RULE = "spte and gpte name one frame"


class Always(Monitor):
    """Every audit point is a finding about these cells."""

    name = "audit/agrees"
    events = (AuditPoint,)

    def __init__(self, *cells: str) -> None:
        self.cells = cells

    def on_event(self, state: Any, event: Any, step: Any, view: Any) -> Any:
        return state, (Finding("audit/agrees", "gpte says gfn 4", RULE, "a test", self.cells),)


def table(world: World, order: str, branches: tuple[int, ...] = ()) -> RaceTable:
    """The table of a run in that order: one digit a step."""
    schedule = Schedule(bytes(map(int, order)), branches)
    run = CheckedRun(world, RecordedPicker(schedule), record=True, step_budget=len(order))
    outcome = driver("direct")(run)
    assert outcome.findings
    return race_table("stale-gpte", run, outcome, outcome.findings, "vmm replay TOKEN")


def gfn(value: int) -> str:
    return f"gfn {value}"


def stale_gpte(noise: int = 0) -> World:
    """One task reads gpte, takes the lock and maps what it read; the other writes gpte."""
    world = World("stale-gpte")
    lock = world.lock("mmu_lock")
    gpte = world.cell("gpte", 2, format=gfn)
    spte = world.cell("spte", 0, format=lambda value: f"pfn {value}" if value else "not present")
    other = [world.cell(f"other{number}", 0) for number in range(max(noise, 1))]

    async def reader() -> None:
        for cell in other[:noise]:
            await cell
        frame = await gpte
        async with lock:
            await spte.set(frame)
            await audit_point("mapped")

    async def writer() -> None:
        for cell in other[:noise]:
            await cell.set(1)
        async with lock:
            await gpte.set(4)

    async def speculation() -> None:
        await other[0]

    world.task("v0", reader)
    world.task("v1", writer)
    world.task("walker", speculation, kind=TaskKind.OPTIONAL)
    world.monitors.append(Always("spte", "gpte"))
    return world


GOLDEN = """\
stale-gpte   audit/agrees   7 of 8 steps, 3 switches
      v0                    v1
  1   read   gpte = gfn 2
  2                         acquire mmu_lock
  3                         write  gpte = gfn 4
  4                         release mmu_lock
  6   acquire mmu_lock
  7   write  spte = pfn 2
  8   audit  mapped   <--   gpte says gfn 4
 rule    spte and gpte name one frame (a test)
 replay  vmm replay TOKEN"""

NARROW = """\
stale-gpte   audit/agrees   7 of 8
steps, 3 switches
  1   v0: read   gpte = gfn 2
  2   v1: acquire mmu_lock
  3   v1: write  gpte = gfn 4
  4   v1: release mmu_lock
  6   v0: acquire mmu_lock
  7   v0: write  spte = pfn 2
  8   v0: audit  mapped   <--
 found   gpte says gfn 4
 rule    spte and gpte name one
         frame (a test)
 replay  vmm replay TOKEN"""


def test_the_table_of_a_race() -> None:
    assert "\n".join(table(stale_gpte(), "01112000").lines(100)) == GOLDEN


def test_on_a_narrow_terminal_the_tasks_share_a_column() -> None:
    assert "\n".join(table(stale_gpte(), "01112000").lines(36)) == NARROW


@pytest.mark.parametrize("width", [30, 50, 64, 80, 100, 200])
def test_nothing_is_wider_than_the_terminal_but_the_command(width: int) -> None:
    *lines, command = table(stale_gpte(4), "1111" + "0000" + "0111000").lines(width)
    assert max(map(len, lines)) <= width
    assert command == " replay  vmm replay TOKEN"
    assert any("<--" in line for line in lines)


def test_what_does_not_matter_is_left_out() -> None:
    shown = table(stale_gpte(9), "1" * 9 + "0" * 9 + "2" + "0111000")
    assert len(shown.rows) == 7
    assert shown.columns == ("v0", "v1")
    assert shown.steps == 26


def rows(world: World, order: str, branches: tuple[int, ...] = ()) -> list[str]:
    return [row.text for row in table(world, order, branches).rows]


Body = Callable[[dict[str, Cell[Any]]], Awaitable[None]]


def one_task(body: Body, *cells: str) -> World:
    world = World("one task")
    made: dict[str, Cell[Any]] = {name: world.cell(name, 0) for name in ("a", "b")}

    async def task() -> None:
        await body(made)
        await audit_point("end")

    world.task("t", task)
    world.monitors.append(Always(*cells))
    return world


def test_each_op_reads_as_what_it_did() -> None:
    from vmm.engine.ops import atomically, choose, observe, wait_until

    async def body(cells: dict[str, Cell[Any]]) -> None:
        a, b = cells["a"], cells["b"]
        await a.cas(0, 1)
        await a.cas(0, 2)
        await a.update(_plus_one)
        await wait_until(a, bool)
        await atomically(_swap_both, (a, b))
        await observe(max, (a, b))
        await choose(3)

    shown = rows(one_task(body), "00000000", (2,))
    assert shown == [
        "cas    a 0 -> 1   ok",
        "cas    a 0 -> 2   failed",
        "update a = 2",
        "saw    a = 2",
        "swap both: a = 0, b = 2",
        "read   a, b",
        "choose 2 of 0..2",
        "audit  end",
    ]


def _plus_one(value: int) -> tuple[int, None]:
    return value + 1, None


def _swap_both(a: int, b: int) -> tuple[tuple[int, int], None]:
    return (b, a), None


def test_store_buffers_read_as_what_they_did() -> None:
    world = World("tso")
    x, lock = world.cell("x", 0), world.lock("lock")

    async def task() -> None:
        await lock.acquire()
        await x.set(1)
        await x
        await lock.release()
        await audit_point("end")

    world.task("t", task)
    world.monitors.append(Always("x", "lock"))
    add_store_buffers(world)
    shown = rows(world, "0000111" + "0")
    assert shown == [
        "acquire lock",
        "write  x = 1   (buffered)",
        "read   x = 1",
        "release lock   (buffered)",
        "drain  x = 1",
        "drain  lock = free",
        "audit  end",
    ]


def test_a_deadlock_shows_who_holds_and_who_waits() -> None:
    world = World("locks")
    a, b = world.lock("a"), world.lock("b")

    async def both(first: Any, second: Any) -> None:
        async with first, second:
            pass

    world.task("t0", both, a, b)
    world.task("t1", both, b, a)
    shown = table(world, "01")
    assert [(row.number, row.column, row.text, row.violates) for row in shown.rows] == [
        (1, 0, "acquire a", False),
        (2, 1, "acquire b", False),
        (None, 0, "waits to acquire b", False),
        (None, 1, "waits to acquire a", True),
    ]


def test_a_published_access_is_shown_before_it_takes_effect() -> None:
    class NoWrites(Monitor):
        name = "no/writes"
        sees_pending = True

        def on_pending(self, task: Any, op: Any, view: Any) -> Any:
            bad = op.writes and op.cell.name == "a"
            return (Finding("no/writes", "unlocked", "never", "a test", ("a",)),) if bad else ()

    async def body(cells: dict[str, Cell[Any]]) -> None:
        await cells["b"].set(1)
        await cells["a"].set(7)

    world = one_task(body)
    world.monitors[:] = [NoWrites()]
    last = table(world, "0").rows[-1]
    assert (last.number, last.text, last.violates) == (None, "write  a = 7", True)


def test_a_finding_that_names_nothing_shows_the_last_steps() -> None:
    async def body(cells: dict[str, Cell[Any]]) -> None:
        for number in range(20):
            await cells["a"].set(number)

    assert len(rows(one_task(body), "0" * 21)) == 12


def test_locked_reads_and_writes_of_one_task_are_no_race() -> None:
    world = World("locked")
    lock, count = world.lock("lock"), world.cell("count", 0)

    async def add() -> None:
        async with lock:
            await count.set(await count + 1)

    async def judge() -> None:
        await audit_point("end")

    world.task("t0", add)
    world.task("t1", add)
    world.task("t2", judge)
    world.monitors.append(Always("count"))
    assert rows(world, "000011112") == [
        "acquire lock",
        "write  count = 1",
        "release lock",
        "acquire lock",
        "write  count = 2",
        "release lock",
        "audit  end",
    ]
