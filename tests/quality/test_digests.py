"""Same seed, same digest: on every host, in every process, under every hash seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from tests import catalogue
from tests.processes import said_elsewhere
from vmm.engine.hosts import HOSTS, driver
from vmm.engine.live import Run
from vmm.scenario.experiment import prepare
from vmm.scenario.loading import LoadedScenario
from vmm.strategies.random import RandomPicker

SEEDS, SEEDS_SLOW = 1, 200
RECORDED_EVENTS = 25
SOME = 8
"""One scenario in so many runs on every host by default; the tests of the corpus replay all."""

PROGRAM = """
from tests import catalogue
from tests.processes import said_elsewhere
from tests.quality.test_digests import digests
print(*digests(catalogue.scenarios(), {seeds}, "direct"), sep="\\n")
"""


def digests(scenarios: Iterable[LoadedScenario], seeds: int, host: str) -> list[str]:
    """The digests of scenarios under all seeds on a host."""
    found = []
    for loaded in scenarios:
        params = loaded.scenario.small
        if loaded.slug == catalogue.RECORDED:
            params = {"events": RECORDED_EVENTS}
        world = prepare(loaded, params=params).world()
        for seed in range(seeds):
            outcome = driver(host)(Run(world, RandomPicker(seed), monitors=False))
            found.append(f"{loaded.slug} {seed} {outcome.digest}")
    return found


def _in_a_process(seeds: int, hash_seed: str) -> list[str]:
    said = said_elsewhere(PROGRAM.format(seeds=seeds), hash_seed=hash_seed)
    return said.split("\n")[:-1]


def _all_agree(some: Sequence[LoadedScenario], seeds: int, *hash_seeds: str) -> None:
    expected = digests(catalogue.scenarios(), seeds, "direct")
    assert len(dict.fromkeys(expected)) == len(expected)
    for hash_seed in hash_seeds:
        assert _in_a_process(seeds, hash_seed) == expected, f"PYTHONHASHSEED={hash_seed}"
    for host in HOSTS:
        found = digests(some, seeds, host)
        assert found == [line for line in expected if line in found], host
        assert len(found) == seeds * len(some)


def test_digests_agree() -> None:
    """This process has a hash seed of its own."""
    _all_agree(catalogue.scenarios()[::SOME], SEEDS, "0")


@pytest.mark.slow
def test_digests_agree_for_many_seeds() -> None:
    _all_agree(catalogue.scenarios(), SEEDS_SLOW, "0", "1")


def test_seeds_differ() -> None:
    """A digest that never changed would agree as well."""
    loaded = catalogue.main_scenario("stale-gpte")
    world = prepare(loaded).world()
    run = driver("direct")
    found = [run(Run(world, RandomPicker(seed), monitors=False)).digest for seed in range(10)]
    assert len(dict.fromkeys(found)) == len(found)
