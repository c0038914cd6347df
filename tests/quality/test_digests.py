"""Same seed, same digest: on every host, in every process, under every hash seed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import catalogue
from vmm.engine.hosts import HOSTS, driver
from vmm.engine.live import Run
from vmm.scenario.experiment import prepare
from vmm.strategies.random import RandomPicker

SEEDS, SEEDS_SLOW = 1, 200
RECORDED_EVENTS = 25

PROGRAM = """
from tests.quality.test_digests import digests
print(*digests({seeds}, "direct"), sep="\\n")
"""


def digests(seeds: int, host: str) -> list[str]:
    """The digests of all scenarios under all seeds on a host."""
    found = []
    for loaded in catalogue.scenarios():
        params = loaded.scenario.small
        if loaded.slug == catalogue.RECORDED:
            params = {"events": RECORDED_EVENTS}
        world = prepare(loaded, params=params).world()
        for seed in range(seeds):
            outcome = driver(host)(Run(world, RandomPicker(seed), monitors=False))
            found.append(f"{loaded.slug} {seed} {outcome.digest}")
    return found


def _in_a_process(seeds: int, hash_seed: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(seeds=seeds)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split("\n")[:-1]


def _all_agree(seeds: int) -> None:
    expected = digests(seeds, "direct")
    assert len(dict.fromkeys(expected)) == len(expected)
    for host in HOSTS:
        assert digests(seeds, host) == expected, host
    for hash_seed in "01":
        assert _in_a_process(seeds, hash_seed) == expected, f"PYTHONHASHSEED={hash_seed}"


def test_digests_agree() -> None:
    _all_agree(SEEDS)


@pytest.mark.slow
def test_digests_agree_for_many_seeds() -> None:
    _all_agree(SEEDS_SLOW)


def test_seeds_differ() -> None:
    """A digest that never changed would agree as well."""
    loaded = catalogue.main_scenario("stale-gpte")
    world = prepare(loaded).world()
    run = driver("direct")
    found = [run(Run(world, RandomPicker(seed), monitors=False)).digest for seed in range(10)]
    assert len(dict.fromkeys(found)) == len(found)
