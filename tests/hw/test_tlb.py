"""The TLB, a sorted tuple, against a plain dict."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from vmm.bits import NX, U, W
from vmm.hw import tlb as tlbs
from vmm.hw.tlb import Tlb, TlbEntry, format_tlb

tags = st.builds(tlbs.tag_of, vpid=st.integers(1, 2), pcid=st.sampled_from([0, 1, 0xFFF]))
vpids = st.integers(1, 2)
pages = st.sampled_from([0, 1, 2, 0x400, 1 << 51])
frames = st.integers(0, 5)
rights = st.sampled_from([0, W, U, W | U, NX | U])


class TlbMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.tlb: Tlb = ()
        self.model: dict[tuple[int, int], TlbEntry] = {}

    @rule(tag=tags, page=pages, pfn=frames, granted=rights)
    def fill(self, tag: int, page: int, pfn: int, granted: int) -> None:
        entry = TlbEntry(tag, page, pfn, granted)
        self.tlb = tlbs.fill(self.tlb, entry)
        self.model[tag, page] = entry

    @rule(vpid=vpids, page=pages)
    def invlpg(self, vpid: int, page: int) -> None:
        self.tlb = tlbs.drop_page(self.tlb, vpid, page)
        gone = [key for key in self.model if key[0] & 0xFFFF == vpid and key[1] == page]
        for key in gone:
            del self.model[key]

    @rule(vpid=vpids)
    def flush(self, vpid: int) -> None:
        self.tlb = tlbs.drop_vpid(self.tlb, vpid)
        self.model = {key: e for key, e in self.model.items() if key[0] & 0xFFFF != vpid}

    @rule(tag=tags)
    def flush_pcid(self, tag: int) -> None:
        self.tlb = tlbs.drop_tag(self.tlb, tag)
        self.model = {key: entry for key, entry in self.model.items() if key[0] != tag}

    @rule(tag=tags, page=pages)
    def lookup(self, tag: int, page: int) -> None:
        assert tlbs.lookup(self.tlb, tag, page) == self.model.get((tag, page))

    @invariant()
    def one_form_for_one_content(self) -> None:
        assert self.tlb == tuple(self.model[key] for key in sorted(self.model))


TestTlb = TlbMachine.TestCase


def test_dropping_what_is_not_there_changes_nothing() -> None:
    tlb = tlbs.fill((), TlbEntry(1, 5, 7, W))
    assert tlbs.drop_page(tlb, 1, 6) is tlb
    assert tlbs.drop_page(tlb, 2, 5) is tlb


def test_entries_print_for_readers() -> None:
    assert format_tlb(()) == "empty"
    assert format_tlb((TlbEntry(1, 0x400, 2, W | U | NX),)) == "0x400 -> pfn 0x2 wu"
