"""Where a bug does other than the fix has its row."""

from __future__ import annotations

import sys

from tests import catalogue
from vmm.engine.hosts.direct import drive
from vmm.report.bug_steps import BugSteps
from vmm.report.violation import Violation, violation
from vmm.search.replay import CheckedRun
from vmm.strategies.random import RandomPicker


def violated(bug: str, seed: int) -> Violation:
    experiment = catalogue.small(catalogue.main_scenario(bug), bug)
    run = CheckedRun(experiment.world(), RandomPicker(seed))
    return violation(experiment, run, drive(run))


def test_the_row_stands_where_the_override_was_entered() -> None:
    found = violated("stale-gpte", 1)
    table = found.table()
    at, row = next((n, r) for n, r in enumerate(table.rows) if r.text.startswith("bug "))
    assert row.text == (
        "bug    gpte_unchanged: The fix reads the gpte again, under the lock, once its table is "
        "protected"
    )
    assert (row.number, table.columns[row.column]) == (None, "v0")
    assert "acquire mmu_lock" in "".join(r.text for r in table.rows[:at] if r.column == row.column)
    assert "store: spte" in table.rows[at + 1].text
    assert not row.violates


def test_without_a_bug_there_is_nothing_to_note() -> None:
    experiment = catalogue.small(catalogue.main_scenario("stale-gpte"))
    steps = BugSteps(experiment.bugs)
    watched = steps.watching(drive)
    assert not watched(CheckedRun(experiment.world(), RandomPicker(1))).findings
    assert steps.found == []


def test_the_last_entry_of_each_task_and_override_counts() -> None:
    experiment = catalogue.small(catalogue.main_scenario("stale-gpte"), "remote-flush-missing")
    steps = BugSteps(experiment.bugs)
    outcome = steps.watching(drive)(CheckedRun(experiment.world(), RandomPicker(3)))
    places = [(step.task, step.name) for step in steps.found]
    assert places == list(dict.fromkeys(places))
    assert [step.after for step in steps.found] == sorted(step.after for step in steps.found)
    assert all(outcome.tasks[step.after - 1] == step.task for step in steps.found if step.after)
    assert places


def test_the_profiler_of_before_is_back() -> None:
    before = sys.getprofile()
    violated("stale-gpte", 1).table()
    assert sys.getprofile() is before
