"""The states seen, as 64-bit hashes in an open-addressing table that numpy fills in bulk."""

from __future__ import annotations

import numpy as np

from vmm.search.arrays import Hashes, Ints, Numbers, roomier

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
        """The number of a state plus one; what is negative is a claim, see ``_claim``."""

    @property
    def nbytes(self) -> int:
        """Memory in use."""
        return self.hashes.nbytes + self._table.nbytes

    def nbytes_to_grow(self, more: int) -> int:
        """Memory that is taken besides, for a moment, if ``more`` states do not fit."""
        grows = self.count + more > LOAD_MAX * len(self._table)
        return (
            2 * grows * self._table.nbytes
            + 2 * (self.count + more > len(self.hashes)) * self.hashes.nbytes
        )

    def add(self, hashes: Hashes) -> tuple[Ints, Ints]:
        """Number the states of ``hashes``, which may repeat.

        Gives (the number of each, the position at which each new state occurs first, by number).
        """
        self._make_room(len(hashes))
        before = self.count
        table, mask = self._table, np.uint64(len(self._table) - 1)
        numbers = np.empty(len(hashes), np.intp)
        fresh: list[Ints] = []
        claimed: list[Ints] = []
        left = np.arange(len(hashes))
        slots = (hashes & mask).astype(np.intp)
        sought = hashes
        while left.size:
            found = table[slots]
            empty = np.flatnonzero(found == EMPTY)
            if empty.size:
                won = self._claim(empty, slots, sought)
                fresh.append(left[won])
                claimed.append(slots[won])
                found = table[slots]
            known = self.hashes[found - 1] == sought
            numbers[left[known]] = found[known] - 1
            unknown = np.flatnonzero(~known)
            left, sought = left[unknown], sought[unknown]
            slots = (slots[unknown] + 1) & (len(table) - 1)
        if len(fresh) > 1:
            return self._in_order(before, numbers, np.concatenate(fresh), np.concatenate(claimed))
        return numbers, fresh[0] if fresh else np.empty(0, np.intp)

    def _in_order(self, known: int, numbers: Ints, fresh: Ints, slots: Ints) -> tuple[Ints, Ints]:
        """Number the states from ``known`` on anew, by the place where each occurs first."""
        order = np.argsort(fresh, kind="stable")
        rank = np.empty(len(order), np.intp)
        rank[order] = np.arange(known, self.count)
        new = np.flatnonzero(numbers >= known)
        numbers[new] = rank[numbers[new] - known]
        self.hashes[rank] = self.hashes[known : self.count].copy()
        self._table[slots] = rank + 1
        return numbers, fresh[order]

    def _claim(self, empty: Ints, slots: Ints, sought: Hashes) -> Ints:
        """Give the free slots to the first who want them; gives who got one."""
        wanted = slots[empty]
        # Of several values for one slot the last one stays: so the first comes last.
        self._table[wanted[::-1]] = -1 - empty[::-1]
        won: Ints = empty[self._table[wanted] == -1 - empty]
        first, self.count = self.count, self.count + len(won)
        self.hashes[first : self.count] = sought[won]
        self._table[slots[won]] = np.arange(first + 1, self.count + 1)
        return won

    def _make_room(self, more: int) -> None:
        self.hashes = roomier(self.hashes, self.count + more)
        slots = len(self._table)
        while self.count + more > LOAD_MAX * slots:
            slots *= 2
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
