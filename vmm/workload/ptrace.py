"""Strict reader of kvmshadow-ptrace v1: page-table stores and accesses of a real SMP guest.

A recording is xz text, one record a line, in the total order in which the guest ran. A record is
named after what happened; `line` is its line in the unpacked text, the header being line 1.
Addresses are in bytes, a pfn is a gpa shifted right by 12, level 1 is a table of 4K pages.
The fields of every record, their bases included, are listed once, in `_FORMS`.
"""

import lzma
import re
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain, repeat, takewhile
from os import PathLike, fspath
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeAlias, TypeVar, cast

import msgspec

from vmm.errors import UsageError

FORMAT = "kvmshadow-ptrace"
VERSION = 1
PAGE_SIZE = 4096

TouchKind: TypeAlias = Literal["r", "w", "m", "x"]


class RecordingError(UsageError):
    """A recording cannot be used; says where it goes wrong, what is wrong and how to mend it."""

    code = "recording/unreadable"


class _Stamp(msgspec.Struct, frozen=True):
    """What decides whether the rest of a header means anything to us."""

    format: str
    version: int


class Header(_Stamp, frozen=True, kw_only=True):
    """First line: what was recorded, and the counts and digests to check it by."""

    title: str
    guest: str
    recorder: str
    vcpus: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    snapshot_pages: int
    events: dict[str, int]
    final_digest: str = ""
    final_digest_ad: str = ""
    clock: str = ""
    x_cap: str = ""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One line of a recording."""

    line: int


class Registers(Record, frozen=True, gc=False):
    """R: the paging registers of a vCPU when the recording starts."""

    cpu: int
    cr0: int
    cr3: int
    cr4: int
    efer: int


class TableContent(Record, frozen=True, gc=False):
    """The content of a table page: (index, value) pairs, all other entries being zero."""

    pfn: int
    level: int
    entries: tuple[tuple[int, int], ...]


class TablePage(TableContent, frozen=True, gc=False):
    """S: a live table page when the recording starts."""


class PageBecomesTable(TableContent, frozen=True, gc=False):
    """P: a page is about to be linked as a table; its preparation was not seen."""


class TableStore(Record, frozen=True, gc=False):
    """W: a store to a page table: `count` little-endian copies of `value`, one after another."""

    cpu: int
    gpa: int
    size: int
    value: int
    count: int


class DataStore(Record, frozen=True, gc=False):
    """X: a store to a page that was a table and is none now; its value was withheld."""

    cpu: int
    gpa: int
    size: int
    count: int


class LoadCr3(Record, frozen=True, gc=False):
    """C: MOV CR3, a flush of this vCPU's non-global translations even if the value is the old."""

    cpu: int
    value: int


class RootDead(Record, frozen=True, gc=False):
    """D: the guest kernel is about to free this root table."""

    cpu: int
    pfn: int


class Invlpg(Record, frozen=True, gc=False):
    """I: INVLPG on this vCPU."""

    cpu: int
    gva: int


class PageFault(Record, frozen=True, gc=False):
    """F: a #PF was delivered; `error` is its error code (bit 0 P, 1 W, 2 U, 3 RSVD, 4 I/D)."""

    cpu: int
    cr2: int
    error: int


class FirstTouch(Record, frozen=True, gc=False):
    """A: first access of this kind to a page since the vCPU last dropped its translation.

    `kind` is r(ead), w(rite), m (load-modify-store) or x (fetch); `gpa` is where the recorder's
    own TLB led, None for fetches and device memory.
    """

    cpu: int
    gva: int
    kind: TouchKind
    user: bool
    gpa: int | None

    @property
    def writes(self) -> bool:
        """Whether the access needs write permission and sets D."""
        return self.kind in "wm"


class ControlWrite(Record, frozen=True, gc=False):
    """4 or 0: MOV to CR4 or CR0; `register` is that number."""

    register: Literal[0, 4]
    cpu: int
    value: int


class Checkpoint(Record, frozen=True, gc=False):
    """K: live table pages, and 32 hex digits of their digests, taken from the guest's RAM.

    `sha` ignores the accessed and dirty bits, `sha_ad` does not. A `dense` one (k) was computed
    between two of RAM by a replay that met both.
    """

    pages: int
    sha: str
    sha_ad: str
    dense: bool


class End(Record, frozen=True, gc=False):
    """E: the last line; the number of events before it."""

    count: int


_Content = TypeVar("_Content", TablePage, PageBecomesTable)

Event: TypeAlias = (
    TableStore
    | DataStore
    | PageBecomesTable
    | LoadCr3
    | RootDead
    | Invlpg
    | PageFault
    | FirstTouch
    | ControlWrite
    | Checkpoint
)


class Recording(msgspec.Struct, frozen=True):
    """A whole recording: `registers` by vCPU number, `tables` as the guest starts, `events`."""

    header: Header
    registers: tuple[Registers, ...]
    tables: tuple[TablePage, ...]
    events: tuple[Event, ...]
    end: End


# Type of a field -> (pattern, what a value that does not match should have been).
_TYPES = {
    "dec": ("[0-9]{1,9}", "a decimal number"),
    "hex": ("[0-9a-fA-F]{1,16}", "a hexadecimal number of at most 16 digits, without 0x"),
    "size": ("[1248]", "1, 2, 4 or 8"),
    "level": ("[1-4]", "a level from 1 to 4"),
    "count": ("[1-9][0-9]{0,8}", "a decimal count from 1"),
    "touch": ("[rwmx][us]", "one of r, w, m, x followed by u or s"),
    "frame": ("-|[0-9a-fA-F]{1,16}", "a hexadecimal number or -"),
    "sha": ("[0-9a-f]{32}", "32 hexadecimal digits"),
    "entry": ("1?[0-9a-fA-F]{1,2}:[0-9a-fA-F]{1,16}", "index:value in hexadecimal, index < 200"),
}

# Tag -> fields as name=type, in order; `?` ends one that may be absent, `*` one that repeats.
_FORMS = {
    "R": "cpu=dec cr0=hex cr3=hex cr4=hex efer=hex",
    "S": "pfn=hex level=level i:v=entry*",
    "W": "cpu=dec gpa=hex size=size value=hex n=count?",
    "X": "cpu=dec gpa=hex size=size n=count?",
    "P": "pfn=hex level=level i:v=entry*",
    "C": "cpu=hex value=hex",
    "D": "cpu=hex pfn=hex",
    "I": "cpu=hex gva=hex",
    "F": "cpu=hex cr2=hex err=hex",
    "A": "cpu=dec gva=hex km=touch gpa=frame",
    "4": "cpu=hex value=hex",
    "0": "cpu=hex value=hex",
    "K": "pages=dec sha=sha sha_ad=sha",
    "k": "pages=dec sha=sha sha_ad=sha",
    "E": "n=dec",
}
_Entries: TypeAlias = tuple[tuple[int, int], ...]

_XZ_MAGIC = b"\xfd7zXZ\0"
_PREAMBLE = ("R", "S")
_RESTORE = "copy the file again from its source, or record the guest again"


class _Field(NamedTuple):
    """A field of a record: `mark` is ? if it may be absent, * if it repeats, else empty."""

    name: str
    pattern: str
    should: str
    mark: str

    @classmethod
    def parse(cls, text: str) -> "_Field":
        """Read one `name=type` of `_FORMS`."""
        name, _, kind = text.partition("=")
        mark = kind[-1] if kind[-1] in "?*" else ""
        return cls(name, *_TYPES[kind.removesuffix(mark)], mark)


def _matcher(tag: str, fields: tuple[_Field, ...]) -> Callable[[str], re.Match[str] | None]:
    """Match a whole line, with one group a field: None if absent, all of it if it repeats.

    Fields that repeat no time at all leave their separating space behind.
    """
    pattern = tag
    for field in fields:
        if field.mark == "*":
            pattern += f"((?: {field.pattern})+| ?)"
        else:
            pattern += f"(?: ({field.pattern})){field.mark}"
    return re.compile(pattern).fullmatch


_FIELDS = {tag: tuple(map(_Field.parse, form.split())) for tag, form in _FORMS.items()}
_MATCH = {tag: _matcher(tag, fields) for tag, fields in _FIELDS.items()}


def _explain(text: str) -> tuple[str, str]:
    """What is wrong with a line that was refused, and the mend."""
    tag, *words = text.split(" ")
    if tag not in _FIELDS:
        return f"unknown record {tag[:20]!r}", _RESTORE
    fields = _FIELDS[tag]
    mend = "the form is " + " ".join([tag, *(f"[{f.name}]" if f.mark else f.name for f in fields)])
    least = sum(not field.mark for field in fields)
    if len(words) < least or (len(words) > len(fields) and fields[-1].mark != "*"):
        return f"record {tag} has the wrong number of fields, {len(words)}", mend
    for word, field in zip(words, chain(fields, repeat(fields[-1])), strict=False):
        if not re.fullmatch(field.pattern, word):
            return f"{field.name} {word[:40]!r} of record {tag} is not {field.should}", mend
    return f"record {tag} out of place", "R and S come before the events, E after them"


class _Reader:
    """Turns the lines after the header into records; `line` is the one being read."""

    def __init__(self, path: str, vcpus: int) -> None:
        self.path = path
        self.vcpus = vcpus
        self.line = 1

    def error(self, what: str, mend: str = _RESTORE) -> RecordingError:
        return RecordingError(f"{self.path}:{self.line}: {what}; {mend}")

    def fields(self, tag: str, text: str) -> tuple[str, ...]:
        match = _MATCH[tag](text)
        if match is None:
            raise self.error(*_explain(text))
        return match.groups()

    def cpu(self, text: str, base: int) -> int:
        cpu = int(text, base)
        if cpu >= self.vcpus:
            raise self.error(f"vCPU {text} is out of range: the header counts {self.vcpus} vCPUs")
        return cpu

    def span(self, gpa: int, size: int, count: int) -> None:
        """Refuse stores that are misaligned or run over the end of their page."""
        if gpa & (size - 1):
            raise self.error(f"store of size {size} to gpa {gpa:x} is misaligned")
        if (gpa & (PAGE_SIZE - 1)) + size * count > PAGE_SIZE:
            raise self.error(f"{count} stores of size {size} from gpa {gpa:x} leave their page")

    def content(self, kind: Callable[[int, int, int, _Entries], _Content], text: str) -> _Content:
        """S and P, whose fields are the same."""
        pfn, level, words = self.fields(text[0], text)
        pairs = (word.split(":") for word in words.split())
        entries = tuple((int(index, 16), int(value, 16)) for index, value in pairs)
        if len({index for index, _ in entries}) < len(entries):
            raise self.error(f"table page {pfn} has an entry twice")
        return kind(self.line, int(pfn, 16), int(level), entries)

    def registers(self, text: str) -> Registers:
        cpu, *values = self.fields("R", text)
        return Registers(self.line, self.cpu(cpu, 10), *(int(value, 16) for value in values))

    def table_store(self, text: str) -> TableStore:
        cpu, gpa_text, size_text, value_text, count_text = self.fields("W", text)
        gpa, size, value = int(gpa_text, 16), int(size_text), int(value_text, 16)
        count = int(count_text) if count_text else 1
        self.span(gpa, size, count)
        if value >> 8 * size:
            raise self.error(f"value {value:x} does not fit in a store of size {size}")
        return TableStore(self.line, self.cpu(cpu, 10), gpa, size, value, count)

    def data_store(self, text: str) -> DataStore:
        cpu, gpa_text, size_text, count_text = self.fields("X", text)
        gpa, size, count = int(gpa_text, 16), int(size_text), int(count_text or 1)
        self.span(gpa, size, count)
        return DataStore(self.line, self.cpu(cpu, 10), gpa, size, count)

    def first_touch(self, text: str) -> FirstTouch:
        cpu, gva, touch, frame = self.fields("A", text)
        kind = cast("TouchKind", touch[0])
        gpa = None if frame == "-" else int(frame, 16)
        return FirstTouch(self.line, self.cpu(cpu, 10), int(gva, 16), kind, touch[1] == "u", gpa)

    def hexadecimal(self, text: str) -> tuple[int, ...]:
        """C, D, I and F: line, vCPU and values, all of them hexadecimal in the text."""
        cpu, *values = self.fields(text[0], text)
        return self.line, self.cpu(cpu, 16), *[int(value, 16) for value in values]

    def control_write(self, text: str) -> ControlWrite:
        cpu, value = self.fields(text[0], text)
        register: Literal[0, 4] = 4 if text[0] == "4" else 0
        return ControlWrite(self.line, register, self.cpu(cpu, 16), int(value, 16))

    def checkpoint(self, text: str) -> Checkpoint:
        pages, sha, sha_ad = self.fields(text[0], text)
        return Checkpoint(self.line, int(pages), sha, sha_ad, text[0] == "k")

    def preamble(self, lines: Iterable[str]) -> tuple[list[Registers], list[TablePage]]:
        """R and S, up to the first line that is neither."""
        registers: dict[int, Registers] = {}
        tables: dict[int, TablePage] = {}
        for self.line, text in enumerate(takewhile(lambda line: line[:1] in _PREAMBLE, lines), 2):
            if text[0] == "R":
                regs = self.registers(text)
                if registers.setdefault(regs.cpu, regs) is not regs:
                    raise self.error(f"registers of vCPU {regs.cpu} given twice")
            else:
                page = self.content(TablePage, text)
                if tables.setdefault(page.pfn, page) is not page:
                    raise self.error(f"table page {page.pfn:x} given twice")
        missing = set(range(self.vcpus)) - set(registers)
        if missing:
            raise self.error(f"no registers (record R) of vCPU {min(missing)} up to here")
        return sorted(registers.values(), key=lambda regs: regs.cpu), list(tables.values())

    def rest(self, lines: list[str]) -> tuple[tuple[Event, ...], End]:
        """The events from the line after the current one, and the record E that closes them."""
        first = self.line + 1
        self.line += len(lines)
        if not lines or lines[-1][:1] != "E":
            raise self.error("the recording stops before its last record, E")
        end = End(self.line, int(*self.fields("E", lines[-1])))
        events: list[Event] = []
        for self.line, text in enumerate(lines[:-1], first):
            parse = _EVENTS.get(text[:1])
            if parse is None:
                raise self.error(*_explain(text))
            events.append(parse(self, text))
        self.line = end.line
        if end.count != len(events):
            raise self.error(f"record E counts {end.count} events, the file has {len(events)}")
        return tuple(events), end


_EVENTS: dict[str, Callable[[_Reader, str], Event]] = {
    "W": _Reader.table_store,
    "X": _Reader.data_store,
    "P": lambda reader, text: reader.content(PageBecomesTable, text),
    "C": lambda reader, text: LoadCr3(*reader.hexadecimal(text)),
    "D": lambda reader, text: RootDead(*reader.hexadecimal(text)),
    "I": lambda reader, text: Invlpg(*reader.hexadecimal(text)),
    "F": lambda reader, text: PageFault(*reader.hexadecimal(text)),
    "A": _Reader.first_touch,
    **dict.fromkeys("40", _Reader.control_write),
    **dict.fromkeys("Kk", _Reader.checkpoint),
}


def _unpack(path: str) -> list[str]:
    """The lines of an xz file, without their newlines."""
    try:
        packed = Path(path).read_bytes()
    except OSError as error:
        raise RecordingError(f"{path}: cannot read: {error.strerror}; check the name") from None
    if not packed.startswith(_XZ_MAGIC):
        raise RecordingError(f"{path}: not an xz file; give the .ptrace.xz itself, or pack with xz")
    try:
        text = lzma.decompress(packed)
    except lzma.LZMAError as error:
        what = f"xz data cut short or damaged ({error})"
        raise RecordingError(f"{path}: {what}; copy the file again from its source") from None
    try:
        return text.decode("ascii").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        line = 1 + text.count(b"\n", 0, error.start)
        raise RecordingError(f"{path}:{line}: not ASCII text; {_RESTORE}") from None


def _header(path: str, text: str) -> Header:
    """The first line; its format and version are held against ours before the rest of it."""
    try:
        stamp = msgspec.json.decode(text, type=_Stamp)
        if (stamp.format, stamp.version) == (FORMAT, VERSION):
            return msgspec.json.decode(text, type=Header)
    except msgspec.DecodeError as error:
        what = f"missing or bad header ({error})"
        raise RecordingError(f"{path}:1: {what}; {_RESTORE}") from None
    what = f"unknown format {stamp.format!r} version {stamp.version}"
    mend = f"record the guest again as {FORMAT} version {VERSION}"
    raise RecordingError(f"{path}:1: {what}; {mend}")


def _check(recording: Recording, tags: Counter[str]) -> str | None:
    """What the header says and the records deny, if anything."""
    header = recording.header
    if header.snapshot_pages != len(recording.tables):
        return f"{header.snapshot_pages} snapshot pages, the file has {len(recording.tables)}"
    for tag in sorted({*tags, *header.events}):
        if header.events.get(tag, 0) != tags[tag]:
            return f"{header.events.get(tag, 0)} events {tag}, the file has {tags[tag]}"
    last = next((e for e in reversed(recording.events) if isinstance(e, Checkpoint)), None)
    if last is None or (
        header.final_digest.startswith(last.sha) and header.final_digest_ad.startswith(last.sha_ad)
    ):
        return None
    return f"other final digests than the last checkpoint, line {last.line}"


def read_recording(path: str | PathLike[str]) -> Recording:
    """Read and check a whole recording.

    Raises RecordingError, in one line, for anything that is not exactly the format.
    """
    name = fspath(path)
    lines = _unpack(name)
    header = _header(name, lines[0])
    reader = _Reader(name, header.vcpus)
    registers, tables = reader.preamble(lines[1:])
    first = reader.line
    events, end = reader.rest(lines[first:])
    recording = Recording(header, tuple(registers), tuple(tables), events, end)
    denied = _check(recording, Counter([text[0] for text in lines[first:-1]]))
    if denied is not None:
        raise RecordingError(f"{name}:1: header says {denied}; {_RESTORE}")
    return recording
