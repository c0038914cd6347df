"""Growing numpy arrays, and the small helpers that the searches share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.signedinteger[Any]]
Numbers = npt.NDArray[np.int32]
"""What is kept of each state or step, so that it takes no more room than it must."""
Words = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]
Matrix = npt.NDArray[Any]
"""A row of small unsigned ints for each state."""

LARGE = 1 << 22
"""A hash table with so many slots is no small one."""

A = TypeVar("A", bound=npt.NDArray[Any])


def roomier(array: A, size: int) -> A:
    """``array`` if it has room for ``size`` items, else a copy that has, at least doubled."""
    if size <= len(array):
        return array
    bigger = np.zeros(max(size, 2 * len(array)), array.dtype)
    bigger[: len(array)] = array
    return bigger  # type: ignore[return-value]


def more_slots(slots: int, least: float) -> int:
    """So many slots, a power of two of them, for a hash table that needs more than it has.

    Small tables grow by more, since entering all states anew takes time.
    """
    while slots < least:
        slots *= 4 if slots < LARGE else 2
    return slots


def appended(array: A, size: int, items: Sequence[int]) -> A:
    """``array`` with ``items`` put at ``size``; the caller counts."""
    array = roomier(array, size + len(items))
    array[size : size + len(items)] = items
    return array


def smallest_type(largest: int) -> npt.DTypeLike:
    """The narrowest unsigned type that holds ``largest``."""
    return np.min_scalar_type(largest)


def stacked(parts: Sequence[Matrix], width: int, kind: npt.DTypeLike) -> Matrix:
    """One matrix of rows that were built one after the other, some without the last columns."""
    whole = np.zeros((sum(map(len, parts)), width), kind)
    first = 0
    for part in parts:
        whole[first : first + len(part), : part.shape[1]] = part
        first += len(part)
    return whole


class Rows:
    """Some states, one row each: a matrix and the same cells as one flat array.

    Rows get wider when cells are first written while they are in use: a new column is all zero,
    the number of the initial value.
    """

    __slots__ = ("flat", "matrix", "width")

    def __init__(self, matrix: Matrix, width: int) -> None:
        self.matrix = matrix
        self.flat = matrix.reshape(-1)
        self.width = matrix.shape[1]
        self.widen(width)

    def __len__(self) -> int:
        return len(self.matrix)

    def widen(self, width: int) -> None:
        """Make room for ``width`` columns."""
        if width > self.width:
            matrix = np.zeros((len(self.matrix), width), self.matrix.dtype)
            matrix[:, : self.width] = self.matrix
            self.matrix, self.flat, self.width = matrix, matrix.reshape(-1), width
