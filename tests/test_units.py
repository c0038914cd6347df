"""Sorted numbers, against sets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vmm.units import has_number, with_number, without_number

numbers = st.integers(0, 12)


@given(st.frozensets(numbers), numbers)
def test_sorted_numbers_are_sets(held: frozenset[int], number: int) -> None:
    made = tuple(sorted(held))
    assert has_number(made, number) == (number in held)
    assert with_number(made, number) == tuple(sorted(held | {number}))
    assert without_number(made, number) == tuple(sorted(held - {number}))
