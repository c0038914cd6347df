"""The race tables of docs/zoo.md are those of the stored counterexamples."""

from __future__ import annotations

from tests.quality.zoo import BLOCK, PAGE, renewed

TOLD = (
    "stale-gpte",
    "notifier-retry",
    "early-request-check",
    "request-mode-dekker",
    "tlbs-dirty-notifier",
    "fast-fault-write-protected",
    "januscape",
    "zapscape",
)


def test_tables_are_as_the_tool_prints_them() -> None:
    text = PAGE.read_text("utf-8")
    assert renewed(text) == text, "python -m tests.quality.zoo makes them anew"


def test_each_block_is_a_table_and_the_famous_ones_are_told() -> None:
    text = PAGE.read_text("utf-8")
    found = [match["bug"] for match in BLOCK.finditer(text)]
    assert len(found) == text.count("```race\n")
    assert all(bug in found for bug in TOLD)


def test_a_table_that_was_edited_is_noticed() -> None:
    text = PAGE.read_text("utf-8")
    edited = text.replace("acquire mmu_lock", "acquire kvm->lock", 1)
    assert edited != text
    assert renewed(edited) == text
