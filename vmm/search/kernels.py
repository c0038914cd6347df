"""The inner loops of the exhaustive search, in the part of Python that numba compiles.

Nothing here imports numba: ``compiled`` does that, once it is worth it. As plain Python the same
functions run slowly and check their indices, which is how the tests look at them.

What they do is said by what they stand in for: ``forest`` for the trees, ``plain`` for the order of
the moves, ``seen`` for the hash table. They never learn: at an input that they do not
know they hand back where they stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmm.search.arrays import Hashes, Ints, Matrix, Numbers, Words
from vmm.search.forest import UNKNOWN
from vmm.search.moves import NONE

if TYPE_CHECKING:
    from vmm.search.plain import Onward

_GAP = -1 - UNKNOWN
_NONE = -1 - NONE

GOING, ALWAYS, MOVED, RESTING = range(4)
"""When a task is asked: while a foreground task runs; always; if the state does not end the run;
if it does not and no foreground task runs. The last two come after the first two."""

UPPER = (1 << 31) - 1
"""So many of the upper bits of a hash say whose table it belongs to, and are its mark there."""

NUMBER = (1 << 32) - 1
"""The bits of a word in a table that are the number of a state plus one."""

BLOCK = 256
"""States that are looked up in the hash table together."""

LOOKS_AHEAD = 256
"""States that are looked through for more gaps once there is one, to save calls."""


class Trees(NamedTuple):
    """The decision trees, as ``Forest`` keeps them, and where they begin, as ``Moves`` does."""

    slots: Ints
    columns: Ints
    bases: Ints
    roots: Matrix


class Effects(NamedTuple):
    """What happens to a row, by move, as ``columns.Effects`` keeps it."""

    deltas: Hashes
    first: Ints
    lengths: Ints
    columns: Ints
    numbers: Ints


# A helper with several arrays to count references of costs more than what it does, so the loops
# unpack what they are given, and call nothing.


def expand(
    rows: Matrix,
    hashes: Hashes,
    turns: Ints,
    trees: Trees,
    counts: Numbers,
    deltas: Hashes,
    onward: Onward,
    gaps: Ints,
    begin: int,
    count: int,
) -> tuple[int, int, int]:
    """Append the ways on from the states from ``begin`` on to the first ``count`` ones.

    ``turns`` is (task, when, whether foreground) a line. Gives (the state at which it stopped, how
    many ways there are, how many gaps). A gap is a (state, task) of which nothing is known; with
    some, or without room for more, it stops before the end.
    """
    slots, columns, bases, roots = trees.slots, trees.columns, trees.bases, trees.roots
    sources, moves, behind = onward.sources, onward.moves, onward.hashes
    ran, moves_on = onward.running, onward.moved
    missing, stopped = 0, len(rows)
    for state in range(begin, len(rows)):
        if missing and (state >= stopped + LOOKS_AHEAD or missing + len(turns) > len(gaps)):
            break
        row, begun, before = rows[state], count, hashes[state]
        running = moved = goes_on = False
        for turn in range(len(turns)):
            running |= turns[turn, 2] != 0 and row[turns[turn, 0]] != 0
        for turn in range(len(turns)):
            task, when = turns[turn, 0], turns[turn, 1]
            asked = when == ALWAYS or (running if when == GOING else goes_on)
            if not asked or (when == RESTING and running):
                continue
            node = slots[roots[task, row[task]]]
            while node >= 0:
                node = slots[bases[node] + row[columns[node]]]
            if node == _NONE:
                continue
            if node == _GAP:
                gaps[missing, 0], gaps[missing, 1] = state, task
                missing += 1
                stopped = min(stopped, state)
                continue
            move = -1 - node
            after = move + counts[move]
            if count + after - move > len(moves):
                return min(stopped, state), begun, missing
            moved = True
            goes_on |= when < MOVED
            while move < after:
                sources[count], moves[count] = state, move
                behind[count] = before + deltas[move]
                count += 1
                move += 1
        ran[state], moves_on[state] = running, moved
        if missing:
            count = begun
    return stopped, count, missing


def claim(
    sought: Words, hashes: Words, tables: Words, part: int, numbers: Numbers, slots: Ints
) -> None:
    """Find states in the table of one part, and claim slots for those that are not there.

    Fills ``numbers``; for a new state that is minus one minus the place where it occurs first, and
    there ``slots`` has its slot, which holds the same until ``settle``. See ``parted``.
    """
    table, parts = tables[part], len(tables)
    mask = len(table) - 1
    mine, places = np.zeros(BLOCK, np.int64), np.zeros(BLOCK, np.int64)
    words, alike = np.zeros(BLOCK, np.int64), np.zeros(BLOCK, np.bool_)
    for begin in range(0, len(sought), BLOCK):
        size = 0
        for state in range(begin, min(begin + BLOCK, len(sought))):
            mine[size] = state
            size += (sought[state] >> 33 & UPPER) * parts >> 31 == part
        # A look at the table or at a hash waits for memory. Those of many states stand here one
        # after the other, with nothing in between that depends on them, to wait at the same time.
        for at in range(size):
            places[at] = sought[mine[at]] & mask
            words[at] = table[places[at]]
        for at in range(size):
            mark = sought[mine[at]] >> 32 & UPPER
            while words[at] > 0 and words[at] >> 32 != mark:
                places[at] = (places[at] + 1) & mask
                words[at] = table[places[at]]
        for at in range(size):
            known = words[at] & NUMBER if words[at] > 0 else 1
            alike[at] = hashes[known - 1] == sought[mine[at]]
        for at in range(size):
            state, word = mine[at], words[at]
            if word <= 0 or not alike[at]:
                # An earlier one of the block may have claimed the slot that was found empty.
                slot, mark, word = places[at], sought[state] >> 32 & UPPER, table[places[at]]
                while word != 0:
                    if word < 0 and sought[-1 - word] == sought[state]:
                        break
                    if word >> 32 == mark and hashes[(word & NUMBER) - 1] == sought[state]:
                        break
                    slot = (slot + 1) & mask
                    word = table[slot]
                if word == 0:
                    word = table[slot] = -1 - state
                    slots[state] = slot
            numbers[state] = (word & NUMBER) - 1 if word > 0 else word


def settle(sought: Words, tables: Words, known: int, numbers: Numbers, slots: Ints) -> int:
    """Number the new states from ``known`` on in the order in which they occur first.

    Gives how many are known now; ``slots`` then begins with the places where new ones occur first.
    """
    parts, count = len(tables), known
    for at in range(len(sought)):
        if numbers[at] >= 0:
            continue
        first = -1 - numbers[at]
        if first == at:
            part, mark = (sought[at] >> 33 & UPPER) * parts >> 31, sought[at] >> 32 & UPPER
            numbers[at] = count
            tables[part, slots[at]] = mark << 32 | (count + 1)
            slots[count - known] = at
            count += 1
        else:
            numbers[at] = numbers[first]
    return count


def place(hashes: Words, tables: Words, part: int) -> None:
    """Enter those states that belong to a part into its table, which is empty, by their numbers."""
    table, parts = tables[part], len(tables)
    mask = len(table) - 1
    for number in range(len(hashes)):
        wanted = hashes[number]
        if (wanted >> 33 & UPPER) * parts >> 31 == part:
            slot = wanted & mask
            while table[slot] != 0:
                slot = (slot + 1) & mask
            table[slot] = (wanted >> 32 & UPPER) << 32 | (number + 1)


def follow(onward: Numbers) -> None:
    """Let each state lead to where going on from it ends, which is where a state leads to itself.

    All others lead to states with larger numbers.
    """
    for state in range(len(onward) - 1, -1, -1):
        onward[state] = onward[onward[state]]


def build(
    rows: Matrix, sources: Numbers, moves: Numbers, effects: Effects, fresh: Ints, made: Matrix
) -> None:
    """Write the rows behind some moves, those in ``fresh``, to ``made``."""
    first, lengths = effects.first, effects.lengths
    columns, numbers = effects.columns, effects.numbers
    for to in range(len(fresh)):
        source, move = sources[fresh[to]], moves[fresh[to]]
        for column in range(rows.shape[1]):
            made[to, column] = rows[source, column]
        for at in range(first[move], first[move] + lengths[move]):
            made[to, columns[at]] = numbers[at]
