"""Leaf sptes: what they grant, and what replacing one asks for."""

from __future__ import annotations

from itertools import product

import pytest

from tests.hand import Bench, bench
from vmm.bits import NX, A, D, P, U, W, format_spte, frame_of, make_entry
from vmm.hw.access import AccessKind
from vmm.hw.paging import HOST, grants
from vmm.mmu.memslots import gfn_of, pfn_of
from vmm.mmu.role import Role
from vmm.mmu.shadow_page import SpteRef
from vmm.mmu.spte import loses_rights, make_leaf, make_link
from vmm.units import Gfn, Pfn
from vmm.vcpu.requests import TLB_FLUSH

KINDS = [AccessKind(*flags) for flags in product((False, True), repeat=3)]
SPTES = [0] + [
    make_entry(frame, P | A | D | w | u | nx)
    for frame, w, u, nx in product((2, 3), (0, W), (0, U), (0, NX))
]


def reaches(spte: int, kind: AccessKind) -> int | None:
    """The frame that an access gets to."""
    return frame_of(spte) if spte & P and grants(spte, kind, HOST) else None


@pytest.mark.parametrize("old", SPTES, ids=format_spte)
def test_rights_are_lost_if_some_access_ends_elsewhere(old: int) -> None:
    for new in SPTES:
        lost = [kind for kind in KINDS if reaches(old, kind) not in (None, reaches(new, kind))]
        assert loses_rights(old, new) == bool(lost), f"{format_spte(old)} to {format_spte(new)}"


@pytest.mark.parametrize("rights", [0, U, W, W | U, NX, U | NX, W | U | NX])
def test_a_leaf_is_writable_only_if_told_so(rights: int) -> None:
    for writable in (False, True):
        spte = make_leaf(Pfn(5), rights, writable=writable)
        assert frame_of(spte) == 5
        assert spte & (P | A | D) == P | A | D
        assert spte & (W | U | NX) == rights & (U | NX) | (W if writable else 0)


def test_a_link_takes_no_right_away() -> None:
    assert make_link(Pfn(7)) & (P | W | U | NX) == P | W | U


def test_generations_are_frames_of_their_own() -> None:
    assert pfn_of(5, 0) == 5
    assert len({pfn_of(gfn, generation) for gfn in range(3) for generation in range(3)}) == 9
    assert gfn_of(pfn_of(5, 3)) == 5


# --- install and replace ---


class Leaf:
    """One leaf table, entry 3 of which is set."""

    def __init__(self) -> None:
        self.bench: Bench = bench(vcpus=2)
        cache = self.bench.vm.mmu.cache
        role = Role(1, direct=False, access=W | U)
        self.page = self.bench.hand.locked(cache.insert(Gfn(0x13), role))

    @property
    def spte(self) -> int:
        return self.bench.spte(self.page.number, 3)

    def rmap(self, gfn: int) -> tuple[SpteRef, ...]:
        found: tuple[SpteRef, ...] = self.bench.hand[self.bench.vm.mmu.rmap.chains[Gfn(gfn)]]
        return found

    def install(self, frame: int, rights: int, *, dirty: bool = True) -> bool:
        mmu = self.bench.vm.mmu
        return self.bench.hand.locked(
            mmu.set_spte.install(
                self.bench.vcpu, self.page, 3, pfn=Pfn(frame), rights=rights, dirty=dirty
            )
        )

    def flushed(self) -> bool:
        """Whether the other vCPU was told to flush since the last question."""
        requests = self.bench.vm.vcpus[1].requests
        asked = bool(self.bench.hand[requests] & TLB_FLUSH)
        self.bench.hand[requests] = 0
        return asked


def test_a_clean_page_is_mapped_read_only() -> None:
    leaf = Leaf()
    leaf.install(2, W | U, dirty=False)
    assert leaf.spte == make_leaf(Pfn(2), U, writable=False)
    leaf.install(2, W | U, dirty=True)
    assert leaf.spte == make_leaf(Pfn(2), U, writable=True)
    assert not leaf.flushed(), "nothing was lost"


def test_a_shadowed_frame_is_mapped_read_only() -> None:
    leaf = Leaf()
    assert leaf.install(0x13, W | U) is True
    assert not leaf.spte & W
    assert leaf.install(0x13, U) is False, "nobody asked for W"
    assert leaf.install(2, W | U) is False


def test_a_direct_page_of_a_frame_protects_nothing() -> None:
    leaf = Leaf()
    cache = leaf.bench.vm.mmu.cache
    leaf.bench.hand.locked(cache.insert(Gfn(9), Role(1, direct=True, access=W | U)))
    assert leaf.install(9, W | U) is False
    assert leaf.spte & W


@pytest.mark.parametrize("old", SPTES, ids=format_spte)
def test_replacing_keeps_the_rmap_exact_and_flushes_what_is_owed(old: int) -> None:
    leaf = Leaf()
    mmu, ref = leaf.bench.vm.mmu, SpteRef(leaf.page.number, 3)
    for new in SPTES:
        for spte in (old, new):
            leaf.flushed()
            leaf.bench.hand.locked(mmu.set_spte.replace(leaf.bench.vcpu, leaf.page, 3, spte))
        assert leaf.spte == new
        for frame in (2, 3):
            mapped = new & P and frame_of(new) == frame
            assert leaf.rmap(frame) == ((ref,) if mapped else ())
        assert leaf.flushed() == loses_rights(old, new)
        assert leaf.bench.hand[leaf.page.present] == ((3,) if new & P else ())


def test_the_spte_changes_before_the_flush() -> None:
    """KVM 88a97f0b2f: the other way round a TLB may fill from the old spte after its flush."""
    leaf = Leaf()
    leaf.install(2, W | U)
    hand = leaf.bench.hand
    taken = len(hand.taken)
    leaf.install(3, W | U)
    cells = [[cell.name for cell in op.written] for op in hand.taken[taken:]]
    spte = next(
        n for n, names in enumerate(cells) if f"spte {SpteRef(leaf.page.number, 3)}" in names
    )
    flush = next(n for n, names in enumerate(cells) if "requests1" in names)
    assert spte < flush
