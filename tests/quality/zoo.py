"""Makes the race tables of docs/zoo.md anew, from the stored counterexamples.

.venv/bin/python -m tests.quality.zoo
"""

from __future__ import annotations

import re
from pathlib import Path

from vmm.discovery import public_name
from vmm.engine.hosts.direct import drive
from vmm.engine.schedule import decode
from vmm.report.violation import TABLE_WIDTH, violation
from vmm.scenario.experiment import reopen
from vmm.search.replay import CheckedRun
from vmm.strategies.recorded import RecordedPicker

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "zoo.md"
CORPUS = ROOT / "tests" / "corpus"
BLOCK = re.compile(
    r"(`vmm explore (?P<scenario>\S+) --bug (?P<bug>\S+)`\n(?:(?!```).*\n)*```race\n)"
    r"(?:(?!```).*\n)*(```)"
)


def renewed(text: str) -> str:
    """The page with its tables made anew; each is that of the command before it."""
    return BLOCK.sub(_renewed, text)


def _renewed(found: re.Match[str]) -> str:
    lines = table(public_name(found["scenario"]), found["bug"])
    return "\n".join([found[1] + lines[0], *lines[1:], found[4]])


def table(scenario: str, bug: str) -> list[str]:
    """The race table of a stored counterexample, without the token."""
    _, _, token = (CORPUS / f"{scenario}.{bug}.token").read_text("utf-8").partition(" ")
    recorded = decode(token.strip())
    experiment, picker = reopen(recorded), RecordedPicker(recorded.schedule)
    run = CheckedRun(experiment.world(), picker)
    *lines, _ = violation(experiment, run, drive(run)).table().lines(TABLE_WIDTH)
    return lines


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text("utf-8")), "utf-8")
