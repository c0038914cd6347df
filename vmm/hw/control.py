"""Control registers: what a processor keeps of them, and which changes it refuses.

In PAE mode the four entries of the root table are latched: MOV CR3 and some changes of CR0 and CR4
load them into registers, and walks use those. A store to the table has no effect until then.

    processor                              other processor
    MOV CR3: loads PDPTE 1 = table T
                                           store PDPTE 1 = table S
    walks go through T
    MOV CR3, the same value: loads PDPTE 1 = table S

Source: Intel SDM vol. 3, 2.5 (control registers), 4.1.2 (paging-mode enabling), 4.4.1 (PDPTE
registers). Departs from it: CS.L is not modeled, so long mode may be left by MOV CR0 as from
compatibility mode; every other bit of these registers is fixed.
"""

from __future__ import annotations

from vmm.bits import P, frame_of
from vmm.hw.paging import Controls, PagingMode, PagingRegisters, format_of, root_base
from vmm.units import ENTRY_BYTES, Gfn, Gpa, gpa_to_gfn

PDPTES = 4
PCID_MASK = 0xFFF
"""With CR4.PCIDE: the process-context identifier in CR3."""
CR3_KEEPS = 1 << 63
"""With CR4.PCIDE: MOV CR3 of a value with this bit need invalidate nothing. It is not stored."""
PDPTE_SHIFT = 30
"""A PDPTE of PAE paging translates 1G."""


def root_gfn(registers: PagingRegisters) -> Gfn:
    """The frame of the table that CR3 names."""
    return gpa_to_gfn(Gpa(root_base(registers.cr3, registers.controls)))


def table_of(registers: PagingRegisters, slot: int) -> Gfn | None:
    """In the modes of 4G: the level-2 table of a quarter; None if its PDPTE is not present."""
    if registers.controls.mode is not PagingMode.PAE:
        return root_gfn(registers)
    entry = registers.pdptes[slot]
    return Gfn(frame_of(entry)) if entry & P else None


def format_registers(registers: PagingRegisters) -> str:
    """Control registers for a reader."""
    return f"{registers.cr3:#x}, {registers.controls.mode.value}"


def pdpte_gpas(cr3: int, controls: Controls) -> tuple[Gpa, ...]:
    """Where the PDPTEs lie that PAE paging loads: 32 bytes, anywhere in a page."""
    base = root_base(cr3, controls)
    return tuple(Gpa(base + ENTRY_BYTES * slot) for slot in range(PDPTES))


def is_refused(old: Controls, new: Controls) -> bool:
    """Whether MOV to CR0 or CR4, or WRMSR of IA32_EFER, gives #GP for this change."""
    if new.pg and new.lme and not new.pae:
        return True  # neither may paging be turned on so, nor PAE off in IA-32e mode
    if old.pg and old.lme != new.lme:
        return True
    return old.long_mode and new.long_mode and old.la57 != new.la57


def loads_pdptes(old: Controls, new: Controls) -> bool:
    """Whether a change of CR0 or CR4 loads the PDPTEs, as MOV CR3 always does in PAE mode."""
    if new.mode is not PagingMode.PAE:
        return False
    watched = ("pg", "pae", "pge", "pse", "smep")
    return any(getattr(old, name) != getattr(new, name) for name in watched)


def forgets_all(old: Controls, new: Controls) -> bool:
    """Whether a change of control bits invalidates all that is cached, global pages too.

    Not in the list are WP and NXE, so that what is cached may be judged by their old values.
    Source: Intel SDM vol. 3, 4.10.4.1.
    """
    return old.mode is not new.mode or old.pge != new.pge or (new.smep and not old.smep)


def is_cr3_refused(value: int, controls: Controls) -> bool:
    """Whether MOV CR3 gives #GP for the value: an address that the processor does not have."""
    return format_of(controls).linear_bits > 32 and bool(value >> controls.maxphyaddr)
