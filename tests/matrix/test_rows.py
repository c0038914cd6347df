"""Rows from answers: what counts as found, as clean and as a false positive."""

from __future__ import annotations

from vmm.matrix.plan import Pair
from vmm.matrix.rows import matrix
from vmm.matrix.work import Answer, BugSearch, Found, Piece, Sampled, Sampling, Twin, TwinSearch

JANUS = Pair("januscape", "januscape")
OTHER = Pair("wrong-gfn-child", "januscape")
CLEAN = Twin(complete=True, states=20, code=None, goals=())
FOUND = Found("audit/spte-agrees", states=10, steps=5, switches=1, preemptions=0, schedule="v1.x")


def answered(twin: Twin = CLEAN, found: Found = FOUND) -> dict[Piece, Answer]:
    return {BugSearch(JANUS): found, BugSearch(OTHER): found, TwinSearch("januscape"): twin}


def test_all_found_and_clean() -> None:
    done = matrix([JANUS, OTHER], answered())
    assert (done.killed, done.false_positives, done.is_whole) == (2, 0, True)
    assert not done.complaints()
    assert done.rows[0].fixed_states == 20
    assert done.summary() == (
        "2 of 2 bugs found; 1 of 1 fixed twins exhausted clean; 0 false positives"
    )


def test_another_code_is_not_the_bug() -> None:
    done = matrix([JANUS], answered(found=Found("lock/guard", states=1)))
    assert (done.killed, done.is_whole) == (0, False)
    assert "januscape: januscape shows lock/guard, not audit/spte-agrees" in done.complaints()[0]


def test_a_finding_without_the_bug_is_one_false_positive_however_many_share_it() -> None:
    dirty = Twin(complete=True, states=20, code="audit/rmap", goals=())
    done = matrix([JANUS, OTHER], answered(dirty))
    assert (done.false_positives, done.is_whole) == (1, False)
    assert done.complaints()[0] == "januscape shows audit/rmap without the bug januscape"


def test_a_goal_that_is_missed_is_no_false_positive_and_yet_not_clean() -> None:
    done = matrix([JANUS], answered(Twin(complete=True, states=20, code=None, goals=("raced",))))
    assert (done.false_positives, done.is_whole) == (0, False)
    assert "never reaches raced" in done.complaints()[0]


def test_what_was_not_searched_is_open() -> None:
    done = matrix([JANUS, OTHER], {BugSearch(JANUS): FOUND})
    assert [row.found for row in done.rows] == [True, None]
    assert [row.fixed_clean for row in done.rows] == [None, None]
    assert (done.is_whole, done.complaints()) == (False, [])


def test_sampling_adds_executions() -> None:
    done = matrix([JANUS], {**answered(), Sampling(JANUS): Sampled(17)})
    assert done.keys()["rows"][0]["executions"] == 17
