"""Finding files: one for each distinct finding, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from vmm.engine.monitor import Finding
from vmm.engine.schedule import Origin, Recorded, Schedule, encode
from vmm.errors import ScheduleError, UsageError
from vmm.report import files
from vmm.report.findings import FindingFile, fingerprint, path_of, read, save


def token(content: str = "00") -> str:
    origin = Origin(scenario="some", fingerprint=content, params={}, bugs=(), era=None)
    return encode(Recorded(origin, Schedule(b"\0"), 1, b"\0", "00"))


def found(steps: int = 5, *, content: str = "00", message: str = "spte 7 is stale") -> FindingFile:
    return FindingFile(
        scenario="some",
        code="audit/agrees",
        message=message,
        rule="they agree",
        source="a test",
        cells=("spte",),
        fingerprint="f" * 16,
        bugs=(),
        era=None,
        params={"vcpus": 2},
        steps=steps,
        switches=1,
        table=["a line"],
        schedule=token(content),
    )


def test_numbers_make_no_other_finding() -> None:
    def of(message: str, code: str = "a/b", scenario: str = "some") -> str:
        return fingerprint(scenario, Finding(code, message, "rule", "source"))

    assert of("spte 7 at 0x1f") == of("spte 12 at 0xbeef")
    assert len({of("spte 7"), of("gpte 7"), of("spte 7", "a/c"), of("spte 7", "a/b", "other")}) == 4


def test_what_is_saved_can_be_read(tmp_path: Path) -> None:
    path = path_of(tmp_path / "deep" / "findings", "some", "f" * 16)
    save(path, found())
    assert path.name == "some-ffffffffffffffff.json"
    assert read(path) == found()
    assert json.loads(path.read_text())["table"] == ["a line"]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("kept", "new", "stays"),
    [
        (found(5), found(5), True),
        (found(5), found(9), True),
        (found(5), found(4), False),
        (found(5), found(9, content="11"), False),
    ],
)
def test_the_shortest_valid_schedule_stays(
    tmp_path: Path, kept: FindingFile, new: FindingFile, stays: bool
) -> None:
    path = tmp_path / "some.json"
    save(path, kept)
    save(path, new)
    assert read(path) == (kept if stays else new)


def test_an_unreadable_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text("{}")
    save(path, found())
    assert read(path) == found()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"vmm_finding": 1}', "\xff"])
def test_other_files_are_told_from_finding_files(tmp_path: Path, content: str) -> None:
    path = tmp_path / "some.json"
    path.write_text(content)
    with pytest.raises(ScheduleError, match="is not a finding file"):
        read(path)


def test_a_later_format_is_told(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(found(), vmm_finding=2)))
    with pytest.raises(ScheduleError, match="has the format 2, this vmm reads 1"):
        read(path)


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "some.json"
    files.write_whole(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UsageError, match="No space left on device"):
        files.write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
