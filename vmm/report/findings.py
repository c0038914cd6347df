"""Finding files: one JSON file for each distinct finding, readable, replayable, fit for git.

``findings/<scenario>-<fingerprint>.json``: the fingerprint covers the scenario, the rule and the
message without its numbers, so that finding it again does not make another file. The shortest
schedule stays, unless the scenario was edited since.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import msgspec

from vmm.engine.monitor import Finding
from vmm.engine.schedule import decode
from vmm.errors import ScheduleError, UsageError
from vmm.report.files import write_whole

DIRECTORY = "findings"
"""Where finding files go if nothing else is said."""
FORMAT = 1


class FindingFile(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a finding file. ``table`` is the race table as text, for readers."""

    vmm_finding: int = FORMAT
    scenario: str
    code: str
    message: str
    rule: str
    source: str
    cells: tuple[str, ...]
    fingerprint: str
    bugs: tuple[str, ...]
    era: str | None
    params: dict[str, int | str]
    steps: int
    switches: int
    table: list[str]
    schedule: str

    @property
    def finding(self) -> Finding:
        """The finding itself."""
        return Finding(self.code, self.message, self.rule, self.source, self.cells)


def fingerprint(scenario: str, finding: Finding) -> str:
    """What a distinct finding is known by: 16 hexadecimal digits."""
    message = re.sub(r"0x[0-9a-fA-F]+|\d+", "#", finding.message)
    content = f"{scenario}\0{finding.code}\0{finding.rule}\0{message}"
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def path_of(directory: Path, slug: str, fingerprint: str) -> Path:
    """Where the finding file of that scenario and fingerprint is kept."""
    return directory / f"{slug}-{fingerprint}.json"


def save(path: Path, found: FindingFile) -> None:
    """Keep a finding, unless the file already holds one that is as short and still valid."""
    if _is_better(path, found):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the directory {path.parent}: {error.strerror}") from error
    write_whole(path, msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")


def _is_better(path: Path, found: FindingFile) -> bool:
    """Whether the file holds the same finding on the same scenario, in no more steps."""
    if not path.exists():
        return False
    try:
        kept = read(path)
        origin = decode(kept.schedule).origin
    except UsageError:
        return False
    return kept.steps <= found.steps and origin == decode(found.schedule).origin


def read(path: Path) -> FindingFile:
    """The content of a finding file. Errors: ScheduleError, in one line."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ScheduleError(f"cannot read {path}: {error.strerror}") from error
    try:
        found = msgspec.json.decode(content, type=FindingFile)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ScheduleError(
            f"{path} is not a finding file ({error}); vmm explore writes them to {DIRECTORY}/"
        ) from error
    if found.vmm_finding != FORMAT:
        raise ScheduleError(
            f"{path} has the format {found.vmm_finding}, this vmm reads {FORMAT}: explore again"
        )
    return found
