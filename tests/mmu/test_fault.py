"""The page fault: what it builds and refuses, and what it does if the guest moves meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hand import Bench, bench
from vmm.bits import NX, PFERR_PRESENT, PFERR_RSVD, PS, A, D, P, U, W, frame_of, make_entry
from vmm.engine.events import Goal
from vmm.engine.ops import Acquire, Op
from vmm.hw.access import LOAD, STORE, AccessKind, GuestFault
from vmm.hw.layout import REGION, Layout, Page, page
from vmm.hw.paging import HOST
from vmm.mmu.api import FaultResult
from vmm.mmu.fault import NO_PT_WRITE
from vmm.mmu.memslots import pfn_of
from vmm.mmu.role import Role, root_role
from vmm.mmu.shadow_page import FIRST_PFN
from vmm.units import Gfn, Gva, entry_gpa, table_index
from vmm.vcpu.requests import TLB_FLUSH
from vmm.vcpu.vcpu import Vcpu

RESUME, EMULATE = FaultResult.RESUME, FaultResult.EMULATE
DATA, OTHER = REGION, Gva(REGION + 0x1000)
OWN_TABLE = Gva(REGION + 0x2000)
USER_STORE = AccessKind(write=True, user=True)
ALL = W | U


def loaded(made: Bench, vcpu: Vcpu | None = None) -> None:
    """Load the root of a vCPU, which a fault finds in place."""
    made.do(made.vm.mmu.roots.load(vcpu or made.vcpu))


def machine(**config: Any) -> Bench:
    spaces: dict[str, dict[int, Page]] = {
        "A": {DATA: page(2), OTHER: page(3, fresh=True), OWN_TABLE: page(0x13)},
        "B": {DATA: page(2, writable=False), OTHER: page(0x13)},
    }
    made = bench(spaces, **{"vcpus": 2, **config})
    for vcpu in made.vm.vcpus:
        loaded(made, vcpu)
    return made


def fault(made: Bench, gva: int, kind: AccessKind = LOAD, vcpu: Vcpu | None = None) -> object:
    return made.do(made.vm.mmu.fault.page_fault(vcpu or made.vcpu, Gva(gva), kind))


def leaf(made: Bench, gva: int, vcpu: Vcpu | None = None) -> int:
    """The leaf spte of a gva in a vCPU's shadow; 0 if some level is missing."""
    number = made.hand[(vcpu or made.vcpu).root].pages[0]
    for level in (4, 3, 2):
        spte = made.spte(number, table_index(Gva(gva), level))
        if not spte & P:
            return 0
        number = frame_of(spte) - made.vm.mmu.cache.pages[0].pfn
    return made.spte(number, table_index(Gva(gva), 1))


def headers(made: Bench) -> list[tuple[int, Role]]:
    cache = made.vm.mmu.cache
    return [tuple(made.hand[cache.pages[number].header]) for number in made.hand[cache.active]]


def goals(made: Bench) -> list[str]:
    return [goal.name for goal in made.hand.said(Goal)]


# --- what a fault builds ---


def test_a_first_fault_shadows_every_table_of_the_walk() -> None:
    made = machine(vcpus=1)
    assert fault(made, DATA, STORE) is RESUME
    assert headers(made) == [
        (0x10, root_role(HOST)),
        (0x11, Role(3, direct=False, access=ALL)),
        (0x12, Role(2, direct=False, access=ALL)),
        (0x13, Role(1, direct=False, access=ALL)),
    ]
    assert frame_of(leaf(made, DATA)) == 2
    assert leaf(made, DATA) & (W | U | NX) == ALL


def test_each_link_has_its_parent_pointer() -> None:
    made = machine(vcpus=1)
    fault(made, DATA)
    cache = made.vm.mmu.cache
    parents = [[tuple(ref) for ref in made.hand[page.parents]] for page in cache.pages[:4]]
    indexes = [table_index(DATA, level) for level in (4, 3, 2)]
    assert parents == [[], [(0, indexes[0])], [(1, indexes[1])], [(2, indexes[2])]]


def test_a_second_fault_finds_the_pages_of_the_first() -> None:
    made = machine()
    fault(made, DATA)
    fault(made, OTHER)
    fault(made, DATA, vcpu=made.vm.vcpus[1])
    assert len(headers(made)) == 4
    assert leaf(made, DATA, made.vm.vcpus[1]) == leaf(made, DATA)


def test_a_clean_page_becomes_writable_with_its_first_store() -> None:
    made = machine()
    gpte = made.vm.layout.gpte("A", OTHER)
    fault(made, OTHER, LOAD)
    assert not leaf(made, OTHER) & W
    assert made.word(gpte) & (A | D) == A
    fault(made, OTHER, STORE)
    assert leaf(made, OTHER) & W
    assert made.word(gpte) & (A | D) == A | D


def test_rights_of_upper_tables_are_in_the_roles() -> None:
    """One leaf table under a writable and a read-only entry: two shadow pages, two rights."""
    made = machine(vcpus=1)
    made.poke(entry_gpa(Gfn(0x12), 3), make_entry(0x13, P | U | A))
    again = Gva(DATA + (1 << 21))
    fault(made, DATA, STORE)
    assert fault(made, again, STORE) == GuestFault(again, 3)
    assert fault(made, again, LOAD) is RESUME
    assert (leaf(made, DATA) & W, leaf(made, again) & W) == (W, 0)
    assert len(made.pages(0x13)) == 2


@pytest.mark.parametrize("frame", [FIRST_PFN, pfn_of(2, 1)])
def test_a_gpte_cannot_name_the_host_s_own_frames(frame: int) -> None:
    """A guest's addresses have 32 bits; two 32-bit gptes read as one may well say more."""
    made = machine(vcpus=1)
    made.poke(made.vm.layout.gpte("A", DATA), make_entry(frame, ALL | P | A | D))
    assert fault(made, DATA) == GuestFault(DATA, PFERR_PRESENT | PFERR_RSVD)
    assert not leaf(made, DATA)


@pytest.mark.parametrize(
    ("flags", "kind", "answer"),
    [
        (P | U | A, STORE, 0b00011),
        (P | W | A, AccessKind(user=True), 0b00101),
        (P | W | U | A | NX, AccessKind(fetch=True), 0b10001),
        (0, USER_STORE, 0b00110),
    ],
)
def test_the_guests_own_faults_come_back_as_values(
    flags: int, kind: AccessKind, answer: int
) -> None:
    made = machine()
    made.poke(made.vm.layout.gpte("A", DATA), make_entry(2, flags))
    assert fault(made, DATA, kind) == GuestFault(DATA, answer)
    assert leaf(made, DATA) == 0


def test_a_supervisor_without_write_protection_writes_what_users_may_only_read() -> None:
    made = machine(vcpus=1, controls={"wp": False})
    made.poke(made.vm.layout.gpte("A", DATA), make_entry(2, P | U | A | D))
    assert fault(made, DATA, STORE) is RESUME
    assert leaf(made, DATA) & ALL == W, "W for the supervisor, and users kept out"
    assert fault(made, DATA, AccessKind(user=True)) is RESUME
    assert leaf(made, DATA) & ALL == U
    assert fault(made, DATA, USER_STORE) == GuestFault(DATA, 7)


# --- writes to guest tables ---


def test_a_shadowed_table_is_mapped_read_only_and_its_stores_are_emulated() -> None:
    made = machine()
    assert fault(made, OWN_TABLE, LOAD) is RESUME
    assert fault(made, OWN_TABLE, STORE) is EMULATE
    assert not leaf(made, OWN_TABLE) & W


def test_shadowing_a_table_takes_its_writable_mappings_away() -> None:
    made = machine()
    second = made.vm.vcpus[1]
    made.hand[second.registers] = made.vm.layout.registers("B")
    made.do(made.vm.mmu.roots.free(second))
    loaded(made, second)
    assert fault(made, OTHER, STORE, second) is RESUME
    assert leaf(made, OTHER, second) & W
    made.hand[second.requests] = 0
    fault(made, DATA)
    assert not leaf(made, OTHER, second) & W
    assert made.hand[second.requests] & TLB_FLUSH
    assert "mapped table write-protected" in goals(made)
    assert fault(made, OTHER, STORE, second) is EMULATE


def test_a_user_store_says_that_a_frame_is_no_table_any_more() -> None:
    made = machine()
    second = made.vm.vcpus[1]
    fault(made, DATA)
    made.do(made.vm.mmu.roots.free(second))
    made.hand[second.registers] = made.vm.layout.registers("B")
    loaded(made, second)
    assert fault(made, OTHER, USER_STORE, second) is RESUME
    assert made.pages(0x13) == []
    assert fault(made, OTHER, USER_STORE, second) is RESUME
    assert leaf(made, OTHER, second) & W


def test_a_user_store_to_the_table_that_maps_it_is_emulated() -> None:
    made = machine()
    assert fault(made, OWN_TABLE, USER_STORE) is EMULATE
    assert made.pages(0x13) != []


def test_a_user_store_to_a_root_in_use_is_emulated() -> None:
    made = machine()
    second = made.vm.vcpus[1]
    made.do(made.vm.mmu.roots.free(second))
    made.hand[second.registers] = made.vm.layout.registers("B")
    loaded(made, second)
    made.poke(made.vm.layout.gpte("A", DATA), make_entry(0x14, P | W | U | A | D))
    assert fault(made, DATA, USER_STORE) is EMULATE
    assert len(made.pages(0x14)) == 1


# --- the guest changes its tables meanwhile ---


def is_acquire(op: Op) -> bool:
    return isinstance(op, Acquire)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_nothing_is_installed_from_an_entry_that_has_changed(level: int) -> None:
    made = machine()
    gpte = made.vm.layout.gpte("A", DATA, level)
    doing = made.hand.start(made.vm.mmu.fault.page_fault(made.vcpu, DATA, LOAD))
    doing.until(is_acquire)
    made.poke(gpte, made.word(gpte) & ~U)
    assert doing.finish() is RESUME
    assert "fault retried" in goals(made)
    assert leaf(made, DATA) == 0
    assert fault(made, DATA) is RESUME
    assert leaf(made, DATA) & U == 0, "the second try takes the entry as it is now"


def test_an_entry_that_gained_dirty_meanwhile_is_another_entry() -> None:
    made = machine()
    doing = made.hand.start(made.vm.mmu.fault.page_fault(made.vcpu, OTHER, LOAD))
    doing.until(is_acquire)
    assert fault(made, OTHER, STORE, made.vm.vcpus[1]) is RESUME
    doing.finish()
    assert leaf(made, OTHER) & W, "the slower vCPU must not take W away again"


def test_a_child_of_another_table_is_dropped() -> None:
    """The table's entry was rewritten by a store whose emulation has not reached the shadow yet."""
    made = machine()
    fault(made, DATA)
    old = made.pages(0x13)[0]
    for vcpu in made.vm.vcpus:
        made.hand[vcpu.requests] = 0
    made.poke(made.vm.layout.gpte("A", DATA, 2), make_entry(0x17, P | W | U | A))
    assert fault(made, DATA) is RESUME
    assert frame_of(leaf(made, DATA)) == 2
    assert not leaf(made, DATA) & W, "space B maps it read-only"
    assert "wrong child dropped" in goals(made)
    assert made.hand[made.vm.mmu.cache.pages[old].parents] == ()
    assert made.hand[made.vm.vcpus[1].requests] & TLB_FLUSH, "walks may be under way to it"


# --- large pages ---


def large(flags: int, frame: int = 0x400) -> Layout:
    content: dict[int, int] = {
        entry_gpa(Gfn(0x10), 0): make_entry(0x11, P | W | U | A),
        entry_gpa(Gfn(0x11), 0): make_entry(0x12, P | W | U | A),
        entry_gpa(Gfn(0x12), 0): make_entry(frame, P | W | U | A | PS | flags),
        entry_gpa(Gfn(0x12), 1): make_entry(frame, P | W | U | A | PS | flags | D),
    }
    return Layout({"A": Gfn(0x10)}, {Gfn(0x10 + n): 8 for n in range(3)}, content)


def test_a_large_page_is_mapped_by_small_ones() -> None:
    made = bench(tables=large(D))
    loaded(made)
    for number in (0, 5, 511):
        assert fault(made, number << 12, STORE) is RESUME
        assert frame_of(leaf(made, number << 12)) == 0x400 + number
    assert headers(made)[3:] == [(0x400, Role(1, direct=True, access=ALL))]


def test_the_pat_bit_of_a_large_page_is_no_part_of_its_frame() -> None:
    made = bench(tables=large(D, frame=0x401))
    loaded(made)
    fault(made, 0x7000)
    assert frame_of(leaf(made, 0x7000)) == 0x407


def test_the_guest_faults_on_a_large_page_with_reserved_bits() -> None:
    made = bench(tables=large(D, frame=0x403))
    loaded(made)
    assert fault(made, 0x7000) == GuestFault(0x7000, 1 | 8)
    assert leaf(made, 0x7000) == 0


def test_clean_and_dirty_large_pages_share_no_direct_page() -> None:
    made = bench(tables=large(0))
    loaded(made)
    fault(made, 1 << 21, STORE)
    fault(made, 0, LOAD)
    assert [role.access for _, role in headers(made)[3:]] == [ALL, U]
    assert leaf(made, 0) & W == 0
    fault(made, 0x1000, STORE)
    assert made.word(entry_gpa(Gfn(0x12), 0)) & D
    assert leaf(made, 0x1000) & W


def test_a_table_inside_a_large_page_is_write_protected() -> None:
    made = bench(tables=large(D, frame=0))
    loaded(made)
    assert fault(made, 0x12000, STORE) is EMULATE
    assert fault(made, 0x13000, STORE) is RESUME


# --- around the fault ---


@pytest.mark.parametrize(
    ("gva", "kind", "forgets"),
    [(DATA, LOAD, True), (OWN_TABLE, STORE, False), (REGION + 0x9000, LOAD, True)],
)
def test_demand_paging_ends_a_row_of_table_writes(
    gva: int, kind: AccessKind, forgets: bool
) -> None:
    made = machine()
    made.hand[made.vcpu.last_pt_write] = row = NO_PT_WRITE._replace(gfn=0x13, writes=2)
    fault(made, gva, kind)
    assert made.hand[made.vcpu.last_pt_write] == (NO_PT_WRITE if forgets else row)


def test_a_fault_frees_pages_before_it_needs_them() -> None:
    made = machine(vcpus=1, shadow_pages=5, min_free=4, refill=4)
    fault(made, DATA)
    fault(made, OTHER)
    assert goals(made).count("pages recycled") == 1
    assert leaf(made, OTHER) & P
    assert leaf(made, DATA) == 0
