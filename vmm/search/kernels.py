"""The inner loops of the exhaustive search, in the part of Python that numba compiles.

Nothing here imports numba: ``compiled`` does that, once it is worth it. As plain Python the same
functions run slowly and check their indices, which is how the tests look at them.

What they do is said by what they stand in for: ``forest`` for the trees, ``plain`` for the order of
the moves, ``seen`` for the hash table. They never learn: at an input that they do not
know they hand back where they stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmm.search.arrays import Flags, Hashes, Ints, Matrix, Numbers, Words
from vmm.search.forest import UNKNOWN
from vmm.search.moves import NONE

if TYPE_CHECKING:
    from vmm.search.plain import Onward

_GAP = -1 - UNKNOWN
_NONE = -1 - NONE

GOING, ALWAYS, MOVED, RESTING, NEVER = range(5)
"""When a task is asked: while a foreground task runs; always; if the state does not end the run;
if it does not and no foreground task runs; not at all. MOVED and RESTING are of the second round.
"""

UPPER = (1 << 31) - 1
"""So many of the upper bits of a hash say whose table it belongs to, and are its mark there."""

NUMBER = (1 << 32) - 1
"""The bits of a word in a table that are the number of a state plus one."""

AHEAD = 16
"""So many states later, a slot that is asked for has come from memory."""

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
    foreground: Flags,
    turns: Numbers,
    trees: Trees,
    counts: Numbers,
    deltas: Hashes,
    onward: Onward,
    gaps: Ints,
    begin: int,
    count: int,
) -> tuple[int, int, int]:
    """Append the ways on from the states from ``begin`` on to the first ``count`` ones.

    ``turns`` says when each task is asked, and then the same of a second round. Gives (the state at
    which it stopped, how many ways there are, how many gaps). A gap is a (state, task) of which
    nothing is known; with some, or without room for more, it stops before the end.
    """
    slots, columns, bases, roots = trees.slots, trees.columns, trees.bases, trees.roots
    sources, moves, behind = onward.sources, onward.moves, onward.hashes
    ran, ways = onward.running, onward.counts
    missing, stopped, room, tasks = 0, len(rows), len(moves), len(foreground)
    for state in range(begin, len(rows)):
        if missing and (state >= stopped + LOOKS_AHEAD or missing + len(turns) > len(gaps)):
            break
        begun, before, running = count, hashes[state], False
        for task in range(tasks):
            if foreground[task] and rows[state, task] != 0:
                running = True
                break
        asked = 1 << ALWAYS | running << GOING
        then = asked | 1 << MOVED | (not running) << RESTING
        for turn in range(len(turns)):
            when = turns[turn]
            if not asked >> when & 1:
                continue
            task = turn if turn < tasks else turn - tasks
            node = slots[roots[task, rows[state, task]]]
            while node >= 0:
                node = slots[bases[node] + rows[state, columns[node]]]
            if node == _NONE:
                continue
            if node == _GAP:
                gaps[missing, 0], gaps[missing, 1] = state, task
                missing += 1
                stopped = min(stopped, state)
                continue
            first = -1 - node
            if count + counts[first] > room:
                return min(stopped, state), begun, missing
            if when < MOVED:
                asked = then
            sources[count], moves[count] = state, first
            behind[count] = before + deltas[first]
            count += 1
            for move in range(first + 1, first + counts[first]):
                sources[count], moves[count] = state, move
                behind[count] = before + deltas[move]
                count += 1
        ran[state], ways[state] = running, count - begun
        if missing:
            count = begun
    return stopped, count, missing


def prefetch(table: Words, slot: int) -> None:
    """Have a slot brought from memory while something else is done. Compiled: see ``compiled``."""


def claim(
    sought: Words,
    hashes: Words,
    tables: Words,
    part: int,
    known: int,
    numbers: Numbers,
    slots: Ints,
) -> int:
    """Find states in the table of one part, and claim slots for those that are not there.

    Fills ``numbers``; for a new state that is minus one minus the place where it occurs first, and
    there ``slots`` has its slot, which holds the same until ``settle``. See ``parted``. Where there
    is one part only, that is settled at once. Gives how many states are known now.
    """
    table, parts, count = tables[part], len(tables), known
    mask = len(table) - 1
    for at in range(len(sought)):
        if at + AHEAD < len(sought):
            prefetch(table, sought[at + AHEAD] & mask)
        wanted = sought[at]
        if parts > 1 and (wanted >> 33 & UPPER) * parts >> 31 != part:
            continue
        mark, slot = wanted >> 32 & UPPER, wanted & mask
        word = table[slot]
        while word != 0:
            if word < 0:
                if sought[-1 - word] == wanted:
                    break
            elif word >> 32 == mark and hashes[(word & NUMBER) - 1] == wanted:
                break
            slot = (slot + 1) & mask
            word = table[slot]
        if word == 0:
            if parts > 1:
                word = table[slot] = -1 - at
                slots[at] = slot
            else:
                hashes[count], slots[count - known] = wanted, at
                count += 1
                word = table[slot] = mark << 32 | count
        numbers[at] = (word & NUMBER) - 1 if word > 0 else word
    return count


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
