"""The claim of January 2007 in figures: with the cache, switching costs no faults."""

from __future__ import annotations

import pytest

from benchmarks.context_switches import measure

CACHED, BEFORE = False, True


@pytest.mark.parametrize("spaces", [2, 5])
def test_faults_end_after_the_first_round_with_the_cache_and_never_without(spaces: int) -> None:
    faults, made = {}, {}
    for no_cache in (CACHED, BEFORE):
        few, many = (measure(spaces, rounds, no_cache=no_cache) for rounds in (2, 4))
        faults[no_cache] = many["page faults"] - few["page faults"]
        made[no_cache] = many["shadow pages made"] - few["shadow pages made"]
    assert (faults[CACHED], made[CACHED]) == (0, 0)
    switches = 2 * 2 * spaces
    assert (faults[BEFORE], made[BEFORE]) == (switches, 4 * switches)


def test_all_else_that_exits_is_the_same() -> None:
    cached, before = (measure(4, 2, no_cache=no_cache) for no_cache in (CACHED, BEFORE))
    others = [counts["exits"] - counts["page faults"] for counts in (cached, before)]
    assert others[0] == others[1]
