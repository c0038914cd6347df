"""Makes the corpus anew: a shortest counterexample of each bug in each scenario that shows it.

Livelocks are left out: no step shows them.

    .venv/bin/python -m tests.corpus.make [NAME ...]

A name is a scenario or a bug: then the files of these alone are made anew.

To be run after a scenario was edited, which makes its tokens stale. A token is written as it is
printed, with the finding's code before it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tests import catalogue
from vmm.engine.hosts.direct import drive
from vmm.engine.schedule import encode
from vmm.search.exhaustive import search
from vmm.search.replay import CheckedRun
from vmm.strategies.recorded import RecordedPicker

CORPUS = Path(__file__).parent


def main(names: Sequence[str]) -> None:
    """Write one file per scenario and bug, of all or of the named ones."""
    for stale in CORPUS.glob("*.token"):
        if wanted(names, *stale.stem.split(".")):
            stale.unlink()
    for loaded, bug in catalogue.shows_in_a_step():
        if not wanted(names, loaded.slug, bug):
            continue
        experiment = catalogue.small(loaded, bug)
        result = search(experiment.world())
        assert result.schedule is not None, f"{loaded.slug} does not show {bug}"
        run = CheckedRun(experiment.world(), RecordedPicker(result.schedule))
        outcome = drive(run)
        token = encode(run.recorded(experiment.origin, outcome))
        name = f"{loaded.slug}.{bug}.token"
        (CORPUS / name).write_text(f"{outcome.findings[0].code} {token}\n")


def wanted(names: Sequence[str], scenario: str, bug: str) -> bool:
    """Whether a file is to be made anew."""
    return not names or scenario in names or bug in names


if __name__ == "__main__":
    main(sys.argv[1:])
