"""What the random worlds must be like for tests on them to mean anything."""

from collections import Counter

from tests.search.brute import enumerate_all
from tests.search.random_worlds import random_tso_world
from tests.search.test_brute_tso import PREFIXES_MAX, SEEDS, enumerated


def test_random_worlds_need_store_buffers() -> None:
    """Most can end as they cannot without: there neither model is taken for the other."""
    kinds: Counter[str] = Counter()
    for seed in SEEDS:
        buffered = enumerated(seed)
        plain = enumerate_all(random_tso_world(seed)[0], PREFIXES_MAX)
        if buffered is None or plain is None:
            kinds["too large"] += 1
        else:
            assert plain.terminal <= buffered.terminal
            kinds["differ" if plain.terminal != buffered.terminal else "alike"] += 1
    assert kinds["differ"] >= 6, kinds
