"""The tables of the matrix."""

from __future__ import annotations

from dataclasses import replace

from tests.matrix.test_rows import JANUS, OTHER, answered
from vmm.matrix.rows import Matrix, matrix
from vmm.matrix.tables import document
from vmm.matrix.work import Sampled, Sampling

NAMED = "| `januscape` | 2026 | 81ccda30b4e8 | `januscape` | `audit/spte-agrees` |"
ROW = f"{NAMED} 10 | 5 | 1 | 0 | 20 |"


def test_a_row_a_bug() -> None:
    text = document(matrix([JANUS, OTHER], answered()))
    assert ROW in text.splitlines()
    assert "2 of 2 bugs found" in text
    assert "| 0 | 2 |" in text.splitlines(), "two bugs need no preemption"
    assert "Mutants" not in text


def test_mutants_have_a_table_of_their_own() -> None:
    first, second = matrix([JANUS, OTHER], answered()).rows
    mutant = replace(second, historical=False, year=None, fix="")
    text = document(Matrix((first, mutant)))
    before, _, after = text.partition("## Mutants")
    assert "`wrong-gfn-child`" in after
    assert "`wrong-gfn-child`" not in before


def test_sampling_adds_a_column() -> None:
    text = document(matrix([JANUS], {**answered(), Sampling(JANUS): Sampled(17)}))
    assert f"{ROW} 17 |" in text.splitlines()
