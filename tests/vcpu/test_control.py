"""Writes to control registers: what is refused, what is latched, what the shadow becomes."""

from __future__ import annotations

import pytest

from tests.hand import Bench, bench
from vmm.bits import A, P, U, W, frame_of, make_entry
from vmm.hw.access import LOAD, GeneralProtection, GuestFault
from vmm.hw.layout import MODES, PAGED_MODES, REGION, Page, page
from vmm.hw.paging import PagingMode
from vmm.mmu.api import NO_PAGE, NO_ROOT
from vmm.mmu.role import root_role
from vmm.units import Gfn, Gva

DATA = REGION
FAR = 3 << 30
ALL_MODES = ("real", *PAGED_MODES)


def machine(mode: str) -> Bench:
    spaces: dict[str, dict[int, Page]] = {"A": {DATA: page(2)}, "B": {DATA: page(3)}}
    return bench(spaces, mode=mode, shadow_pages=32)


def mode_of(made: Bench) -> PagingMode:
    found: PagingMode = made.hand[made.vcpu.registers].controls.mode
    return found


@pytest.mark.parametrize("mode", ALL_MODES)
def test_the_roots_of_each_mode(mode: str) -> None:
    made = machine(mode)
    root = made.do(made.vm.mmu.roots.load(made.vcpu))
    headers = [
        None if number == NO_PAGE else made.hand[made.vm.mmu.cache.pages[number].header]
        for number in root.pages
    ]
    role = root_role(made.hand[made.vcpu.registers].controls)
    match mode:
        case "4-level" | "5-level":
            assert root.level == int(mode[0])
            assert headers == [(made.vm.layout.roots["A"], role)]
        case "pae":
            assert root.level == 2
            assert headers == [(0x12, role), None, None, None], "the PDPT itself is not shadowed"
            assert made.pages(0x11) == []
        case "32-bit":
            assert headers == [(0x12, role._replace(quadrant=n)) for n in range(4)]
        case _:
            assert headers == [(n << 18, role) for n in range(4)]
            assert role.direct


@pytest.mark.parametrize("mode", PAGED_MODES)
def test_a_switch_there_and_back_finds_the_roots_again(mode: str) -> None:
    made = machine(mode)
    root = made.do(made.vm.mmu.roots.load(made.vcpu))
    for space in "BA":
        assert made.do(made.guest.mov_cr3(space)) is None
        again = made.do(made.vm.mmu.roots.load(made.vcpu))
    assert again == root
    counts = [made.hand[p.root_count] for p in made.vm.mmu.cache.pages if p.number in root.pages]
    assert counts == [1] * len(counts)


@pytest.mark.parametrize("mode", ALL_MODES)
def test_loads_and_stores(mode: str) -> None:
    made = machine(mode)
    where = 2 << 12 if mode != "real" else DATA
    assert made.do(made.guest.store(DATA, 77)) is None
    assert made.word(where) == 77
    assert made.do(made.guest.load(DATA)) == 77


@pytest.mark.parametrize("mode", PAGED_MODES)
def test_store_pte_remaps(mode: str) -> None:
    made = machine(mode)
    made.poke(5 << 12, 55)
    made.do(made.guest.load(DATA))
    made.do(made.guest.store_pte(DATA, frame=5))
    made.do(made.guest.invlpg(DATA))
    assert made.do(made.guest.load(DATA)) == 55
    neighbour = made.vm.layout.gpte("A", DATA) + 4
    assert mode != "32-bit" or made.word(neighbour) >> 32 == 0


def refused(answer: object) -> bool:
    return isinstance(answer, GeneralProtection)


def test_what_a_processor_refuses_changes_nothing() -> None:
    made = machine("4-level")
    before = made.hand[made.vcpu.registers]
    guest = made.guest
    assert refused(made.do(guest.wrmsr_efer(lme=False))), "LME while paging"
    assert refused(made.do(guest.mov_cr4(pae=False))), "long mode without PAE"
    assert refused(made.do(guest.mov_cr4(la57=True))), "another depth within long mode"
    assert refused(made.do(guest.mov_cr4(pke=True))), "no protection keys on a shadow MMU"
    assert refused(made.do(guest.mov_cr3(1 << 52)))
    assert made.hand[made.vcpu.registers] == before
    assert made.do(guest.mov_cr0(pg=False)) is None
    assert made.do(guest.mov_cr4(pae=False)) is None
    assert refused(made.do(guest.mov_cr0(pg=True))), "LME asks for PAE"
    assert made.do(guest.wrmsr_efer(lme=False)) is None
    assert made.do(guest.mov_cr0(pg=True)) is None
    assert mode_of(made) is PagingMode.BITS32


def test_turning_pae_paging_on_latches_the_pdptes() -> None:
    made = bench(
        {"real": {}, "P": {DATA: page(2)}}, space_modes={"real": "real", "P": "pae"},
        shadow_pages=24,
    )  # fmt: skip
    guest = made.guest
    made.do(guest.mov_cr4(pae=True))
    made.do(guest.mov_cr3("P"))
    place = made.vm.layout.gpte("P", DATA, 3)
    made.poke(place, made.word(place) | W)
    assert refused(made.do(guest.mov_cr0(pg=True))), "W is reserved in a PDPTE"
    assert mode_of(made) is PagingMode.NONE
    made.poke(place, made.word(place) & ~W)
    assert made.do(guest.mov_cr0(pg=True)) is None
    assert made.hand[made.vcpu.registers] == made.vm.layout.registers("P")
    made.poke(place, 0)
    assert made.do(guest.load(DATA)) == 0, "a store to the table has no effect"
    assert made.do(guest.mov_cr3("P")) is None
    assert made.do(guest.load(DATA)) == GuestFault(DATA, 0)


def test_pdptes_may_lie_anywhere_in_a_page() -> None:
    made = machine("pae")
    place = 0x40000 + 0xFE0
    made.poke(place, make_entry(0x16, P))
    assert made.do(made.guest.mov_cr3(place)) is None
    made.poke(3 << 12, 33)
    assert made.do(made.guest.load(DATA)) == 33


def test_the_same_cr3_again_keeps_the_root_unless_the_pdptes_changed() -> None:
    made = machine("pae")
    made.do(made.guest.load(DATA))
    made.do(made.guest.mov_cr3("A"))
    assert made.hand[made.vcpu.root] != NO_ROOT
    made.poke(made.vm.layout.gpte("A", DATA, 3) + 8, make_entry(0x16, P))
    made.do(made.guest.mov_cr3("A"))
    assert made.hand[made.vcpu.root] == NO_ROOT


@pytest.mark.parametrize("index", [0, 512, 513, 1023])
def test_a_32_bit_table_is_shadowed_by_quadrants(index: int) -> None:
    gva = REGION + (index << 12)
    made = bench({"A": {DATA: page(2)}}, mode="32-bit", shadow_pages=24)
    made.do(made.guest.store_pte(gva, frame=9))
    made.poke(9 << 12, 99)
    assert made.do(made.guest.load(gva)) == 99
    ((_, at),) = [ref for ref, spte in made.leaves().items() if frame_of(spte) == 9]
    assert at == index % 512


def test_a_4m_page_is_cleared_from_both_of_its_sptes() -> None:
    made = bench({"A": {DATA: page(2)}}, mode="32-bit", shadow_pages=24)
    pde = made.vm.layout.gpte("A", Gva(0x800000), 2)
    made.do(
        made.guest.store(
            made.guest.window(DATA, level=2) + 4, 0x400000 | 0x80 | P | W | U | A, size=4
        )
    )
    low, high = 0x800000, 0xA00000
    for gva in (low, high):
        assert made.do(made.guest.load(gva)) == 0
    assert pde == made.vm.layout.gpte("A", DATA, 2) + 4
    made.do(made.guest.store(made.guest.window(DATA, level=2) + 4, 0, size=4))
    made.do(made.guest.mov_cr3("A"))
    for gva in (low, high):
        assert made.do(made.guest.load(gva)) == GuestFault(gva, 0)


@pytest.mark.parametrize("mode", PAGED_MODES)
def test_smep_and_smap(mode: str) -> None:
    made = bench({"A": {DATA: page(2)}}, mode=mode, shadow_pages=24)
    guest = made.guest
    assert made.do(guest.fetch(DATA)) == 0
    made.do(guest.mov_cr4(smep=True, smap=True))
    assert made.do(guest.fetch(DATA)) == GuestFault(DATA, 1 | 16)
    assert made.do(guest.load(DATA)) == GuestFault(DATA, 1)
    assert made.do(guest.load(DATA, user=True)) == 0
    made.do(guest.set_ac(True))
    assert made.do(guest.load(DATA)) == 0
    made.do(guest.set_ac(False))
    assert made.do(guest.load(DATA)) == GuestFault(DATA, 1)


def test_smap_forgets_a_page_that_was_written_without_wp() -> None:
    """As in KVM, whose roles do not have AC either; a processor would give #PF."""
    made = bench(
        {"A": {DATA: page(2, writable=False)}}, controls={"wp": False, "smap": True, "ac": True}
    )
    assert made.do(made.guest.store(DATA, 1)) is None
    made.do(made.guest.set_ac(False))
    assert made.do(made.guest.load(DATA)) == 1
    assert made.do(made.guest.load(DATA, user=True)) == 1
    assert made.do(made.guest.load(DATA)) == GuestFault(DATA, 1)


@pytest.mark.parametrize("bits", [{"pge": False}, {"pse": False}, {"smep": True}])
def test_some_bits_of_cr4_load_the_pdptes(bits: dict[str, bool]) -> None:
    made = machine("pae")
    guest, place = made.guest, made.vm.layout.gpte("A", DATA, 3)
    entry = made.word(place)
    made.poke(place, entry | W)
    assert refused(made.do(guest.mov_cr4(**bits))), "W is reserved in a PDPTE"
    assert made.do(guest.load(DATA)) == 0
    made.poke(place, 0)
    assert made.do(guest.mov_cr4(smap=True)) is None
    assert made.do(guest.load(DATA, user=True)) == 0, "SMAP loads none"
    assert made.do(guest.mov_cr4(**bits)) is None
    assert made.do(guest.load(DATA)) == GuestFault(DATA, 0)


def test_a_page_written_without_wp_is_no_code_of_the_supervisor_under_smep() -> None:
    made = bench({"A": {DATA: page(2, writable=False)}}, controls={"wp": False, "smep": True})
    assert made.do(made.guest.store(DATA, 1)) is None
    assert made.do(made.guest.fetch(DATA)) == GuestFault(DATA, 1 | 16)
    assert made.do(made.guest.fetch(DATA, user=True)) == 1


def test_shadows_made_without_wp_are_not_used_with_it() -> None:
    made = bench({"A": {DATA: page(2, writable=False)}}, shadow_pages=24)
    made.do(made.guest.mov_cr0(wp=False))
    assert made.do(made.guest.store(DATA, 1)) is None
    made.do(made.guest.mov_cr0(wp=True))
    assert made.do(made.guest.store(DATA, 2)) == GuestFault(DATA, 3)
    roles = {role.wp for role, _ in made.hand[made.vm.mmu.cache.buckets[Gfn(0x10)]]}
    assert roles == {False, True}


def test_nx_is_reserved_without_nxe() -> None:
    made = bench({"A": {DATA: page(2, no_execute=True)}}, shadow_pages=24)
    assert made.do(made.guest.load(DATA)) == 0
    made.do(made.guest.wrmsr_efer(nxe=False))
    assert made.do(made.guest.load(DATA)) == GuestFault(DATA, 1 | 8)


@pytest.mark.parametrize("mode", ALL_MODES)
def test_a_fault_is_handled_once(mode: str) -> None:
    made = machine(mode)
    made.do(made.vm.mmu.roots.load(made.vcpu))
    made.do(made.vm.mmu.fault.page_fault(made.vcpu, DATA, LOAD))
    walk = made.do(made.vm.mmu.walker.walk(made.vcpu, DATA, LOAD))
    assert not isinstance(walk, GuestFault)
    (spte,) = made.leaves().values()
    assert frame_of(spte) == walk.gfn


def test_names_of_modes_cover_all() -> None:
    assert [MODES[name] for name in ALL_MODES] == list(PagingMode)
