"""The fewest preemptions, against every schedule prefix of random tiny worlds."""

from __future__ import annotations

import pytest

from tests import catalogue
from tests.search.brute import Execution, Prefix
from tests.search.random_worlds import random_world
from tests.search.worlds import notifier_retry, two_locks
from vmm.engine.hosts.direct import drive
from vmm.engine.live import Run
from vmm.engine.world import World
from vmm.search.preemptions import fewest_preemptions
from vmm.search.reference import search
from vmm.strategies.recorded import RecordedPicker

SEEDS = range(25)
PREFIXES_MAX = 1_500
MOST = 9


def by_brute_force(world: World) -> int | None:
    """The fewest preemptions of all prefixes that end in a deadlock. Errors: too many prefixes."""
    fewest: list[int] = []
    seen: dict[object, None] = {}
    waiting: list[tuple[Prefix, int]] = [((), 0)]
    for prefix, preemptions in waiting:
        if len(waiting) > PREFIXES_MAX:
            raise OverflowError
        execution = Execution(world, prefix)
        last = prefix[-1][0] if prefix else None
        key = (execution.key(), last, preemptions)
        end = execution.ends()
        choices = list(execution.choices())
        execution.close()
        if end == "deadlock":
            fewest.append(preemptions)
        if end is not None or key in seen:
            continue
        seen[key] = None
        goes_on = last in [task for task, _ in choices]
        waiting += [
            ((*prefix, choice), preemptions + (goes_on and choice[0] != last)) for choice in choices
        ]
    return min(fewest, default=None)


def compare(seed: int) -> bool:
    world, source = random_world(seed)
    try:
        fewest = by_brute_force(world)
    except OverflowError:
        return False
    found = fewest_preemptions(world, most=MOST)
    assert (None if found is None else found.preemptions) == fewest, source
    return found is not None


def test_random_worlds() -> None:
    assert sum(compare(seed) for seed in SEEDS) >= 2, "some of them deadlock"


@pytest.mark.slow
def test_many_random_worlds() -> None:
    assert sum(compare(seed) for seed in range(SEEDS.stop, 500)) >= 25


def test_opposite_locks_need_one() -> None:
    found = fewest_preemptions(two_locks(), most=2)
    assert found is not None
    assert (found.preemptions, found.findings[0].code) == (1, "deadlock/stuck")
    assert fewest_preemptions(two_locks(), most=0) is None


@pytest.mark.parametrize("guard", [True, False])
def test_it_finds_what_the_reference_search_finds(*, guard: bool) -> None:
    world = notifier_retry(1, guard=guard)
    found, result = fewest_preemptions(world, most=MOST), search(world)
    assert [f.code for f in (found.findings if found else ())] == [f.code for f in result.findings]


class Counting(Run):
    """Counts switches away from a task that could have gone on."""

    preemptions = 0

    def step(self, number: int) -> None:
        self.preemptions += self.last in self.ready and number != self.last
        super().step(number)


def test_the_schedule_has_as_many_as_it_says() -> None:
    experiment = catalogue.small(catalogue.main_scenario("stale-gpte"), "stale-gpte")
    found = fewest_preemptions(experiment.world(), most=2)
    assert found is not None
    run = Counting(experiment.world(), RecordedPicker(found.schedule))
    assert [finding.code for finding in drive(run).findings] == ["audit/spte-agrees"]
    assert run.preemptions == found.preemptions == 1
