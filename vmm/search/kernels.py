"""The inner loops of the exhaustive search, in the part of Python that numba compiles.

Nothing here imports numba: ``compiled`` does that, once it is worth it. As plain Python the same
functions run slowly and check their indices, which is how the tests look at them.

What they do is said by what they stand in for: ``forest`` for the trees, ``exhaustive`` for the
order of the moves, ``seen`` for the hash table. They never learn: at an input that they do not
know they hand back where they stopped.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vmm.search.arrays import Flags, Hashes, Ints, Matrix, Numbers
from vmm.search.forest import UNKNOWN
from vmm.search.judge import NOTHING

_GAP = -1 - UNKNOWN
_NOTHING = -1 - NOTHING

GOING, ALWAYS, MOVED, RESTING = range(4)
"""When a task is asked: while a foreground task runs; always; if the state does not end the run;
if it does not and no foreground task runs. The last two come after the first two."""

LOOKS_AHEAD = 256
"""States that are looked through for more gaps once there is one, so that few calls are made."""


class Trees(NamedTuple):
    """The decision trees, as ``Forest`` keeps them."""

    slots: Ints
    columns: Ints
    bases: Ints


class Changes(NamedTuple):
    """What happens to a row, by number, as ``Effects`` keeps it."""

    deltas: Hashes
    first: Ints
    lengths: Ints
    columns: Ints
    numbers: Ints


class Ways(NamedTuple):
    """The learned edges: where the trees of local states begin, and the edges of each answer.

    ``roots`` is by task and local state. ``step_roots`` and ``access_roots`` are by edge: where
    the verdicts on the step and on the access that is pending after it begin; -1 is none.
    """

    roots: Ints
    first: Ints
    counts: Ints
    step_roots: Ints
    access_roots: Ints


class Moves(NamedTuple):
    """Ways on: of which state, by which edge, with which verdict, to which hash.

    ``sources`` counts the states of one chunk; ``binding`` is false for moves of optional tasks.
    """

    sources: Ints
    edges: Ints
    verdicts: Ints
    hashes: Hashes
    binding: Flags

    def only(self, kept: Flags | Ints | slice) -> Moves:
        """Some of them."""
        return Moves(*[part[kept] for part in self])  # type: ignore[arg-type]


class Notes(NamedTuple):
    """By state: does a foreground task run, did any task move. And room for gaps."""

    running: Flags
    moved: Flags
    gap_tasks: Ints
    gap_states: Ints


def leaf(trees: Trees, root: int, row: Ints) -> int:
    """What the tree at ``root`` says of a row: minus one minus the answer."""
    node = trees.slots[root]
    while node >= 0:
        node = trees.slots[trees.bases[node] + row[trees.columns[node]]]
    return int(node)


def judged(
    trees: Trees, ways: Ways, changes: Changes, bad: Flags, row: Ints, edge: int, after: Ints
) -> int:
    """The leaf with the verdict on an edge taken in a row; ``after`` is room for one more row."""
    step, access = ways.step_roots[edge], ways.access_roots[edge]
    asks = access >= 0 and trees.slots[access] != _NOTHING
    if step < 0 and not asks:
        return _NOTHING
    for column in range(len(row)):
        after[column] = row[column]
    for at in range(changes.first[edge], changes.first[edge] + changes.lengths[edge]):
        after[changes.columns[at]] = changes.numbers[at]
    said = _NOTHING
    if step >= 0:
        said = leaf(trees, step, after)
        if said == _GAP or bad[-1 - said]:
            return said
    if asks:
        found = leaf(trees, access, after)
        if found == _GAP or bad[-1 - found]:
            return found
    return said


def expand(
    rows: Matrix,
    hashes: Hashes,
    turns: Ints,
    trees: Trees,
    ways: Ways,
    changes: Changes,
    moods: Hashes,
    bad: Flags,
    moves: Moves,
    notes: Notes,
    begin: int,
    end: int,
    count: int,
) -> tuple[int, int, int]:
    """Find the moves of the states from ``begin`` to ``end``, and append them to ``moves``.

    ``turns`` is (task, when, whether foreground) a line; ``moods`` what verdicts add to a hash.
    Gives (the state at which it stopped, how many moves there are, how many gaps). With gaps, or
    without room for more moves, it stops before the end.
    """
    after = np.zeros(rows.shape[1], np.int64)
    gaps, stopped = 0, end
    for state in range(begin, end):
        if gaps and (state >= stopped + LOOKS_AHEAD or gaps + len(turns) > len(notes.gap_states)):
            break
        row, begun, gaps_before = rows[state], count, gaps
        running = moved = goes_on = False
        for turn in range(len(turns)):
            running |= turns[turn, 2] != 0 and row[turns[turn, 0]] != 0
        for turn in range(len(turns)):
            task, when = turns[turn, 0], turns[turn, 1]
            asked = when == ALWAYS or (running if when == GOING else goes_on)
            if row[task] == 0 or not asked or (when == RESTING and running):
                continue
            answer = leaf(trees, ways.roots[task, row[task]], row)
            first, ways_on = ways.first[-1 - answer], ways.counts[-1 - answer]
            if count + ways_on > len(moves.edges):
                return min(stopped, state), begun, gaps
            verdict = answer
            for edge in range(first, first + ways_on):
                verdict = judged(trees, ways, changes, bad, row, edge, after)
                if verdict == _GAP:
                    break
                moves.sources[count], moves.edges[count] = state, edge
                moves.verdicts[count] = -1 - verdict
                moves.hashes[count] = hashes[state] + changes.deltas[edge] + moods[-1 - verdict]
                moves.binding[count] = when != MOVED
                count += 1
                moved = True
                goes_on |= when < MOVED
            if verdict == _GAP:
                notes.gap_tasks[gaps], notes.gap_states[gaps] = task, state
                gaps += 1
        notes.running[state], notes.moved[state] = running, moved
        if gaps:
            count = begun
            stopped = stopped if gaps_before else state
    return stopped, count, gaps


def number(
    sought: Hashes,
    hashes: Hashes,
    table: Numbers,
    known: int,
    numbers: Numbers,
    fresh: Numbers,
) -> int:
    """Number states as ``SeenStates`` does; ``known`` of them are in the table.

    Fills ``numbers`` and ``fresh``, and gives how many are known now.
    """
    mask = len(table) - 1
    count = known
    for at in range(len(sought)):
        wanted = sought[at]
        slot = np.int64(wanted & np.uint64(mask))
        found = table[slot]
        while found != 0 and hashes[found - 1] != wanted:
            slot = (slot + 1) & mask
            found = table[slot]
        if found == 0:
            hashes[count] = wanted
            fresh[count - known] = at
            count += 1
            table[slot] = found = np.int32(count)
        numbers[at] = found - 1
    return count


def build(
    rows: Matrix,
    moves: Moves,
    steps: Changes,
    moods: Changes,
    fresh: Ints,
    made: Matrix,
) -> None:
    """Write the rows behind some moves, those in ``fresh``, to ``made``."""
    for to in range(len(fresh)):
        move = fresh[to]
        old, new = rows[moves.sources[move]], made[to]
        for column in range(len(old)):
            new[column] = old[column]
        edge, verdict = moves.edges[move], moves.verdicts[move]
        for at in range(steps.first[edge], steps.first[edge] + steps.lengths[edge]):
            new[steps.columns[at]] = steps.numbers[at]
        for at in range(moods.first[verdict], moods.first[verdict] + moods.lengths[verdict]):
            new[moods.columns[at]] = moods.numbers[at]
