"""The rule table against the tables and sentences of the SDM, mode by mode."""

from __future__ import annotations

from itertools import product

import pytest

from vmm.bits import NX, PFERR_PRESENT, PFERR_RSVD, PS, A, D, G, P, U, W
from vmm.hw.access import AccessKind
from vmm.hw.paging import (
    FORMATS,
    Controls,
    PagingMode,
    fault_code,
    format_of,
    grants,
    is_canonical,
    is_global,
    is_leaf,
    key_denies,
    page_bytes,
    pdptes_valid,
    protection_key,
    refusal,
    reserved_bits,
    root_base,
    target,
    used,
)

MODES = list(PagingMode)
PAGED = MODES[1:]
BITS = {"P": P, "W": W, "U": U, "NX": NX}
KINDS = [AccessKind(*flags) for flags in product((False, True), repeat=3)]
ENTRIES = [
    sum(bit for bit, chosen in zip(BITS.values(), choice, strict=True) if chosen)
    for choice in product((False, True), repeat=len(BITS))
]

# --- rights ---

# SDM volume 3, 4.6.1, read as demands: (user, write, CR0.WP) needs these bits. A fetch, in
# addition, must not meet NX.
NEEDED = {
    (0, 0, 0): "P",
    (0, 0, 1): "P",
    (0, 1, 0): "P",
    (0, 1, 1): "P W",
    (1, 0, 0): "P U",
    (1, 0, 1): "P U",
    (1, 1, 0): "P U W",
    (1, 1, 1): "P U W",
}


def told(entry: int, kind: AccessKind, wp: bool) -> str:
    """A case by the names of its bits."""
    bits = " ".join(name for name, bit in BITS.items() if entry & bit) or "no bit"
    what = " ".join(name for name, value in zip(kind._fields, kind, strict=True) if value)
    return f"entry with {bits}; access: {what or 'supervisor read'}; CR0.WP={wp:d}"


def allowed(entry: int, kind: AccessKind, wp: bool) -> bool:
    needed = NEEDED[int(kind.user), int(kind.write), int(wp)].split()
    return all(entry & BITS[name] for name in needed) and not (kind.fetch and entry & NX)


def test_every_combination_of_rights_and_access() -> None:
    wrong = [
        told(entry, kind, wp)
        for entry, kind, wp in product(ENTRIES, KINDS, (False, True))
        if (bool(entry & P) and grants(entry, kind, Controls(wp=wp))) != allowed(entry, kind, wp)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_table_covers_every_case() -> None:
    assert len(list(product(ENTRIES, KINDS, (False, True)))) == 256
    assert {key[:2] for key in NEEDED} == {(int(k.user), int(k.write)) for k in KINDS}


def test_other_bits_of_an_entry_grant_nothing() -> None:
    others = ~(P | W | U | NX) & (1 << 64) - 1
    for entry, kind, wp in product(ENTRIES, KINDS, (False, True)):
        controls = Controls(wp=wp)
        assert grants(entry | others, kind, controls) == grants(entry, kind, controls)


@pytest.mark.parametrize("on", [False, True])
def test_smep_keeps_the_supervisor_from_fetching_user_pages(on: bool) -> None:
    controls = Controls(smep=on)
    assert grants(U, AccessKind(fetch=True), controls) is not on
    assert grants(W, AccessKind(fetch=True), controls), "its own pages"
    assert grants(U, AccessKind(fetch=True, user=True), controls), "the user's own"
    assert grants(U, AccessKind(), controls), "data is SMAP's business"


@pytest.mark.parametrize(
    ("ac", "implicit", "through"),
    [(False, False, False), (False, True, False), (True, False, True), (True, True, False)],
)
def test_smap_is_lifted_by_ac_for_explicit_accesses(
    ac: bool, implicit: bool, through: bool
) -> None:
    controls = Controls(smap=True, ac=ac)
    for write in (False, True):
        kind = AccessKind(write=write, implicit=implicit)
        assert grants(U | W, kind, controls) is through
        assert grants(W, kind, controls), "supervisor pages are not concerned"
    assert grants(U, AccessKind(fetch=True), controls), "nor are fetches"
    assert grants(U, AccessKind(user=True), controls), "nor is the user"


def test_protection_keys_concern_data_of_user_pages_in_long_mode_only() -> None:
    no_access, no_write = 1 << 2 * 5, 2 << 2 * 5
    write = AccessKind(write=True)
    for mode, pkru in product(PAGED, (no_access, no_write, no_access | no_write)):
        controls = Controls.of(mode, pke=True, pkru=pkru)
        long_mode = mode in (PagingMode.LEVEL4, PagingMode.LEVEL5)
        assert key_denies(U | W, 5, write, controls) is long_mode
        assert key_denies(U, 5, AccessKind(), controls) is (long_mode and bool(pkru & no_access))
        assert not key_denies(W, 5, write, controls), "a supervisor page"
        assert not key_denies(U, 4, write, controls), "another key"
        assert not key_denies(U, 5, AccessKind(fetch=True), controls)
        assert not key_denies(U, 5, write, controls._replace(pke=False))
        assert protection_key(5 << 59, controls) == (5 if long_mode else 0)
    lax = Controls(pke=True, pkru=no_write, wp=False)
    assert not key_denies(U, 5, write, lax), "the supervisor without CR0.WP"
    assert key_denies(U, 5, AccessKind(write=True, user=True), lax)


# --- error codes ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("why", [0, PFERR_PRESENT, PFERR_PRESENT | PFERR_RSVD])
def test_error_code_says_what_was_tried(kind: AccessKind, why: int) -> None:
    code = fault_code(kind, Controls(), why)
    assert [bool(code & 1 << bit) for bit in range(5)] == [
        bool(why & 1),
        kind.write,
        kind.user,
        bool(why & 8),
        kind.fetch,
    ]
    assert code < 1 << 5


def test_a_fetch_is_told_apart_under_nx_or_smep_only() -> None:
    for mode, nxe, smep in product(PAGED, (False, True), (False, True)):
        code = fault_code(AccessKind(fetch=True), Controls.of(mode, nxe=nxe, smep=smep), 0)
        assert code == (16 if smep or (nxe and mode is not PagingMode.BITS32) else 0)


def test_the_key_is_blamed_whatever_else_denies() -> None:
    controls = Controls(pke=True, pkru=1 << 2 * 3)
    write = AccessKind(write=True, user=True)
    assert refusal(U, 3 << 59, write, controls) == 1 | 2 | 4 | 32
    assert refusal(U | W, 3 << 59, write, controls) == 1 | 2 | 4 | 32
    assert refusal(U, 2 << 59, write, controls) == 1 | 2 | 4
    assert refusal(U | W, 2 << 59, write, controls) is None


# --- modes and their tables ---


def test_controls_select_the_mode() -> None:
    assert [Controls.of(mode).mode for mode in MODES] == MODES
    assert Controls().mode is PagingMode.LEVEL4
    assert not Controls.of(PagingMode.BITS32, la57=True).long_mode
    assert Controls.of(PagingMode.PAE, la57=True).mode is PagingMode.PAE


@pytest.mark.parametrize("mode", PAGED)
def test_the_indexes_and_the_offset_make_up_the_address(mode: PagingMode) -> None:
    form = FORMATS[mode]
    low = 12
    for number in range(1, form.root_level + 1):
        level = form.level(number)
        assert level.number == number
        assert level.shift == low
        assert page_bytes(number, Controls.of(mode)) == 1 << low
        assert list(form.path(1 << low))[-number] == (number, 1)
        if not (form.pdptes and number == 3):
            assert form.entry_bytes << level.bits == 4096, "a table fills a page"
        low += level.bits
    assert low == form.linear_bits


def test_where_a_page_may_be_large() -> None:
    large = {
        (mode, level)
        for mode, level in product(PAGED, range(2, 6))
        if level <= FORMATS[mode].root_level and is_leaf(PS, level, Controls.of(mode, pse=True))
    }
    assert large == {
        (PagingMode.BITS32, 2),
        (PagingMode.PAE, 2),
        (PagingMode.LEVEL4, 2),
        (PagingMode.LEVEL4, 3),
        (PagingMode.LEVEL5, 2),
        (PagingMode.LEVEL5, 3),
    }
    assert not is_leaf(PS, 2, Controls.of(PagingMode.BITS32, pse=False)), "PS is ignored"
    assert is_leaf(PS, 2, Controls.of(PagingMode.PAE, pse=False)), "CR4.PSE is of 32-bit paging"
    assert all(is_leaf(0, 1, Controls.of(mode)) for mode in PAGED)


def span(high: int, low: int) -> int:
    return sum(1 << bit for bit in range(low, high + 1))


L4, L5, PAE, BITS32 = (
    PagingMode.LEVEL4,
    PagingMode.LEVEL5,
    PagingMode.PAE,
    PagingMode.BITS32,
)


@pytest.mark.parametrize(
    ("level", "leaf", "controls", "reserved"),
    [
        # SDM tables 4-4 to 4-6
        (1, True, Controls.of(BITS32, pse=True), 0),
        (2, False, Controls.of(BITS32, pse=True), 0),
        (2, True, Controls.of(BITS32, pse=True, maxphyaddr=52), span(21, 21)),
        (2, True, Controls.of(BITS32, pse=True, maxphyaddr=40), span(21, 21)),
        (2, True, Controls.of(BITS32, pse=True, maxphyaddr=36), span(21, 17)),
        (2, True, Controls.of(BITS32, pse=True, maxphyaddr=32), span(21, 13)),
        (2, True, Controls.of(BITS32, pse=True, pse36=False), span(21, 13)),
        # tables 4-8 to 4-11
        (3, False, Controls.of(PAE, maxphyaddr=36), span(2, 1) | span(8, 5) | span(63, 36)),
        (3, False, Controls.of(PAE, maxphyaddr=52), span(2, 1) | span(8, 5) | span(63, 52)),
        (2, False, Controls.of(PAE, maxphyaddr=36), span(62, 36)),
        (2, True, Controls.of(PAE, maxphyaddr=52), span(62, 52) | span(20, 13)),
        (1, True, Controls.of(PAE, maxphyaddr=40, nxe=False), span(63, 40)),
        # tables 4-14 to 4-20
        (5, False, Controls.of(L5), PS),
        (4, False, Controls.of(L4, maxphyaddr=46), span(51, 46) | PS),
        (3, False, Controls.of(L4, maxphyaddr=46), span(51, 46)),
        (3, True, Controls.of(L4, maxphyaddr=46), span(51, 46) | span(29, 13)),
        (3, True, Controls.of(L4, gbpages=False), span(29, 13) | PS),
        (2, False, Controls.of(L4, nxe=False), NX),
        (2, True, Controls.of(L5, maxphyaddr=40), span(51, 40) | span(20, 13)),
        (1, True, Controls.of(L4), 0),
    ],
)
def test_reserved_bits(level: int, leaf: bool, controls: Controls, reserved: int) -> None:
    assert reserved_bits(level, controls, leaf=leaf) == reserved


def test_mov_cr3_checks_the_pdptes_that_are_present() -> None:
    controls = Controls.of(PAE, maxphyaddr=36)
    assert pdptes_valid((0, P | 0x1000, P | 0xE18 | span(35, 12), 0), controls)
    for bit in (1, 2, 5, 6, 7, 8, 36, 62, 63):
        assert not pdptes_valid((0, 0, 0, P | 1 << bit), controls)
        assert pdptes_valid((0, 0, 0, 1 << bit), controls), "not present: nothing is checked"


# --- addresses ---


def test_canonical_addresses() -> None:
    for bits, mode in ((48, L4), (57, L5)):
        controls = Controls.of(mode)
        half = 1 << bits - 1
        for gva, canonical in (
            (0, True),
            (half - 1, True),
            (half, False),
            ((1 << 64) - half - 1, False),
            ((1 << 64) - half, True),
            ((1 << 64) - 1, True),
        ):
            assert is_canonical(gva, controls) is canonical, (mode, hex(gva))
    for mode in (PagingMode.NONE, BITS32, PAE):
        assert is_canonical((1 << 32) - 1, Controls.of(mode))
        assert not is_canonical(1 << 32, Controls.of(mode))


def test_the_root_of_each_mode() -> None:
    cr3 = 0x000F_ABCD_1234_5FE7
    assert root_base(cr3, Controls.of(BITS32)) == 0x1234_5000
    assert root_base(cr3, Controls.of(PAE)) == 0x1234_5FE0, "32-byte aligned"
    assert root_base(cr3, Controls.of(L4)) == 0x000F_ABCD_1234_5000
    assert root_base(cr3, Controls.of(L5)) == 0x000F_ABCD_1234_5000


def test_targets() -> None:
    four_mega = Controls.of(BITS32, pse=True)
    assert target(0x1234_5000 | P, 1, 0x8765_4321, four_mega) == 0x1234_5321
    assert target(0x1240_0000 | PS, 2, 0x8765_4321, four_mega) == 0x1265_4321
    # PSE-36: bits 20:13 are bits 39:32 of the address.
    assert target(0x1240_0000 | 0xAB << 13 | PS, 2, 0x8765_4321, four_mega) == 0xAB_1265_4321
    controls = Controls()
    pat = 1 << 12
    assert target(0x4_0020_0000 | pat | NX, 2, 0x1_2345, controls) == 0x4_0021_2345
    assert target(0x4_4000_0000 | pat, 3, 0xFFFF_8000_2345_6789, controls) == 0x4_6345_6789
    assert target(0x7 << 59 | 0x5000, 1, 0x678, controls) == 0x5678


# --- what a walk leaves behind ---


def test_accessed_at_every_level_dirty_at_a_written_leaf() -> None:
    for kind, leaf in product(KINDS, (False, True)):
        assert used(P, kind, leaf=leaf) == P | A | (D if leaf and kind.write else 0)
    assert format_of(Controls()) is FORMATS[L4]


def test_global_pages_need_pge() -> None:
    assert is_global(G, Controls(pge=True))
    assert not is_global(G, Controls(pge=False))
    assert not is_global(0, Controls(pge=True))
