"""Every translation that the shadow tables hold, held against the guest's own tables.

Works on one state of a machine, given by its memory. What a processor could do through the shadow,
bare metal must let it do, with nothing left to set in the guest's entries: the rules of the guest's
side are those of the second walker, and no code of the MMU or of its audits is used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

from tests.quality.plain_machine import PAGE, Kind, PlainMachine, Registers
from vmm.bits import NX, P, U, W, frame_of
from vmm.engine.live import Run
from vmm.hw.pcpu import Irq
from vmm.mmu.api import NO_PAGE, NO_ROOT
from vmm.mmu.memslots import gfn_of
from vmm.mmu.role import Role
from vmm.units import word_of
from vmm.vcpu.vcpu import Vcpu, Vm

ALL_RIGHTS = W | U
KINDS = tuple(
    Kind(write, user, fetch)
    for write, user, fetch in product((False, True), repeat=3)
    if not (write and fetch)
)


class Held(NamedTuple):
    """A translation as a processor would find it; ``gptes``: where what its sptes shadow lies."""

    gva: int
    spte: int
    rights: int
    gptes: tuple[int, ...]


def plain_machine(vm: Vm, memory: Sequence[Any]) -> PlainMachine:
    """The guest as it stands: its words and its registers."""
    words = dict(vm.layout.content)
    for array in vm.mmu.memory.arrays:
        for gpa, cell in array.cells.items():
            if vm.mmu.memory.word(gpa) is cell:
                words[gpa] = memory[cell.index]
    made = [memory[vcpu.registers.index] for vcpu in vm.vcpus]
    cpus = [Registers(**now.controls._asdict(), cr3=now.cr3, pdptes=now.pdptes) for now in made]
    return PlainMachine(words, cpus)


def held_by(vm: Vm, vcpu: Vcpu, memory: Sequence[Any]) -> Iterator[Held]:
    """What a walk from the vCPU's shadow root can find."""
    root = memory[vcpu.root.index]
    if root == NO_ROOT:
        return
    wanted = _wanted_roots(memory[vcpu.registers.index])
    assert len(root.pages) == len(wanted), f"{len(root.pages)} roots instead of {len(wanted)}"
    for number, (page, want) in enumerate(zip(root.pages, wanted, strict=True)):
        if page == NO_PAGE:
            assert want is None, f"root {number} is missing"
            continue
        header = memory[vm.mmu.cache.pages[page].header.index]
        assert (header.gfn, header.role.quadrant) == want, f"root {number} shadows another table"
        above = Held(number << 30, 0, ALL_RIGHTS, ())
        yield from _below(vm, memory, page, root.level, above)


def _wanted_roots(registers: Any) -> list[tuple[int, int] | None]:
    """Frame and quadrant of what each root must shadow; None where a PDPTE is not present."""
    controls, cr3 = registers.controls, registers.cr3
    if not controls.pg:
        return [(number << 18, 0) for number in range(4)]
    if controls.lme:
        return [(cr3 >> 12, 0)]
    if not controls.pae:
        return [((cr3 & 0xFFFFFFFF) >> 12, number) for number in range(4)]
    return [(frame_of(entry), 0) if entry & P else None for entry in registers.pdptes]


def _below(vm: Vm, memory: Sequence[Any], number: int, level: int, above: Held) -> Iterator[Held]:
    page = vm.mmu.cache.pages[number]
    header = memory[page.header.index]
    assert header is not None, f"sp{number} is linked although it is free"
    assert header.role.level == level, f"sp{number} is linked at level {level}: {header}"
    for index in _present(vm, memory, number):
        spte = memory[page[index].index]
        gva = above.gva | index << 12 + 9 * (level - 1)
        rights = above.rights & spte & (W | U) | (above.rights | spte) & NX
        own = () if header.role.direct else (_gpte(header.gfn, header.role, index),)
        held = Held(gva, spte, rights, (*above.gptes, *own))
        if level == 1:
            yield held._replace(gva=_canonical(gva))
        else:
            child = frame_of(spte) - vm.mmu.cache.pages[0].pfn
            yield from _below(vm, memory, child, level - 1, held)


def _gpte(table: int, role: Role, index: int) -> int:
    """Where a gpte lies: of a 32-bit table, a pde serves two sptes and a quadrant is a part."""
    if role.glevels != 2:
        return table * PAGE + 8 * index
    return table * PAGE + 4 * ((512 * role.quadrant + index) // role.level)


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

    ``emulating``: words whose emulated stores have reached memory, but not the shadow yet. Looked
    at only while mmu_lock is free; gives the number of translations.
    """
    if memory[vm.mmu.lock.index]:
        return 0
    plain = plain_machine(vm, memory)
    compared, wrong = 0, stale_tlb_entries(vm, memory)
    for vcpu in vm.vcpus:
        for held in held_by(vm, vcpu, memory):
            if any(word_of(gpa) in emulating for gpa in held.gptes):
                continue
            compared += 1
            if complaint := _complaint(plain, vcpu.number, held):
                wrong.append(f"v{vcpu.number}, gva {held.gva:#x}: {complaint}")
    assert not wrong, "\n".join(wrong[:5])
    return compared


def emulating(run: Run) -> tuple[int, ...]:
    """Words that an emulated store has reached, while the shadow has not followed."""
    assert run.oracles is not None
    for monitor, state in zip(run.oracles.monitors, run.states, strict=True):
        if monitor.name == "audit/spte-agrees":
            return tuple(gpa for _, gpa in state)
    raise AssertionError("the audit of sptes is gone")


def _complaint(plain: PlainMachine, cpu: int, held: Held) -> str:
    """What a processor could do through the shadow that bare metal would not let it do."""
    regs = plain.cpus[cpu]
    for kind in KINDS:
        if not _lets_through(held.rights, kind, regs):
            continue
        # What CR0.WP = 0 gave to the supervisor alone is beyond SMAP: see vmm/mmu/role.py.
        excused = {"ac": True} if not regs.wp and not held.rights & U else {}
        found, marked = plain.probe(cpu, held.gva, kind, **excused)
        if found[0] != "ok":
            return f"{kind} to frame {frame_of(held.spte):#x}, but the guest gets {found}"
        if gfn_of(frame_of(held.spte)) != found[1] >> 12:
            return f"frame {frame_of(held.spte):#x}, but the guest maps {found[1] >> 12:#x}"
        if marked:
            return f"{kind} goes through, although A or D is still to be set"
    return ""


def _lets_through(rights: int, kind: Kind, guest: Registers) -> bool:
    """Whether the processor, which runs the guest with WP and NX on, lets an access through."""
    if (kind.write and not rights & W) or (kind.fetch and rights & NX):
        return False
    if kind.user:
        return bool(rights & U)
    if not (guest.pg and rights & U):
        return True
    return not guest.smep if kind.fetch else not guest.smap or guest.ac


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
