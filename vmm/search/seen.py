"""The states seen, as 64-bit hashes in an open-addressing table that numpy fills in bulk."""

from __future__ import annotations

import numpy as np

from vmm.search.arrays import Hashes, Ints, Numbers, more_slots, roomier

EMPTY = 0
LOAD_MAX = 0.5
"""Longer chains of probes cost more than the room that they save: 8 bytes a state at least."""

BLOCK = 1 << 16
"""States that move to a larger table at once."""


class SeenStates:
    """Numbers states by first arrival: 0, 1, 2 ... Equal hashes are taken for equal states."""

    def __init__(self, room: int = 1 << 12) -> None:
        self.count = 0
        self.hashes: Hashes = np.zeros(room, np.uint64)
        self._table: Numbers = np.zeros(room, np.int32)
        """The number of a state plus one."""

    @property
    def nbytes(self) -> int:
        """Memory in use."""
        return self.hashes.nbytes + self._table.nbytes

    def nbytes_to_grow(self, more: int) -> int:
        """Memory that is taken besides, for a moment, if ``more`` states do not fit."""
        grows = self.count + more > LOAD_MAX * len(self._table)
        return (
            4 * grows * self._table.nbytes
            + 2 * (self.count + more > len(self.hashes)) * self.hashes.nbytes
        )

    def add(self, hashes: Hashes) -> tuple[Numbers, Ints]:
        """Number the states of ``hashes``, which may repeat.

        Gives (the number of each, the position at which each new state occurs first, by number).
        """
        size, known = len(hashes), self.count
        self._make_room(size)
        table, mask = self._table, np.uint64(len(self._table) - 1)
        # Until it is known which ones are new, each position of the batch stands for a state.
        self.hashes[known : known + size] = hashes
        slots = (hashes & mask).view(np.intp)
        found = self._claimed(np.arange(size), slots)
        left = np.flatnonzero(self.hashes.take(found) != hashes)
        while left.size:
            slots[left] = (slots[left] + 1) & (len(table) - 1)
            found[left] = self._claimed(left, slots[left])
            left = left[self.hashes.take(found[left]) != hashes[left]]
        fresh = np.flatnonzero(found == np.arange(known, known + size, dtype=np.int32))
        self.count = known + len(fresh)
        self.hashes[known : self.count] = hashes[fresh]
        table[slots[fresh]] = np.arange(known + 1, self.count + 1)
        numbers = np.empty(size, np.int32)
        numbers[fresh] = np.arange(known, self.count)
        new = np.flatnonzero(found >= known)
        found[new] = numbers[found[new] - known]
        return found, fresh

    def _claimed(self, positions: Ints, slots: Ints) -> Numbers:
        """The states in the slots; the first to want a free one puts its position there."""
        found = self._table.take(slots)
        empty = np.flatnonzero(found == EMPTY)
        if empty.size:
            wanted = slots[empty]
            # Of several values for one slot the last one stays: so the first comes last.
            self._table[wanted[::-1]] = (self.count + 1 + positions[empty])[::-1]
            found[empty] = self._table.take(wanted)
        found -= 1
        return found

    def _make_room(self, more: int) -> None:
        self.hashes = roomier(self.hashes, self.count + more)
        slots = more_slots(len(self._table), (self.count + more) / LOAD_MAX)
        if slots != len(self._table):
            self._table = np.zeros(slots, np.int32)
            for first in range(0, self.count, BLOCK):
                self._place(np.arange(first, min(first + BLOCK, self.count)))

    def _place(self, numbers: Ints) -> None:
        """Enter states that are all different and not in the table."""
        mask = np.uint64(len(self._table) - 1)
        slots = (self.hashes[numbers] & mask).astype(np.intp)
        while numbers.size:
            free = np.flatnonzero(self._table[slots] == EMPTY)
            self._table[slots[free]] = numbers[free] + 1
            left = np.flatnonzero(self._table[slots] != numbers + 1)
            numbers = numbers[left]
            slots = (slots[left] + 1) & (len(self._table) - 1)
