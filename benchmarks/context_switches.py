"""What caching shadow pages saves a guest that switches between address spaces.

    python benchmarks/context_switches.py [--rounds 16]

Two vCPUs go round 2 to 16 address spaces and touch a page of each, in turn under round robin: once
with the shadow page cache of January 2007, once with the MMU of before, which throws the shadow
away at each cr3 load. Counted, not timed: the same figures on every machine. A column gives the
cached MMU, then the old one, then how many times more that is. Exits without page faults are the
same for both, since each cr3 load exits.
"""

from __future__ import annotations

from collections.abc import Mapping

import click

from vmm.engine.hosts import driver
from vmm.engine.live import Run
from vmm.scenario.experiment import prepare
from vmm.scenario.loading import load
from vmm.strategies.round_robin import SPEC as ROUND_ROBIN

SPACES = (2, 4, 8, 16)
COLUMNS = {
    "exits": "exits",
    "page faults": "exits: page fault",
    "shadow pages made": "shadow pages made",
    "TLB flushes": "TLB flushes",
}
"""Heading, and the count or the counts that begin so."""


def measure(spaces: int, rounds: int, *, no_cache: bool) -> Mapping[str, int]:
    """What a run did, by column."""
    params = {"spaces": spaces, "switches": rounds, "no_cache": int(no_cache)}
    world = prepare(load("context_switches"), params=params).world()
    assert ROUND_ROBIN.make is not None
    counts = driver("direct")(Run(world, ROUND_ROBIN.make(0))).counts
    return {
        heading: sum(n for name, n in counts.items() if name.startswith(prefix))
        for heading, prefix in COLUMNS.items()
    }


@click.command()
@click.option("--rounds", default=16, help="rounds of each vCPU through all spaces")
def main(rounds: int) -> None:
    """Print a row for each number of address spaces."""
    click.echo(f"{rounds} rounds of 2 vCPUs: cached, of before January 2007, ratio")
    click.echo(f"{'spaces':8}" + "".join(f"{heading:>26}" for heading in COLUMNS))
    for spaces in SPACES:
        cached, before = (measure(spaces, rounds, no_cache=old) for old in (False, True))
        cells = [
            f"{cached[name]:>10,}{before[name]:>9,}{before[name] / max(1, cached[name]):6.1f}x"
            for name in COLUMNS
        ]
        click.echo(f"{spaces:<8}" + "".join(cells))


if __name__ == "__main__":
    main()
