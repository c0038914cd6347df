"""A vCPU boots through the paging modes while the other one runs in the last of them.

vCPU 0 starts without paging and turns on what a boot loader does, one control register after the
other: 32-bit paging, then PAE, then long mode, which needs paging off in between. Each change drops
its root; the shadow of each mode is made under a role of its own, and all of them lie side by side
in the cache. vCPU 1 pages in 4-level mode all the while, and rewrites an entry of the table that
vCPU 0 comes to last. A processor refuses some of the steps: LME while paging is on, paging in long
mode without PAE, another depth of tables within long mode. The guest gets a #GP for each.
"""

from __future__ import annotations

from vmm.scenario import REGION, GeneralProtection, Guest, MachineConfig, Scenario, page

DATA = REGION

SCENARIO = Scenario(
    title="a vCPU goes through all paging modes beside another one",
    source="Intel SDM vol. 3, 4.1.2 and 9.8.5; KVM cea0f0e7ea (2007, role.glevels)",
    machine=MachineConfig(
        spaces={"real": {}, "32": {DATA: page(2)}, "pae": {DATA: page(3)}, "64": {DATA: page(4)}},
        space_modes={"real": "real", "32": "32-bit", "pae": "pae"},
        starts=("real", "64"),
        shadow_pages=32,
    ),
    goals=("refused", "32-bit", "pae", "4-level", "store emulated"),
    modes=("4-level",),  # the last one; the others are what it is about
)


@SCENARIO.setup(1)
async def in_long_mode(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(0)
async def boots(cpu: Guest) -> None:
    await cpu.mov_cr3("32")
    await cpu.mov_cr0(pg=True)
    await cpu.store(DATA, 32)
    await cpu.mark("32-bit")
    if isinstance(await cpu.wrmsr_efer(lme=True), GeneralProtection):
        await cpu.mark("refused")
    await cpu.mov_cr0(pg=False)
    await cpu.mov_cr4(pae=True)
    await cpu.mov_cr3("pae")
    await cpu.mov_cr0(pg=True)
    await cpu.store(DATA, 33)
    await cpu.mark("pae")
    await cpu.mov_cr0(pg=False)
    await cpu.wrmsr_efer(lme=True)
    await cpu.mov_cr3("64")
    await cpu.mov_cr0(pg=True)
    await cpu.load(DATA)
    await cpu.mark("4-level")


@SCENARIO.vcpu(1)
async def remaps(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=5, space="64")
    await cpu.invlpg(DATA)
    await cpu.load(DATA)
