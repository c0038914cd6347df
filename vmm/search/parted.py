"""The states seen, in hash tables that compiled loops fill: one for each job.

A state belongs to the table of its part, which the upper bits of its hash tell. A slot holds a
word: 31 bits of the hash, then the number of the state plus one. So hardly any look at a slot that
holds another state leads to a look at the hash of that, which is elsewhere in memory. The word 0 is
an empty slot; a negative one is a claim, minus one minus a place in the batch that is numbered.

Numbers go by first arrival whoever finds a state, so first all jobs look up the states of their
parts and claim slots for new ones; then these are numbered in their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmm.search.arrays import Hashes, Ints, Numbers, Words, more_slots, roomier

if TYPE_CHECKING:
    from vmm.search.compiled import Loops

LOAD_MAX = 0.6
"""More makes for long chains of slots that are looked at; less takes room."""

SLOTS_MIN = 1 << 12
"""Of each table: so many that no part gets far more states than another."""


class PartedStates:
    """Numbers states as ``SeenStates`` does, and goes on where one has come to."""

    def __init__(self, loops: Loops, hashes: Hashes, count: int) -> None:
        self.count = count
        self.hashes = hashes
        self._loops = loops
        self._tables: Words = np.zeros((loops.jobs, 0), np.int64)
        self._make_room(0)

    @property
    def nbytes(self) -> int:
        """Memory in use."""
        return self.hashes.nbytes + self._tables.nbytes

    def nbytes_to_grow(self, more: int) -> int:
        """Memory that is taken besides, for a moment, if ``more`` states do not fit."""
        grows = self.count + more > LOAD_MAX * self._tables.size
        return (
            4 * grows * self._tables.nbytes
            + 2 * (self.count + more > len(self.hashes)) * self.hashes.nbytes
        )

    def add(self, hashes: Hashes) -> tuple[Numbers, Ints]:
        """Number the states of ``hashes``, which may repeat; see ``SeenStates``."""
        self._make_room(len(hashes))
        known, words = self.count, hashes.view(np.int64)
        old = self.hashes.view(np.int64)
        numbers, slots = np.empty(len(hashes), np.int32), np.empty(len(hashes), np.intp)

        def claim(part: int) -> int:
            count: int = self._loops.claim(words, old, self._tables, part, known, numbers, slots)
            return count

        self.count = self._loops.share(claim, range(len(self._tables)))[0]
        if len(self._tables) > 1:
            self.count = self._loops.settle(words, self._tables, known, numbers, slots)
        fresh = slots[: self.count - known]
        self.hashes[known : self.count] = hashes[fresh]
        return numbers, fresh

    def _make_room(self, more: int) -> None:
        self.hashes = roomier(self.hashes, self.count + more)
        parts, before = self._tables.shape
        slots = more_slots(max(before, SLOTS_MIN), (self.count + more) / LOAD_MAX / parts)
        if slots == before:
            return
        self._tables = np.zeros((0, 0), np.int64)  # the old ones go first
        self._tables = np.zeros((parts, slots), np.int64)

        words = self.hashes[: self.count].view(np.int64)

        def place(part: int) -> None:
            self._loops.place(words, self._tables, part)

        self._loops.share(place, range(parts))
