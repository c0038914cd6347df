"""The host zaps all shadow pages while a vCPU uses them and builds new ones.

Zapping takes long, so the host lets go of mmu_lock now and then, and vCPUs fault and build pages
meanwhile. Were the host to go on until no page is left, it might go on for ever. So it begins by
declaring all present pages obsolete: a new generation begins, lookups skip the old one, and every
vCPU is asked to let go of its root. What is built from then on is none of the host's business, and
it is done when the old pages are gone. A vCPU that has not reloaded yet may still read them without
the lock, to see whether its fault was fixed: the flush before they are freed waits for it.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Parameter, Scenario, page

DATA = REGION
OTHER = REGION + 0x1000

SCENARIO = Scenario(
    title="all shadow pages are zapped in batches while a vCPU goes on",
    source="KVM 5304b8d37c, f34d251d66ba (2013)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(2), OTHER: page(3)}},
        vcpus=1,
        features=("fast-zap", "lockless-walk"),
    ),
    parameters=(Parameter("rounds", 4, "loads of the vCPU, and zaps", minimum=1, maximum=64),),
    modes=("4-level", "5-level"),  # other guests have four roots, or fewer pages than a batch
    goals=(
        "lock released between batches",
        "root in use zapped",
        "invalid root freed",
        "all zapped",
    ),
    bugs=("obsolete-zap-no-flush",),
    small={"rounds": 1},
)


@SCENARIO.setup(0)
async def build_the_tables(cpu: Guest) -> None:
    await cpu.load(OTHER)


@SCENARIO.vcpu(0)
async def faults(cpu: Guest) -> None:
    for n in range(int(cpu.params["rounds"])):
        await cpu.load(DATA if n % 2 == 0 else OTHER)


@SCENARIO.host("alias")
async def zaps(host: Host) -> None:
    for _ in range(int(host.params["rounds"])):
        await host.zap_all()
    await host.mark("all zapped")
