"""The rows of the matrix: for each bug what came of its search and of its fixed twin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vmm.bugs import Bug
from vmm.discovery import discover
from vmm.matrix.plan import Pair
from vmm.matrix.work import Answer, BugSearch, Found, Piece, Sampled, Sampling, Twin, TwinSearch


@dataclass(frozen=True)
class Row:
    """A bug. ``found``: with a code that it names. What was not searched yet is None.

    ``states``: visited until it was found; ``fixed_states``: all those of the twin. ``executions``:
    the median that random sampling needs.
    """

    bug: str
    scenario: str
    title: str
    year: int | None
    fix: str
    source: str
    historical: bool
    expected: tuple[str, ...]
    found: bool | None = None
    code: str | None = None
    states: int | None = None
    steps: int | None = None
    switches: int | None = None
    preemptions: int | None = None
    schedule: str | None = None
    executions: int | None = None
    fixed_clean: bool | None = None
    fixed_states: int | None = None
    fixed_code: str | None = None
    fixed_goals_missed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Matrix:
    """All rows, in the order of the bugs' names."""

    rows: tuple[Row, ...]

    @property
    def killed(self) -> int:
        """How many bugs were found."""
        return sum(row.found is True for row in self.rows)

    @property
    def false_positives(self) -> int:
        """How many scenarios violate something without their bug."""
        return len(dict.fromkeys(row.scenario for row in self.rows if row.fixed_code is not None))

    @property
    def twins(self) -> dict[str, bool | None]:
        """Whether each scenario is clean without its bugs."""
        return {row.scenario: row.fixed_clean for row in self.rows}

    @property
    def is_whole(self) -> bool:
        """Whether every bug was found, and every fixed twin exhausted clean."""
        return all(row.found and row.fixed_clean for row in self.rows)

    def complaints(self) -> list[str]:
        """One line for each bug or twin that is not as it should be."""
        return [line for row in self.rows for line in _complaints(row)]

    def summary(self) -> str:
        """All in one line."""
        clean = sum(map(bool, self.twins.values()))
        return (
            f"{self.killed} of {len(self.rows)} bugs found; {clean} of {len(self.twins)} fixed "
            f"twins exhausted clean; {self.false_positives} false positives"
        )

    def keys(self) -> dict[str, Any]:
        """As the command line's JSON has it."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "killed": self.killed,
            "total": len(self.rows),
            "historical": sum(row.historical for row in self.rows),
            "false_positives": self.false_positives,
        }


def matrix(pairs: Sequence[Pair], answers: Mapping[Piece, Answer]) -> Matrix:
    """The matrix of these pairs, from the answers that there are."""
    return Matrix(tuple(_row(pair, answers) for pair in pairs))


def _row(pair: Pair, answers: Mapping[Piece, Answer]) -> Row:
    bug: Bug = discover("vmm.bugs")[pair.bug].SPEC
    known: dict[str, Any] = {}
    found, twin = answers.get(BugSearch(pair)), answers.get(TwinSearch(pair.scenario))
    sampled = answers.get(Sampling(pair))
    if isinstance(found, Found):
        known |= {**asdict(found), "found": found.code in bug.caught_by}
    if isinstance(twin, Twin):
        known |= {
            "fixed_clean": twin.is_clean,
            "fixed_states": twin.states,
            "fixed_code": twin.code,
            "fixed_goals_missed": twin.goals if twin.code is None else (),
        }
    if isinstance(sampled, Sampled):
        known["executions"] = sampled.executions
    return Row(
        bug=pair.bug,
        scenario=pair.scenario,
        title=bug.title,
        year=bug.year,
        fix=bug.fix,
        source=bug.source,
        historical=bug.historical,
        expected=bug.caught_by,
        **known,
    )


def _complaints(row: Row) -> list[str]:
    said = []
    if row.found is False:
        what = "nothing" if row.code is None else row.code
        said.append(f"{row.bug}: {row.scenario} shows {what}, not {' or '.join(row.expected)}")
    if row.fixed_code is not None:
        said.append(f"{row.scenario} shows {row.fixed_code} without the bug {row.bug}")
    elif row.fixed_goals_missed:
        missed = ", ".join(row.fixed_goals_missed)
        said.append(f"{row.scenario} never reaches {missed}, so that clean says little")
    elif row.fixed_clean is False:
        said.append(f"{row.scenario} was not searched whole")
    return said
