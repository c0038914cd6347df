"""A real Linux guest on two CPUs: its page tables and what it did to them.

The recording holds the page tables of all processes of a small Debian guest and the first events
of a busy second: processes fork, exec, map and unmap memory, and the kernel switches between them
on both CPUs. Here the guest is let loose on the shadow MMU: its vCPUs fault their pages in,
rewrite the tables through the kernel's direct map (which traps once a table is shadowed),
invalidate, and load cr3.

By default the vCPUs take turns as recorded, and everything must come out as it did then: each
translation, each page fault with its error code, and at every checkpoint the tables in memory to
the bit. Under any other strategy the two CPUs overlap as they like; then the guest is a fiction,
but the shadow must follow its tables all the same.
"""

from __future__ import annotations

from pathlib import Path

from vmm.scenario import (
    AsRecordedFactory,
    Guest,
    MachineConfig,
    Parameter,
    Params,
    RecordedLinux,
    RecordedOrder,
    Scenario,
    World,
    perform,
)

LINUX = RecordedLinux(Path(__file__).parent / "data" / "dev_smp2_small.ptrace.xz")
ALL_EVENTS = 7176


def machine(params: Params) -> MachineConfig:
    actions = LINUX.actions(params["events"], sweep=bool(params["sweep"]))
    return MachineConfig(
        tables=LINUX.tables,
        starts=LINUX.starts(),
        shadow_pages=params["pages"],
        min_free=5,
        refill=25,
        long=True,
        monitors=(AsRecordedFactory(LINUX.recording, actions),),
    )


SCENARIO = Scenario(
    title="the page tables and first events of a real 2-CPU Linux guest",
    source="recorded from Linux 6.1 under QEMU, see scenarios/data/README.md",
    machine=machine,
    parameters=(
        Parameter("events", ALL_EVENTS, "how many events", minimum=1, maximum=ALL_EVENTS),
        Parameter("pages", 256, "shadow pages in the pool (KVM: 256)", minimum=40, maximum=4096),
        Parameter("sweep", 0, "1: then load every mapped page", minimum=0, maximum=1),
    ),
    goals=("store emulated", "cached root found", "mapped table write-protected", "write flood"),
    small={"events": 12},
    modes=("4-level",),  # as it was recorded
)


@SCENARIO.vcpu()
async def replays(cpu: Guest) -> None:
    actions = LINUX.by_vcpu(int(cpu.params["events"]), sweep=bool(cpu.params["sweep"]))
    mine = tuple(actions[cpu.number])
    del actions
    for index in range(len(mine)):
        await perform(cpu, mine[index])


@SCENARIO.picker
def in_recorded_order(world: World, params: Params) -> RecordedOrder:
    actions = LINUX.actions(params["events"], sweep=bool(params["sweep"]))
    return RecordedOrder(world, [cpu for cpu, _ in actions])
