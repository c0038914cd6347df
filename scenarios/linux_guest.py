"""A real Linux guest on two CPUs: its page tables and what it did to them.

The recording holds the page tables of all processes of a small Debian guest and what it did to them
while it was busy: processes fork, exec, map and unmap memory, and the kernel switches between them
on both CPUs. By default only its first events are replayed; ``-p recording=full`` takes a minute or
two for all of them. Here the guest is let loose on the shadow MMU: its vCPUs fault their pages in,
rewrite the tables through the kernel's direct map (which traps once a table is shadowed),
invalidate, and load cr3.

By default the vCPUs take turns as recorded, and everything must come out as it did then: each
translation, each page fault with its error code, and at every checkpoint the tables in memory to
the bit. Under any other strategy the two CPUs overlap as they like; then the guest is a fiction,
but the shadow must follow its tables all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vmm.scenario import (
    Action,
    AsRecordedFactory,
    Guest,
    MachineConfig,
    Parameter,
    Params,
    RecordedLinux,
    RecordedOrder,
    Scenario,
    UsageError,
    World,
    perform,
)

DATA = Path(__file__).parent / "data"
RECORDINGS = {
    "small": RecordedLinux(DATA / "dev_smp2_small.ptrace.xz"),
    "full": RecordedLinux(DATA / "dev_smp2.ptrace.xz"),
}
ALL_EVENTS = {"small": 7176, "full": 243_536}


def machine(params: Params) -> MachineConfig:
    linux, actions = RECORDINGS[params["recording"]], chosen(params)
    return MachineConfig(
        tables=linux.tables,
        starts=linux.starts(),
        shadow_pages=params["pages"],
        min_free=5,
        refill=25,
        long=True,
        monitors=(AsRecordedFactory(linux.recording, actions),),
    )


def chosen(params: Params) -> Sequence[tuple[int, Action]]:
    """(vCPU, action), in the recorded order."""
    name, events = params["recording"], params["events"]
    if events > ALL_EVENTS[name]:
        raise UsageError(
            f"parameter events={events}: the recording {name} has {ALL_EVENTS[name]} events"
        )
    return RECORDINGS[name].actions(events or ALL_EVENTS[name], sweep=bool(params["sweep"]))


SCENARIO = Scenario(
    title="the page tables of a real 2-CPU Linux guest, and what it did to them",
    source="recorded from Linux 6.1 under QEMU, see scenarios/data/README.md",
    machine=machine,
    parameters=(
        Parameter(
            "recording",
            "small",
            "small: the first events; full: all 243,536, for minutes",
            choices=tuple(RECORDINGS),
        ),
        Parameter("events", 0, "how many events; 0: all", minimum=0, maximum=ALL_EVENTS["full"]),
        Parameter("pages", 256, "shadow pages in the pool (KVM: 256)", minimum=40, maximum=4096),
        Parameter("sweep", 0, "1: then load every mapped page", minimum=0, maximum=1),
    ),
    goals=("store emulated", "cached root found", "mapped table write-protected", "write flood"),
    small={"events": 12},
    modes=("4-level",),  # as it was recorded
)


@SCENARIO.vcpu()
async def replays(cpu: Guest) -> None:
    mine = tuple([action for number, action in chosen(cpu.params) if number == cpu.number])
    for index in range(len(mine)):
        await perform(cpu, mine[index])


@SCENARIO.picker
def in_recorded_order(world: World, params: Params) -> RecordedOrder:
    return RecordedOrder(world, [cpu for cpu, _ in chosen(params)])
