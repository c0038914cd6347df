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

from vmm.search.arrays import Flags, Hashes, Ints, Matrix, Numbers, Words
from vmm.search.forest import UNKNOWN
from vmm.search.judge import NOTHING

_GAP = -1 - UNKNOWN
_NOTHING = -1 - NOTHING

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
"""States or moves that are looked through for more gaps once there is one, to save calls."""


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
    """Where the trees of local states begin, by task and state, and the edges of each answer."""

    roots: Ints
    first: Ints
    counts: Ints


class Rules(NamedTuple):
    """Where the verdicts on the step of an edge, and on the access pending after it, begin.

    -1 is none. And by verdict: what it adds to the hash, whether there are findings.
    """

    step_roots: Ints
    access_roots: Ints
    deltas: Hashes
    found: Flags


class Onward(NamedTuple):
    """By edge: its task, the local state after it, whether it may be run through.

    And by verdict: whether the task goes on, whether others have a say in it; see ``judge.Said``.
    """

    tasks: Ints
    following: Ints
    able: Flags
    runs: Flags
    unsteady: Flags


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
    """By state: does a foreground task run, did any task move."""

    running: Flags
    moved: Flags


# A helper with several arrays to count references of costs more than what it does, so the loops
# unpack what they are given, and call next to nothing.


def leaf(slots: Ints, columns: Ints, bases: Ints, root: int, row: Ints) -> int:
    """What the tree at ``root`` says of a row: minus one minus the answer."""
    node = slots[root]
    while node >= 0:
        node = slots[bases[node] + row[columns[node]]]
    return int(node)


def expand(
    rows: Matrix,
    turns: Ints,
    trees: Trees,
    ways: Ways,
    moves: Moves,
    notes: Notes,
    gaps: Ints,
    begin: int,
    count: int,
) -> tuple[int, int, int]:
    """Append the moves of the states from ``begin`` on to the first ``count`` ones.

    ``turns`` is (task, when, whether foreground) a line. Gives (the state at which it stopped, how
    many moves there are, how many gaps). A gap is a (state, task) of which nothing is known; with
    some, or without room for more moves, it stops before the end.
    """
    slots, columns, bases = trees.slots, trees.columns, trees.bases
    roots, first, counts = ways.roots, ways.first, ways.counts
    sources, edges, binding = moves.sources, moves.edges, moves.binding
    ran, moves_on = notes.running, notes.moved
    missing, stopped = 0, len(rows)
    for state in range(begin, len(rows)):
        if missing and (state >= stopped + LOOKS_AHEAD or missing + len(turns) > len(gaps)):
            break
        row, begun = rows[state], count
        running = moved = goes_on = False
        for turn in range(len(turns)):
            running |= turns[turn, 2] != 0 and row[turns[turn, 0]] != 0
        for turn in range(len(turns)):
            task, when = turns[turn, 0], turns[turn, 1]
            asked = when == ALWAYS or (running if when == GOING else goes_on)
            if row[task] == 0 or not asked or (when == RESTING and running):
                continue
            answer = leaf(slots, columns, bases, roots[task, row[task]], row)
            if answer == _GAP:
                gaps[missing, 0], gaps[missing, 1] = state, task
                missing += 1
                stopped = min(stopped, state)
                continue
            edge, after = first[-1 - answer], first[-1 - answer] + counts[-1 - answer]
            if count + after - edge > len(edges):
                return min(stopped, state), begun, missing
            moved |= edge < after
            goes_on |= edge < after and when < MOVED
            while edge < after:
                sources[count], edges[count], binding[count] = state, edge, when != MOVED
                count += 1
                edge += 1
        ran[state], moves_on[state] = running, moved
        if missing:
            count = begun
    return stopped, count, missing


def judge(
    rows: Matrix,
    hashes: Hashes,
    moves: Moves,
    trees: Trees,
    rules: Rules,
    changes: Changes,
    runs: Flags,
    on: Flags,
    gaps: Ints,
    begin: int,
) -> tuple[int, int]:
    """Find the verdicts on moves from ``begin`` on, and the hashes behind them.

    Notes in ``on`` after which moves the task goes on, as ``runs`` says by verdict.
    Gives (the move at which it stopped, how many gaps); a gap is the number of a move.
    """
    slots, columns, bases = trees.slots, trees.columns, trees.bases
    sources, edges, verdicts, behind = moves.sources, moves.edges, moves.verdicts, moves.hashes
    step_roots, access_roots, found = rules.step_roots, rules.access_roots, rules.found
    deltas, first, lengths = changes.deltas, changes.first, changes.lengths
    to, numbers, said_deltas = changes.columns, changes.numbers, rules.deltas
    after = np.zeros(rows.shape[1], np.int64)
    missing, stopped = 0, len(edges)
    for move in range(begin, len(edges)):
        if missing and (move >= stopped + LOOKS_AHEAD or missing == len(gaps)):
            break
        source, edge = sources[move], edges[move]
        step, access = step_roots[edge], access_roots[edge]
        asks = access >= 0 and slots[access] != _NOTHING
        said = _NOTHING
        on[move] = False
        if step >= 0 or asks:
            for column in range(len(after)):
                after[column] = rows[source, column]
            for at in range(first[edge], first[edge] + lengths[edge]):
                after[to[at]] = numbers[at]
            if step >= 0:
                said = leaf(slots, columns, bases, step, after)
            if asks and said != _GAP and not found[-1 - said]:
                objection = leaf(slots, columns, bases, access, after)
                on[move] = runs[-1 - objection]
                if objection == _GAP or found[-1 - objection]:
                    said = objection
            if said == _GAP:
                gaps[missing] = move
                missing += 1
                stopped = min(stopped, move)
        verdicts[move] = -1 - said
        behind[move] = hashes[source] + deltas[edge] + said_deltas[-1 - said]
    return stopped, missing


def run_on(
    rows: Matrix,
    moves: Moves,
    ends: Matrix,
    end_of: Ints,
    trees: Trees,
    ways: Ways,
    rules: Rules,
    onward: Onward,
    changes: Changes,
    moods: Changes,
    gaps: Matrix,
    begin: int,
) -> tuple[int, int, int]:
    """Step tasks on from behind the moves from ``begin`` on that have a row in ``ends``.

    As ``Runner`` does it: rows go to ``ends``, and verdicts and hashes of the moves are mended.
    Gives (the move at which it stopped, how many gaps, how many steps); a gap is a task and a row.
    """
    slots, columns, bases = trees.slots, trees.columns, trees.bases
    roots, first_way, access_roots = ways.roots, ways.first, rules.access_roots
    sources, edges, verdicts, hashes = moves.sources, moves.edges, moves.verdicts, moves.hashes
    tasks, following, able = onward.tasks, onward.following, onward.able
    runs, unsteady, found, deltas = onward.runs, onward.unsteady, rules.found, changes.deltas
    first, lengths, to, numbers = changes.first, changes.lengths, changes.columns, changes.numbers
    mood_first, mood_lengths = moods.first, moods.lengths
    mood_columns, mood_numbers = moods.columns, moods.numbers
    missing, stopped, steps = 0, len(edges), 0
    before, row = np.zeros(rows.shape[1], np.int64), np.zeros(rows.shape[1], np.int64)
    for move in range(begin, len(edges)):
        if missing and (move >= stopped + LOOKS_AHEAD or missing == len(gaps)):
            break
        if end_of[move] < 0:
            continue
        edge, verdict, gained = edges[move], verdicts[move], np.uint64(0)
        for column in range(len(row)):
            row[column] = rows[sources[move], column]
        for at in range(first[edge], first[edge] + lengths[edge]):
            row[to[at]] = numbers[at]
        for at in range(mood_first[verdict], mood_first[verdict] + mood_lengths[verdict]):
            row[mood_columns[at]] = mood_numbers[at]
        task, mark, count, next_mark, on = tasks[edge], following[edge], 0, 1, True
        while on:
            for column in range(len(row)):
                before[column] = row[column]
            answer = said = leaf(slots, columns, bases, roots[task, row[task]], row)
            if answer != _GAP:
                edge = first_way[-1 - answer]
                for at in range(first[edge], first[edge] + lengths[edge]):
                    row[to[at]] = numbers[at]
                said = leaf(slots, columns, bases, access_roots[edge], row)
            if said == _GAP:
                gaps[missing, 0] = task
                gaps[missing, 1:] = before
                missing += 1
                stopped = min(stopped, move)
                break
            if unsteady[-1 - said] or not able[edge]:
                row, before = before, row
                break
            gained += deltas[edge]
            verdict = -1 - said if found[-1 - said] else verdict
            # Where the mark is, the task has gone round: Brent's way to find it.
            on = runs[-1 - said] and following[edge] != mark
            count += 1
            if count == next_mark:
                mark, next_mark = following[edge], 2 * next_mark
        if missing == 0:
            ends[end_of[move]] = row
            verdicts[move] = verdict
            hashes[move] += gained
            steps += count
    return stopped, missing, steps


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
    rows: Matrix,
    moves: Moves,
    ends: Matrix,
    end_of: Ints,
    steps: Changes,
    moods: Changes,
    fresh: Ints,
    made: Matrix,
) -> None:
    """Write the rows behind some moves, those in ``fresh``, to ``made``."""
    sources, edges, verdicts = moves.sources, moves.edges, moves.verdicts
    first, lengths, columns, numbers = steps.first, steps.lengths, steps.columns, steps.numbers
    mood_first, mood_lengths = moods.first, moods.lengths
    mood_columns, mood_numbers = moods.columns, moods.numbers
    for to in range(len(fresh)):
        move = fresh[to]
        if end_of[move] >= 0:
            for column in range(ends.shape[1]):
                made[to, column] = ends[end_of[move], column]
            continue
        source, edge, verdict = sources[move], edges[move], verdicts[move]
        for column in range(rows.shape[1]):
            made[to, column] = rows[source, column]
        for at in range(first[edge], first[edge] + lengths[edge]):
            made[to, columns[at]] = numbers[at]
        for at in range(mood_first[verdict], mood_first[verdict] + mood_lengths[verdict]):
            made[to, mood_columns[at]] = mood_numbers[at]
