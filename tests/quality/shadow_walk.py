"""Every translation that the shadow tables hold, held against the guest's own tables.

Works on one state of a machine, given by its memory; shares no code with the MMU or its audits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from vmm.bits import NX, A, D, P, U, W, frame_of
from vmm.engine.live import Run
from vmm.hw.pcpu import Irq
from vmm.mmu.api import NO_ROOT
from vmm.mmu.memslots import gfn_of
from vmm.units import ENTRY_BYTES, PAGE_BYTES
from vmm.vcpu.vcpu import Vcpu, Vm
from vmm.workload.tables import GuestTables, Translation

ALL_RIGHTS = W | U


class Held(NamedTuple):
    """A translation as a processor would find it; ``gptes`` are the gpas that its sptes shadow."""

    gva: int
    spte: int
    rights: int
    gptes: tuple[int, ...]


def guest_tables(vm: Vm, memory: Sequence[Any]) -> GuestTables:
    """The guest's tables as memory holds them."""
    words = dict(vm.layout.content)
    for array in vm.mmu.memory.arrays:
        for gpa, cell in array.cells.items():
            if vm.mmu.memory.word(gpa) is cell:
                words[gpa] = memory[cell.index]
    tables = GuestTables()
    for gpa, word in words.items():
        tables.store(gpa, ENTRY_BYTES, word & (1 << 64) - 1)
    return tables


def held_by(vm: Vm, vcpu: Vcpu, memory: Sequence[Any]) -> Iterator[Held]:
    """What a walk from the vCPU's shadow root can find."""
    root = memory[vcpu.root.index]
    if root != NO_ROOT:
        (page,) = root.pages
        header = memory[vm.mmu.cache.pages[page].header.index]
        cr3 = memory[vcpu.registers.index].cr3
        assert header.gfn == cr3 >> 12, "the root shadows another table than cr3's"
        yield from _below(vm, memory, page, 4, Held(0, 0, ALL_RIGHTS, ()))


def _below(vm: Vm, memory: Sequence[Any], number: int, level: int, above: Held) -> Iterator[Held]:
    page = vm.mmu.cache.pages[number]
    header = memory[page.header.index]
    assert header is not None, f"sp{number} is linked although it is free"
    assert header.role.level == level, f"sp{number} is linked at level {level}: {header}"
    for index in _present(vm, memory, number):
        spte = memory[page[index].index]
        gva = above.gva | index << 12 + 9 * (level - 1)
        rights = above.rights & spte & (W | U) | (above.rights | spte) & NX
        own = () if header.role.direct else (header.gfn * PAGE_BYTES + index * ENTRY_BYTES,)
        held = Held(gva, spte, rights, (*above.gptes, *own))
        if level == 1:
            yield held._replace(gva=_canonical(gva))
        else:
            child = frame_of(spte) - vm.mmu.cache.pages[0].pfn
            yield from _below(vm, memory, child, level - 1, held)


def _present(vm: Vm, memory: Sequence[Any], number: int) -> list[int]:
    """Indexes of the present sptes, which the page's own index must list."""
    listed: tuple[int, ...] = memory[vm.mmu.cache.pages[number].present.index]
    for ref, cell in vm.mmu.cache.sptes.cells.items():
        if ref.page == number:
            assert bool(memory[cell.index] & P) == (ref.index in listed), f"{ref}"
    return list(listed)


def _canonical(gva: int) -> int:
    return gva | -(1 << 48) & ((1 << 64) - 1) if gva >> 47 else gva


def assert_shadow_follows(vm: Vm, memory: Sequence[Any], *, emulating: Collection[int] = ()) -> int:
    """Each translation of every vCPU's shadow is the guest's, and no TLB holds another.

    ``emulating``: gptes whose emulated stores have reached memory, but not the shadow yet. Looked
    at only while mmu_lock is free; gives the number of translations.
    """
    if memory[vm.mmu.lock.index]:
        return 0
    tables = guest_tables(vm, memory)
    compared, wrong = 0, stale_tlb_entries(vm, memory)
    for vcpu in vm.vcpus:
        for held in held_by(vm, vcpu, memory):
            if any(gpa in emulating for gpa in held.gptes):
                continue
            compared += 1
            found = tables.walk(memory[vcpu.registers.index].cr3, held.gva)
            if complaint := _complaint(held, found):
                wrong.append(f"v{vcpu.number}, gva {held.gva:#x}: {complaint}")
    assert not wrong, "\n".join(wrong[:5])
    return compared


def emulating(run: Run) -> tuple[int, ...]:
    """Gptes that an emulated store has reached, while the shadow has not followed."""
    assert run.oracles is not None
    for monitor, state in zip(run.oracles.monitors, run.states, strict=True):
        if monitor.name == "audit/spte-agrees":
            return tuple(gpa for _, gpa in state)
    raise AssertionError("the audit of sptes is gone")


def _complaint(held: Held, found: Translation | None) -> str:
    if found is None:
        return f"frame {frame_of(held.spte):#x}, but the guest maps nothing"
    if gfn_of(frame_of(held.spte)) != found.gpa >> 12:
        return f"frame {frame_of(held.spte):#x}, but the guest maps {found.gpa >> 12:#x}"
    more = (
        held.rights & W and not found.rights.write,
        held.rights & U and not found.rights.user,
        found.rights.nx and not held.rights & NX,
    )
    if any(more):
        return f"rights {held.rights:#x}, but the guest grants {found.rights}"
    if held.rights & W and not found.entry & D:
        return "writable although the guest's entry is clean"
    return "" if all(entry & A for _, entry in found.path) else "present although A is clear"


def stale_tlb_entries(vm: Vm, memory: Sequence[Any]) -> list[str]:
    """TLB entries of vCPUs in the guest that the shadow does not hold.

    There are none while nobody holds mmu_lock: the MMU with the cache flushes before it unlocks.
    """
    wrong = []
    for vcpu in vm.vcpus:
        if memory[vcpu.pcpu.irq.index] is not Irq.GUEST:
            continue
        held = {h.gva >> 12: h for h in held_by(vm, vcpu, memory)}
        for entry in memory[vcpu.pcpu.tlb.index]:
            now = held.get(entry.page)
            same = now is not None and frame_of(now.spte) == entry.pfn
            if now is None or not same or entry.rights & ~now.rights & (W | U):
                wrong.append(f"v{vcpu.number}: {entry} in the TLB, {now} in the shadow")
    return wrong
