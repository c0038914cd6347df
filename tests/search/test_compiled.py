"""The compiled loops against numpy; the hash table, room that runs out, when they take over."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.search.guarded_worlds import guarded_world
from tests.search.random_worlds import random_world
from tests.search.test_exhaustive import judged, told
from tests.search.worlds import notifier_retry
from vmm.search import compiled, exhaustive
from vmm.search.compiled import Loops
from vmm.search.exhaustive import search
from vmm.search.parted import PartedStates
from vmm.search.seen import SeenStates

ROOT = Path(__file__).parents[2]

HASHES = st.lists(st.integers(0, 40).map(lambda n: n * 0x9E3779B97F4A7C15 % 2**64 & ~0xFF0))
"""Few different ones, and with few low bits that differ, so that they repeat and collide."""

LOOPS = {jobs: Loops(jobs) for jobs in (1, 2, 3)}
JOBS = pytest.mark.parametrize("jobs", [1, 2])


@given(
    batches=st.lists(HASHES, max_size=6),
    changes=st.integers(0, 6),
    jobs=st.sampled_from(sorted(LOOPS)),
)
def test_hash_table(batches: list[list[int]], changes: int, jobs: int) -> None:
    """Any number of batches in numpy, then the rest compiled: states have the same numbers."""
    plain, known = SeenStates(8), dict[int, int]()
    looped: SeenStates | PartedStates = SeenStates(8)
    for done, batch in enumerate(batches):
        if done == changes:
            looped = PartedStates(LOOPS[jobs], looped.hashes, looped.count)
        hashes = np.array(batch, np.uint64)
        first = [batch.index(sought) for sought in dict.fromkeys(batch) if sought not in known]
        numbers = [known.setdefault(sought, len(known)) for sought in batch]
        for seen in (plain, looped):
            found, fresh = seen.add(hashes)
            assert (found.tolist(), fresh.tolist()) == (numbers, first)
            assert seen.count == len(known)
            assert seen.hashes[: seen.count].tolist() == list(known)


class Uncompiled(Loops):
    """Python that checks its indices."""

    def __init__(self, jobs: int = 1) -> None:
        self.seconds, self.jobs, self._threads = 0.0, jobs, None
        for loop in compiled.LOOPS:
            setattr(self, loop.__name__, loop)


@JOBS
@pytest.mark.parametrize("first", [0, 40])
def test_loops_stay_within_their_arrays(
    first: int, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exhaustive, "Loops", Uncompiled)
    with np.errstate(over="ignore"):
        for seed in range(first, first + 5):
            for make, reduce in ((random_world, False), (guarded_world, True)):
                expected, found = [
                    search(make(seed)[0], engine=engine, reduce=reduce, jobs=jobs)
                    for engine in ("numpy", "numba")
                ]
                assert told(expected) == told(found)


@JOBS
@pytest.mark.parametrize("gaps", [6, 50])
def test_room_that_runs_out(gaps: int, jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "GAPS", gaps)
    monkeypatch.setattr(compiled, "ROOM", 1)
    expected, found = [
        search(notifier_retry(2, guard=False), engine=engine, jobs=jobs)
        for engine in ("numpy", "numba")
    ]
    assert told(expected) == told(found)


def test_it_takes_over_when_a_level_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exhaustive, "WORTH_COMPILING", 100)
    small = search(notifier_retry(1, guard=True))
    large = search(notifier_retry(2, guard=True))
    assert (small.engine, small.startup_seconds) == ("numpy", 0.0)
    assert (large.engine, large.states) == ("numba", 3_741)
    assert told(large) == told(search(notifier_retry(2, guard=True), engine="numpy"))


def test_nothing_small_imports_numba() -> None:
    code = (
        "import sys\nfrom tests.search.worlds import notifier_retry\n"
        "from vmm.search.exhaustive import search\n"
        "print(search(notifier_retry(2, guard=True)).states, 'numba' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert said.stdout.split() == ["3741", "False"]


@pytest.mark.slow
def test_without_a_place_to_keep_what_was_compiled(tmp_path: Path) -> None:
    """The package directory and the user's cache cannot be written."""
    package = Path(exhaustive.__file__).parents[1]
    shutil.copytree(package, tmp_path / "vmm", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "vmm" / "search" / "__pycache__").write_text("a file where a folder should be")
    (tmp_path / "file").write_text("")
    code = (
        "import numpy, vmm.search.compiled as c\n"
        f"assert c.__file__.startswith({str(tmp_path)!r})\n"
        "from vmm.search.parted import PartedStates\n"
        "seen = PartedStates(c.Loops(), numpy.zeros(1, numpy.uint64), 0)\n"
        "print(seen.add(numpy.array([7, 9, 7], numpy.uint64))[0])"
    )
    said = subprocess.run(
        [sys.executable, "-B", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"HOME": str(tmp_path / "file"), "PATH": ""},
    )
    assert said.stdout.strip() == "[0 1 0]", said.stderr


@JOBS
@pytest.mark.parametrize("first", [0, 15])
def test_reduced_searches_are_the_same(
    first: int, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exhaustive, "CHUNK", 7)
    for seed in range(first, first + 6):
        expected, found = [
            search(
                judged(guarded_world(seed)[0], seed),
                engine=engine,
                jobs=jobs,
                reduce=True,
                shortest=False,
            )
            for engine in ("numpy", "numba")
        ]
        assert told(expected) == told(found), f"seed {seed}"


def test_jobs_are_those_of_the_loops() -> None:
    with_loops, without = [
        search(notifier_retry(2, guard=True), engine=engine, jobs=2)
        for engine in ("numba", "numpy")
    ]
    assert (with_loops.jobs, without.jobs) == (2, 1)
    assert told(with_loops) == told(without)
