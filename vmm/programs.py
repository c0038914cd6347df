"""The programs of a machine and how they become tasks, and the set-up that runs before them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vmm.engine.hosts.direct import drive
from vmm.engine.live import Run
from vmm.engine.ops import Op
from vmm.engine.task import Task, TaskKind
from vmm.engine.trace import Ending
from vmm.engine.tso import add_store_buffers
from vmm.engine.world import ModelObject, World
from vmm.errors import UsageError
from vmm.vcpu.guest import Guest
from vmm.vcpu.host import Host
from vmm.vcpu.vcpu import Vm

GuestProgram = Callable[[Guest], Coroutine[Op, Any, None]]
HostProgram = Callable[[Host], Coroutine[Op, Any, None]]


@dataclass(frozen=True, slots=True)
class Programs:
    """What runs on a machine. ``setups`` run alone, one after the other, before the world starts.

    ``interrupts`` are the guest's handlers of IPIs from other vCPUs.
    """

    vcpus: Mapping[int, GuestProgram]
    setups: Mapping[int, GuestProgram] = field(default_factory=dict)
    interrupts: Mapping[int, GuestProgram] = field(default_factory=dict)
    hosts: Mapping[str, HostProgram] = field(default_factory=dict)


class Handler(ModelObject):
    """A guest's interrupt handler on one vCPU."""

    def __init__(self, program: GuestProgram, guest: Guest) -> None:
        self.program = program
        self.guest = guest

    def __call__(self) -> Coroutine[Op, Any, None]:
        return self.program(self.guest)


class _InOrder:
    """The picker of a set-up: the first task as far as it goes, always the first way out."""

    def pick(self, enabled: Sequence[int], pending: Sequence[Op | None], last: int) -> int:
        del pending, last
        return enabled[0]

    def branch(self, count: int) -> int:
        del count
        return 0


def make_guests(vm: Vm, programs: Programs) -> tuple[Guest, ...]:
    """The guest's view of every vCPU, interrupt handlers connected. Errors: no such vCPU."""
    guests: tuple[Guest, ...] = tuple(vm.classes["Guest"](vm, vcpu) for vcpu in vm.vcpus)
    for number in (*programs.vcpus, *programs.setups, *programs.interrupts):
        if number not in range(len(guests)):
            raise UsageError(
                f"there is a program for vCPU {number}, but the machine has {len(guests)} vCPUs"
            )
    vm.loop.connect({n: Handler(program, guests[n]) for n, program in programs.interrupts.items()})
    return guests


def add_tasks(
    world: World, vm: Vm, guests: Sequence[Guest], programs: Programs, *, tso: bool
) -> None:
    """One task per vCPU and host thread, and the hardware: IPI delivery, store buffers if ``tso``.

    A host thread has a pCPU of its own.
    """
    for guest in guests:
        program = programs.vcpus.get(guest.number, _nothing)
        world.task(f"v{guest.number}", run_program, guest, program)
    for name, host_program in programs.hosts.items():
        world.task(name, host_program, vm.classes["Host"](vm))
    interrupts: dict[int, int] = {}
    for pcpu in vm.pcpus:
        ipis = world.task(
            f"ipi{pcpu.number}", type(pcpu).deliver_ipis, pcpu, kind=TaskKind.EVENTUAL
        )
        interrupts[ipis.index] = pcpu.number
    if tso:
        add_store_buffers(world, interrupts)


async def run_program(guest: Guest, program: GuestProgram) -> None:
    """A vCPU task: the guest program, then out of the guest for good."""
    await program(guest)
    await guest.vm.loop.leave(guest.vcpu, "halt")


async def _nothing(cpu: Guest) -> None:
    del cpu


def set_up(world: World, guests: Sequence[Guest], programs: Programs) -> None:
    """Run the set-up programs; what they leave in the cells is where the world starts."""
    tasks = [
        Task(task.index, task.name, task.kind, task.start)
        if task.kind is TaskKind.EVENTUAL
        else _setup_task(task, guests, programs)
        for task in world.tasks
    ]
    run = Run(world, _InOrder(), tasks=tasks)
    outcome = drive(run)
    if outcome.ending is not Ending.QUIESCENT:
        what = outcome.findings[0].message if outcome.findings else outcome.ending.value
        raise UsageError(f"the set-up of {world.name} does not run to its end: {what}")
    for cell, value in zip(world.cells, run.memory, strict=True):
        cell.initial = value
    assert run.oracles is not None
    world.monitor_states = {
        monitor.name: state
        for monitor, state in zip(run.oracles.monitors, run.states, strict=True)
        if not monitor.counts
    }


def _setup_task(task: Task, guests: Sequence[Guest], programs: Programs) -> Task:
    program = programs.setups.get(task.index, _nothing)
    if task.index >= len(guests):
        return Task(task.index, task.name, task.kind, _end_at_once)
    guest = guests[task.index]
    return Task(task.index, task.name, task.kind, lambda: run_program(guest, program))


async def _end_at_once() -> None:
    """The set-up of a host thread: none."""
