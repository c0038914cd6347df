"""A vCPU invalidates a page and looks again: it must not meet what was there before.

vCPU 0 runs in space B and reads DATA twice, with an INVLPG in between. vCPU 1, which has B's table
mapped, stores a new entry for DATA meanwhile. The first read may see the old frame, and so may the
second one, but only if the entry was still old when vCPU 0 invalidated.

At first the table is not shadowed, so the store does not trap. It becomes shadowed by the fault of
vCPU 0. KVM has then to read the entry again, as its walk may have seen the old one; and it has to
make vCPU 1 flush, whose TLB holds the table writable. Without either, the shadow keeps the old
frame for good, and INVLPG, which runs natively, cannot help: the next walk of the shadow gives the
old frame again. A guest that does all that the manual asks of it reads a page that is not its own.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION
UNMAPPED = REGION + 0x9000
OLD_FRAME, NEW_FRAME = 2, 4

SCENARIO = Scenario(
    title="a vCPU invalidates a page that another one remaps, and reads it again",
    source="Intel SDM vol. 3, 4.10.4.1 (INVLPG); KVM f7d9c7b7b902 (2008), d9e368d612 (2007)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(3)}, "B": {DATA: page(OLD_FRAME)}}, starts=("B", "A")
    ),
    goals=("fault retried", "store emulated"),
    bugs=("stale-gpte", "remote-flush-missing"),
)


@SCENARIO.setup(0)
async def load_the_root(cpu: Guest) -> None:
    await cpu.load(UNMAPPED)


@SCENARIO.setup(1)
async def map_the_table(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=OLD_FRAME, space="B")


@SCENARIO.vcpu(0)
async def reads_twice(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.invlpg(DATA)
    await cpu.load(DATA)


@SCENARIO.vcpu(1)
async def remaps(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=NEW_FRAME, space="B")
