"""Which accesses a translation permits, and the error code of the others."""

from __future__ import annotations

from itertools import product

import pytest

from vmm.bits import NX, P, U, W
from vmm.hw.access import AccessKind, error_code, permits

BITS = {"P": P, "W": W, "U": U, "NX": NX}

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


def told(entry: int, kind: AccessKind, write_protect: bool) -> str:
    """A case by the names of its bits."""
    bits = " ".join(name for name, bit in BITS.items() if entry & bit) or "no bit"
    what = " ".join(name for name, value in zip(kind._fields, kind, strict=True) if value)
    return f"entry with {bits}; access: {what or 'supervisor read'}; CR0.WP={write_protect:d}"


def allowed(entry: int, kind: AccessKind, write_protect: bool) -> bool:
    needed = NEEDED[int(kind.user), int(kind.write), int(write_protect)].split()
    return all(entry & BITS[name] for name in needed) and not (kind.fetch and entry & NX)


KINDS = [AccessKind(*flags) for flags in product((False, True), repeat=3)]
ENTRIES = [
    sum(bit for bit, chosen in zip(BITS.values(), choice, strict=True) if chosen)
    for choice in product((False, True), repeat=len(BITS))
]


def test_every_combination_of_rights_and_access() -> None:
    wrong = [
        told(entry, kind, wp)
        for entry, kind, wp in product(ENTRIES, KINDS, (False, True))
        if (bool(entry & P) and permits(entry, kind, write_protect=wp)) != allowed(entry, kind, wp)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_table_covers_every_case() -> None:
    assert len(list(product(ENTRIES, KINDS, (False, True)))) == 256
    assert {key[:2] for key in NEEDED} == {(int(k.user), int(k.write)) for k in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("present", [False, True])
def test_error_code_says_what_was_tried(kind: AccessKind, present: bool) -> None:
    code = error_code(kind, present=present)
    assert [bool(code & 1 << bit) for bit in range(5)] == [
        present,
        kind.write,
        kind.user,
        False,  # reserved bits are not modeled
        kind.fetch,
    ]
    assert code < 1 << 5


def test_other_bits_of_an_entry_do_not_matter() -> None:
    others = ~(P | W | U | NX) & (1 << 64) - 1
    for entry, kind, wp in product(ENTRIES, KINDS, (False, True)):
        assert permits(entry | others, kind, write_protect=wp) == permits(
            entry, kind, write_protect=wp
        ), told(entry, kind, wp)
