"""A vCPU moves to another processor while it is being asked to let go of its root.

The host zaps the root that the vCPU runs on, asks it to load another one, and interrupts it where
it is. If that place was looked up too early, the interrupt goes to a processor that the vCPU has
left, which acknowledges it at once; and the vCPU runs on with a root that nobody keeps up to date.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Scenario, page

DATA = REGION
ROOT = 0x10

SCENARIO = Scenario(
    title="a vCPU that moves is asked to reload its root",
    source="KVM 2e53d63acba7 (2008); vcpu-requests.rst",
    machine=MachineConfig(
        spaces={"A": {DATA: page(2)}},
        vcpus=1,
        pcpus=2,
        features=("vcpu-migration", "mmu-reload"),
    ),
    goals=("vCPU moved", "root in use zapped", "invalid root freed"),
    bugs=("vcpu-cpu-read-early",),
    modes=("4-level",),  # the root that the host zaps is its level-4 table
)


@SCENARIO.setup(0)
async def warm(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(0)
async def loads(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.host("zap")
async def zaps(host: Host) -> None:
    await host.zap_table(ROOT)
