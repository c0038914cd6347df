"""A shadow table that maps nothing is taken out of use while a processor knows where it lies.

The host takes the only page of a table away, then the table itself. Nothing is mapped below it by
then, so no translation is lost; but a processor that caches entries of upper levels may have kept
the one that leads there. The next table that is shadowed gets the same page, and the processor
walks on in it for an address that it was never meant for.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Scenario, page

DATA = REGION
HOLE = REGION + 0x1000  # below the same table; not mapped
OTHER = REGION + 0x201000  # below another one, at the index of HOLE
FRAME = 2
LEAF_TABLE = 0x13

SCENARIO = Scenario(
    title="a table without leaves is zapped while its upper entry is cached",
    source="Intel SDM vol. 3, 4.10.3 (paging-structure caches), 4.10.4.2",
    machine=MachineConfig(
        spaces={"A": {DATA: page(FRAME), OTHER: page(3)}},
        vcpus=1,
        features=("host-paging",),
        structure_caches=True,
    ),
    goals=("page given back", "fault in the hole"),
    bugs=("table-reuse-structure-cache",),
    modes=("4-level",),
)


@SCENARIO.setup(0)
async def warm(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(0)
async def loads(cpu: Guest) -> None:
    await cpu.load(HOLE)
    await cpu.load(OTHER)
    await cpu.load(HOLE)
    await cpu.mark("fault in the hole")


@SCENARIO.host("shrinker")
async def takes_it(host: Host) -> None:
    await host.reclaim(FRAME)
    await host.zap_table(LEAF_TABLE)
