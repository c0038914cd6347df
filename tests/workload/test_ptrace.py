"""The reader of recordings: every record as written, every flaw refused in one clear line."""

import json
import lzma
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vmm.errors import UsageError
from vmm.workload.ptrace import (
    Checkpoint,
    ControlWrite,
    DataStore,
    End,
    FirstTouch,
    Invlpg,
    LoadCr3,
    PageBecomesTable,
    PageFault,
    RecordingError,
    Registers,
    RootDead,
    TablePage,
    TableStore,
    read_recording,
)

SMALL = Path(__file__).parents[2] / "scenarios" / "data" / "dev_smp2_small.ptrace.xz"
SHA, SHA_AD = "0123456789abcdef" * 2, "fedcba9876543210" * 2
PREAMBLE = ["R 1 80050033 2000 6e0 d01", "R 0 80050033 1000 6f0 d01", "S 1 4 0:2067 1ff:3067"]

Build = Callable[..., Path]


def header(lines: list[str], /, **changed: Any) -> str:
    """A header that tells the truth about these lines of events."""
    fields: dict[str, Any] = {
        "format": "kvmshadow-ptrace",
        "version": 1,
        "title": "made by hand",
        "guest": "none",
        "recorder": "none",
        "vcpus": 12,
        "snapshot_pages": 1,
        "events": Counter(line[:1] for line in lines),
        "final_digest": SHA * 2,
        "final_digest_ad": SHA_AD * 2,
        "a_field_of_tomorrow": 0,
    }
    return json.dumps(fields | changed)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Writes a recording of these events; each part of it can be replaced."""

    def write(
        *events: str,
        head: str | None = None,
        preamble: list[str] | None = None,
        end: list[str] | None = None,
        **changed: Any,
    ) -> Path:
        registers = [f"R {cpu} 80050033 1000 6f0 d01" for cpu in range(2, 12)]
        lines = [
            header(list(events), **changed) if head is None else head,
            *([*PREAMBLE, *registers] if preamble is None else preamble),
            *events,
            *([f"E {len(events)}"] if end is None else end),
        ]
        path = tmp_path / "hand.ptrace.xz"
        path.write_bytes(lzma.compress("".join(f"{line}\n" for line in lines).encode()))
        return path

    return write


def refusal(path: Path) -> str:
    """What the reader says, without the name of the file."""
    with pytest.raises(RecordingError) as caught:
        read_recording(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert "; " in message, "no advice how to mend it"
    return message.removeprefix(str(path))


def test_the_recording_in_the_box_is_read_whole() -> None:
    recording = read_recording(SMALL)
    assert recording.header.vcpus == 2
    assert [registers.cpu for registers in recording.registers] == [0, 1]
    assert len(recording.tables) == 155
    assert len(recording.events) == recording.end.count == 7176
    lines = [record.line for record in (*recording.tables, *recording.events, recording.end)]
    assert lines == list(range(4, 4 + len(lines)))


def test_every_kind_of_record_is_read_with_its_own_bases(build: Build) -> None:
    recording = read_recording(
        build(
            "W 10 1008 8 10",
            "W 10 1000 8 0 512",
            "W 0 1003 1 ff 10",
            "X 1 1010 4",
            "X 1 1010 4 10",
            "P 10 2 10:10 1ff:8000000000000010",
            "P 11 1 ",
            "C a 10",
            "D 1 10",
            "I b ffff888000000010",
            "F 1 10 10",
            "A 10 10 ru 10",
            "A 0 10 xs -",
            "A 0 10 mu 10",
            "4 a 6f0",
            "0 a 80050033",
            f"K 10 {SHA} {SHA_AD}",
            f"k 10 {SHA} {SHA_AD}",
        )
    )
    assert recording.registers[:2] == (
        Registers(3, 0, 0x80050033, 0x1000, 0x6F0, 0xD01),
        Registers(2, 1, 0x80050033, 0x2000, 0x6E0, 0xD01),
    )
    assert recording.tables == (TablePage(4, 1, 4, ((0, 0x2067), (0x1FF, 0x3067))),)
    assert recording.events == (
        TableStore(15, 10, 0x1008, 8, 0x10, 1),
        TableStore(16, 10, 0x1000, 8, 0, 512),
        TableStore(17, 0, 0x1003, 1, 0xFF, 10),
        DataStore(18, 1, 0x1010, 4, 1),
        DataStore(19, 1, 0x1010, 4, 10),
        PageBecomesTable(20, 0x10, 2, ((0x10, 0x10), (0x1FF, 1 << 63 | 0x10))),
        PageBecomesTable(21, 0x11, 1, ()),
        LoadCr3(22, 10, 0x10),
        RootDead(23, 1, 0x10),
        Invlpg(24, 11, 0xFFFF888000000010),
        PageFault(25, 1, 0x10, 0x10),
        FirstTouch(26, 10, 0x10, "r", user=True, gpa=0x10),
        FirstTouch(27, 0, 0x10, "x", user=False, gpa=None),
        FirstTouch(28, 0, 0x10, "m", user=True, gpa=0x10),
        ControlWrite(29, 4, 10, 0x6F0),
        ControlWrite(30, 0, 10, 0x80050033),
        Checkpoint(31, 10, SHA, SHA_AD, dense=False),
        Checkpoint(32, 10, SHA, SHA_AD, dense=True),
    )
    assert recording.end == End(33, 18)


def test_only_touches_that_store_write() -> None:
    touches = (FirstTouch(1, 0, 0, kind, user=True, gpa=None) for kind in ("r", "w", "m", "x"))
    assert [touch.writes for touch in touches] == [False, True, True, False]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "unknown record ''"),
        ("Z 0 1", "unknown record 'Z'"),
        ("WW 0 1000 8 1", "unknown record 'WW'"),
        ("W 0 1000 8", "record W has the wrong number of fields, 3"),
        ("W 0 1000 8 1 1 1", "record W has the wrong number of fields, 6"),
        ("W  0 1000 8 1", "cpu '' of record W is not a decimal number"),
        ("W 0 0x1000 8 1", "gpa '0x1000' of record W is not a hexadecimal number"),
        ("W 0 10_00 8 1", "gpa '10_00' of record W is not a hexadecimal number"),
        ("W 0 1000 8 -1", "value '-1' of record W is not a hexadecimal number"),
        ("W 0 1000 8 11112222333344445", "value '11112222333344445' of record W is not"),
        ("W 0 1000 8 1\r", r"value '1\r' of record W is not"),
        ("W 0 1000 3 1", "size '3' of record W is not 1, 2, 4 or 8"),
        ("W 0 1000 8 1 0", "n '0' of record W is not a decimal count from 1"),
        ("W 0 1004 8 1", "store of size 8 to gpa 1004 is misaligned"),
        ("W 0 1008 8 1 512", "512 stores of size 8 from gpa 1008 leave their page"),
        ("W 0 1000 1 100", "value 100 does not fit in a store of size 1"),
        ("W 12 1000 8 1", "vCPU 12 is out of range: the header counts 12 vCPUs"),
        ("W a 1000 8 1", "cpu 'a' of record W is not a decimal number"),
        ("X 0 1002 4", "store of size 4 to gpa 1002 is misaligned"),
        ("X 0 1000 4 1 1", "record X has the wrong number of fields, 5"),
        ("P 1 5 0:1", "level '5' of record P is not a level from 1 to 4"),
        ("P 1 1 200:1", "i:v '200:1' of record P is not index:value"),
        ("P 1 1 0:1 0", "i:v '0' of record P is not index:value"),
        ("P 1 1 0:1 0:2", "table page 1 has an entry twice"),
        ("C c 1000", "vCPU c is out of range"),
        ("C 0", "record C has the wrong number of fields, 1"),
        ("D 0 1000 1", "record D has the wrong number of fields, 3"),
        ("I 0 g", "gva 'g' of record I is not a hexadecimal number"),
        ("F 0 1 +6", "err '+6' of record F is not a hexadecimal number"),
        ("A 0 1000 ur 1000", "km 'ur' of record A is not one of r, w, m, x"),
        ("A 0 1000 ru --", "gpa '--' of record A is not a hexadecimal number or -"),
        ("4 99 6f0", "vCPU 99 is out of range"),
        (f"K a {SHA} {SHA_AD}", "pages 'a' of record K is not a decimal number"),
        (f"k 1 {SHA} abc", "sha_ad 'abc' of record k is not 32 hexadecimal digits"),
        (PREAMBLE[0], "record R out of place"),
        (PREAMBLE[2], "record S out of place"),
        ("E 0", "record E out of place"),
    ],
)
def test_a_bad_event_is_refused_with_its_line(build: Build, line: str, complaint: str) -> None:
    message = refusal(build("I 0 1000", line))
    assert message.startswith(f":16: {complaint}")


def test_a_wrong_number_of_fields_shows_the_right_ones(build: Build) -> None:
    assert refusal(build("W 0")).endswith("; the form is W cpu gpa size value [n]")


@pytest.mark.parametrize(
    ("preamble", "complaint"),
    [
        (["R 0 1 1000 0 0", "R 0 1 1000 0 0"], ":3: registers of vCPU 0 given twice"),
        (["R 0 1 1000 0 0", PREAMBLE[2], PREAMBLE[2]], ":4: table page 1 given twice"),
        ([PREAMBLE[2]], ":2: no registers (record R) of vCPU 0"),
        ([], ":1: no registers (record R) of vCPU 0"),
        (["R 1 1 1000 0 0"], ":2: vCPU 1 is out of range"),
        (["R 0 1 1000 0 0", "S 1 4 0:0 0:0"], ":3: table page 1 has an entry twice"),
        (["R 0 1 1000 0 0", "S 1 four"], ":3: level 'four' of record S is not a level"),
    ],
)
def test_a_bad_start_is_refused(build: Build, preamble: list[str], complaint: str) -> None:
    assert refusal(build(preamble=preamble, vcpus=1)).startswith(complaint)


@pytest.mark.parametrize(
    ("end", "complaint"),
    [
        ([], ":15: the recording stops before its last record, E"),
        (["E"], ":16: record E has the wrong number of fields, 0"),
        (["E 2"], ":16: record E counts 2 events, the file has 1"),
        (["E 1", "E 1"], ":16: record E out of place"),
    ],
)
def test_a_bad_end_is_refused(build: Build, end: list[str], complaint: str) -> None:
    assert refusal(build("I 0 1000", end=end)).startswith(complaint)


@pytest.mark.parametrize(
    ("head", "complaint"),
    [
        (PREAMBLE[0], "missing or bad header"),
        ("", "missing or bad header"),
        ("[1]", "missing or bad header"),
        ("{}", "missing or bad header"),
        (header([], format="pcap"), "unknown format 'pcap' version 1"),
        (header([], version=2), "unknown format 'kvmshadow-ptrace' version 2"),
        (header([], version="1"), "missing or bad header"),
        (header([], vcpus=0), "missing or bad header"),
        (header([], events=None), "missing or bad header"),
    ],
)
def test_a_bad_header_is_refused(build: Build, head: str, complaint: str) -> None:
    assert refusal(build(head=head)).startswith(f":1: {complaint}")


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"snapshot_pages": 2}, "2 snapshot pages, the file has 1"),
        ({"events": {"K": 2}}, "2 events K, the file has 1"),
        ({"events": {"K": 1, "W": 1}}, "1 events W, the file has 0"),
        ({"events": {}}, "0 events K, the file has 1"),
        ({"final_digest": SHA_AD}, "other final digests than the last checkpoint, line 15"),
        ({"final_digest_ad": ""}, "other final digests than the last checkpoint, line 15"),
    ],
)
def test_a_header_that_the_records_deny_is_refused(
    build: Build, changed: dict[str, Any], complaint: str
) -> None:
    path = build(f"K 10 {SHA} {SHA_AD}", **changed)
    assert refusal(path).startswith(f":1: header says {complaint}")


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.ptrace.xz"
    path.write_bytes(SMALL.read_bytes()[:-1000])
    assert refusal(path).startswith(": xz data cut short or damaged")


def test_a_file_that_is_no_xz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.ptrace"
    path.write_bytes(lzma.decompress(SMALL.read_bytes()))
    assert refusal(path).startswith(": not an xz file")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.ptrace.xz"
    path.write_bytes(lzma.compress(b"{}\nR \xff\n"))
    assert refusal(path).startswith(":2: not ASCII text")


@pytest.mark.parametrize("name", ["absent.ptrace.xz", "."])
def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"cannot read: .*; check the name"):
        read_recording(tmp_path / name)
