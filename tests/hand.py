"""Coroutines of the model driven by hand, op by op, against a memory of their own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from vmm.bits import P
from vmm.components import Overrides
from vmm.engine.cells import Cell
from vmm.engine.events import Event, resolve
from vmm.engine.ops import Choose, Op
from vmm.engine.task import TaskKind
from vmm.engine.world import World
from vmm.hw.layout import Layout, Page
from vmm.machine import MachineConfig, build_world
from vmm.mmu.shadow_page import SpteRef
from vmm.programs import Programs
from vmm.units import Gfn
from vmm.vcpu.guest import Guest
from vmm.vcpu.host import Host
from vmm.vcpu.vcpu import Vcpu, Vm

T = TypeVar("T")
E = TypeVar("E", bound=Event)


@dataclass
class Doing:
    """A coroutine under way: ``op`` is what it waits to do, None once it has ended."""

    hand: Hand
    program: Any
    number: int
    op: Op | None = None
    result: Any = None

    def send(self, value: object) -> None:
        try:
            self.op = self.program.send(value)
        except StopIteration as stop:
            self.op, self.result = None, stop.value

    @property
    def ended(self) -> bool:
        return self.op is None

    @property
    def enabled(self) -> bool:
        return self.op is not None and self.op.enabled(self.hand.memory, self.number)

    def step(self) -> Op:
        """Let the pending op take effect; gives it."""
        op = self.op
        assert op is not None, "it has ended"
        assert self.enabled, f"{op} is blocked"
        self.send(self.hand.effect(op, self.number))
        return op

    def until(self, here: Callable[[Op], bool]) -> Op:
        """Step until an op that ``here`` accepts is pending; gives it, not yet taken."""
        while self.op is not None:
            if here(self.op):
                return self.op
            self.hand.let(self)
        raise AssertionError("it ended before that op came")

    def finish(self) -> Any:
        """Step to the end; gives what the coroutine returned."""
        while not self.ended:
            self.hand.let(self)
        return self.result


class Hand:
    """A world with a memory, in which coroutines are driven one op at a time.

    A blocked op lets the hardware of the world move, as far as it can. ``branch`` decides choices:
    0 takes what is cached. ``events`` are those of all ops so far, which ``taken`` lists.
    """

    def __init__(self, world: World, *, branch: int = 0) -> None:
        self.world = world
        self.branch = branch
        self.memory: list[Any] = [cell.initial for cell in world.cells]
        world.live_memories.append(self.memory)
        self.events: list[Event] = []
        self.taken: list[Op] = []
        self.hardware = [
            self.start(task.start(), task.index)
            for task in world.tasks
            if task.kind is TaskKind.EVENTUAL
        ]

    def __getitem__(self, cell: Cell[Any]) -> Any:
        return self.memory[cell.index]

    def __setitem__(self, cell: Cell[Any], value: object) -> None:
        self.memory[cell.index] = value

    def reset(self) -> None:
        """All cells as they were at the start."""
        self.memory[:] = [cell.initial for cell in self.world.cells]

    def start(self, program: Awaitable[Any], number: int = 0) -> Doing:
        """A coroutine before its first op, done in the name of task ``number``."""
        doing = Doing(self, program, number)
        doing.send(None)
        return doing

    def do(self, program: Awaitable[T], number: int = 0) -> T:
        """Run a coroutine to its end."""
        result: T = self.start(program, number).finish()
        return result

    def locked(self, program: Awaitable[T], number: int = 0) -> T:
        """Run a coroutine to its end while task ``number`` holds mmu_lock."""
        assert isinstance(self.world.model, Vm)
        lock = self.world.model.mmu.lock
        self[lock] = number + 1
        result = self.do(program, number)
        self[lock] = 0
        return result

    def let(self, doing: Doing) -> None:
        """One step of a coroutine, after as many of the hardware as it waits for."""
        while not doing.enabled:
            moving = next((hw for hw in self.hardware if hw.enabled), None)
            assert moving is not None, f"{doing.op} is blocked for good"
            moving.step()
        doing.step()

    def settle(self) -> None:
        """Let the hardware do all that it can."""
        while moving := next((hw for hw in self.hardware if hw.enabled), None):
            moving.step()

    def effect(self, op: Op, number: int) -> Any:
        result = self.branch if isinstance(op, Choose) else op.run(self.memory, number)[0]
        self.taken.append(op)
        self.events += resolve(op.event, result)
        return result

    def said(self, kind: type[E]) -> list[E]:
        """The events of one kind so far."""
        return [event for event in self.events if isinstance(event, kind)]


@dataclass
class Bench:
    """A machine without programs, and a hand to drive its components."""

    vm: Vm
    hand: Hand

    @property
    def guests(self) -> tuple[Guest, ...]:
        return tuple(self.vm.classes["Guest"](self.vm, vcpu) for vcpu in self.vm.vcpus)

    @property
    def guest(self) -> Guest:
        return self.guests[0]

    @property
    def host(self) -> Host:
        made: Host = self.vm.classes["Host"](self.vm)
        return made

    @property
    def vcpu(self) -> Vcpu:
        return self.vm.vcpus[0]

    def do(self, program: Awaitable[T], number: int = 0) -> T:
        return self.hand.do(program, number)

    def spte(self, page: int, index: int) -> int:
        cell = self.vm.mmu.cache.sptes.cells.get(SpteRef(page, index))
        return 0 if cell is None else self.hand[cell]

    def word(self, gpa: int) -> int:
        value: int = self.hand[self.vm.mmu.memory.word(gpa)]
        return value

    def poke(self, gpa: int, value: int) -> None:
        """Change guest memory behind everybody's back."""
        self.hand[self.vm.mmu.memory.word(gpa)] = value

    def pages(self, gfn: int, *, direct: bool = False) -> list[int]:
        """Numbers of the shadow pages of a frame."""
        bucket = self.hand[self.vm.mmu.cache.buckets[Gfn(gfn)]]
        return [number for role, number in bucket if role.direct == direct]

    def leaves(self) -> dict[tuple[int, int], int]:
        """(page, index) and spte of every present leaf."""
        found = {}
        for (page, index), cell in self.vm.mmu.cache.sptes.cells.items():
            header = self.hand[self.vm.mmu.cache.pages[page].header]
            if header is not None and header.role.level == 1 and self.hand[cell] & P:
                found[page, index] = self.hand[cell]
        return found


def bench(
    spaces: Mapping[str, Mapping[int, Page]] | None = None,
    *,
    tables: Layout | None = None,
    overrides: Overrides | None = None,
    branch: int = 0,
    **config: Any,
) -> Bench:
    """A machine to be driven by hand; ``config`` as for ``MachineConfig``."""
    config.setdefault("vcpus", 1)
    made = MachineConfig(tables=tables, spaces=spaces or {"A": {}}, **config)
    world = build_world("bench", made, Programs({}), {}, overrides=overrides or {})
    assert isinstance(world.model, Vm)
    return Bench(world.model, Hand(world, branch=branch))
