"""Access-tracked sptes by hand: made, met, restored, dropped."""

from __future__ import annotations

import pytest

from tests.hand import Bench, bench
from vmm.bits import RESERVED, P, W, format_spte, make_entry
from vmm.features import page_flags
from vmm.features.access_tracking import is_tracked, make_tracked
from vmm.features.page_flags import PageFlags
from vmm.hw.events import TlbFlush
from vmm.hw.layout import REGION, page
from vmm.mmu.shadow_page import SpteRef
from vmm.units import Gfn

FRAME = 2
HOST = 1


def machine(mode: str) -> Bench:
    spaces = {"R": {}} if mode == "real" else {"A": {int(REGION): page(FRAME)}}
    return bench(spaces, features=("access-tracking",), mode=mode)


def use(made: Bench, *, write: bool = False) -> None:
    """Access the page, and be out of the guest again."""
    mode = made.hand[made.vcpu.registers].controls.mode.name
    gva = FRAME << 12 if mode == "NONE" else int(REGION)
    made.do(made.guest.store(gva, 1) if write else made.guest.load(gva))
    made.do(made.vm.loop.leave(made.vcpu, "halt"))


def leaf(made: Bench) -> int:
    """The one spte that maps the page."""
    (ref,) = made.hand[made.vm.mmu.rmap.chains[Gfn(FRAME)]]
    return made.spte(*ref)


def flags(made: Bench) -> PageFlags:
    assert isinstance(made.vm.mmu.slots, page_flags.Memslots)
    found: PageFlags = made.hand[made.vm.mmu.slots.flags]
    return found


def age(made: Bench) -> bool:
    return made.do(made.host.age(FRAME), HOST)


def test_a_tracked_spte_gives_no_rights_and_keeps_no_w() -> None:
    spte = make_entry(FRAME, P | W)
    tracked = make_tracked(spte)
    assert is_tracked(tracked)
    assert not is_tracked(spte)
    assert not tracked & W
    assert tracked & ~RESERVED == spte & ~W
    assert format_spte(tracked).startswith("tracked pfn 0x2")


@pytest.mark.parametrize("mode", ["4-level", "real"])
def test_ageing_keeps_the_spte_and_sees_the_next_access(mode: str) -> None:
    made = machine(mode)
    use(made, write=True)
    assert age(made) is True
    assert is_tracked(leaf(made))
    assert flags(made) == PageFlags(dirty=(FRAME,))
    assert age(made) is False
    use(made)
    assert not is_tracked(leaf(made))
    assert age(made) is True


def test_without_paging_it_is_restored_without_the_lock() -> None:
    made = machine("real")
    use(made)
    age(made)
    before = len(made.hand.taken)
    use(made)
    assert not any(op.kind == "acquire" for op in made.hand.taken[before:])


def test_a_tracked_spte_that_goes_tells_nothing_and_owes_nothing() -> None:
    made = machine("4-level")
    use(made)
    age(made)
    before = flags(made)
    flushed = len(made.hand.said(TlbFlush))
    (ref,) = made.hand[made.vm.mmu.rmap.chains[Gfn(FRAME)]]
    replace = made.vm.mmu.set_spte.replace
    made.hand.locked(replace(None, made.vm.mmu.cache.pages[ref.page], ref.index, 0))
    assert flags(made) == before
    assert len(made.hand.said(TlbFlush)) == flushed
    assert made.spte(*SpteRef(*ref)) == 0
    assert made.hand[made.vm.mmu.rmap.chains[Gfn(FRAME)]] == ()
