"""The truth about a guest's page tables, worked out from its recorded stores alone.

4-level paging of 64-bit mode as the SDM has it (volume 3, chapter 4), over plain bytes. It shares
no code with the modeled hardware, so that either can be held against the other. Levels are
counted from the leaf: 4 is the root, 3 and 2 may end the walk with a 1G or a 2M page, 1 is 4K.
Permissions are those of the recorded guests: CR0.WP = 1, EFER.NXE = 1, no SMEP, SMAP or keys.
"""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from struct import Struct
from typing import NamedTuple, TypeAlias

from vmm.workload.ptrace import (
    PAGE_SIZE,
    Event,
    FirstTouch,
    LoadCr3,
    PageBecomesTable,
    Recording,
    RootDead,
    TableContent,
    TableStore,
)

PRESENT, WRITE, USER = 1 << 0, 1 << 1, 1 << 2
ACCESSED, DIRTY, PAGE_SIZE_BIT, GLOBAL = 1 << 5, 1 << 6, 1 << 7, 1 << 8
NX = 1 << 63
FRAME = (1 << 52) - PAGE_SIZE

Steps: TypeAlias = tuple[tuple[int, int], ...]

_ENTRIES = 512
_TABLE = Struct(f"<{_ENTRIES}Q")
_WITHOUT_AD = int.from_bytes((~(ACCESSED | DIRTY) & (1 << 64) - 1).to_bytes(8, "little") * _ENTRIES)


class Rights(NamedTuple):
    """What a walk grants: W and U if every level has them, NX if any level has it."""

    write: bool
    user: bool
    nx: bool


class Translation(NamedTuple):
    """A finished walk: `path` holds (gpa of the entry, entry), from the root to the leaf."""

    gva: int
    gpa: int
    level: int
    rights: Rights
    path: Steps

    @property
    def entry(self) -> int:
        """The entry that maps the page."""
        return self.path[-1][1]

    @property
    def is_global(self) -> bool:
        """Whether a TLB may keep the page across MOV CR3 (under CR4.PGE)."""
        return bool(self.entry & GLOBAL)


def is_canonical(gva: int) -> bool:
    """Whether bits 63 to 47 of an address agree."""
    return gva >> 47 in {0, (1 << 17) - 1}


def fault_code(
    translation: Translation | None, *, write: bool, user: bool, fetch: bool
) -> int | None:
    """Error code of the #PF that an access meets (SDM volume 3, 4.7), None if it goes through."""
    asked = write << 1 | user << 2 | fetch << 4
    if translation is None:
        return asked
    rights = translation.rights
    denied = (write and not rights.write) or (user and not rights.user) or (fetch and rights.nx)
    return PRESENT | asked if denied else None


def _shift(level: int) -> int:
    """Position in a gva of the index of a table of this level."""
    return 3 + 9 * level


def _is_leaf(level: int, entry: int) -> bool:
    """Whether a present entry maps a page rather than a table."""
    return level == 1 or (level < 4 and bool(entry & PAGE_SIZE_BIT))


def _translation(gva: int, level: int, path: Steps) -> Translation:
    """The translation by a path whose last entry is a leaf."""
    every, some = ~0, 0
    for _, entry in path:
        every &= entry
        some |= entry
    rights = Rights(bool(every & WRITE), bool(every & USER), bool(some & NX))
    offset = (1 << _shift(level)) - 1
    gpa = path[-1][1] & FRAME & ~offset | gva & offset
    return Translation(gva, gpa, level, rights, path)


class GuestTables:
    """Contents of the guest's page tables, and which pages are tables at all.

    A page is live while a root reaches it: the roots are the level-4 pages of the snapshot and
    every page loaded into CR3, until the guest drops them. Memory nobody described reads as zeros.
    """

    def __init__(self, snapshot: Iterable[TableContent] = ()) -> None:
        self._pages: dict[int, bytearray] = {}
        self._links: dict[tuple[int, int], frozenset[int]] = {}
        self._roots: set[int] = set()
        for content in snapshot:
            self.place(content)
            if content.level == 4:
                self._roots.add(content.pfn)

    @property
    def roots(self) -> frozenset[int]:
        """The pfns from which liveness is reckoned."""
        return frozenset(self._roots)

    def entry(self, pfn: int, index: int) -> int:
        """An entry of a page, live or not."""
        page = self._pages.get(pfn)
        return int.from_bytes(page[8 * index : 8 * index + 8], "little") if page else 0

    def place(self, content: TableContent) -> None:
        """Give a page its whole content."""
        self.store(content.pfn << 12, 8, 0, _ENTRIES)
        for index, value in content.entries:
            self.store((content.pfn << 12) + 8 * index, 8, value)

    def store(self, gpa: int, size: int, value: int, count: int = 1) -> None:
        """Store `count` times `size` bytes of `value`, one after another within the page."""
        pfn, offset = divmod(gpa, PAGE_SIZE)
        page = self._pages.setdefault(pfn, bytearray(PAGE_SIZE))
        page[offset : offset + size * count] = value.to_bytes(size, "little") * count
        for level in (2, 3, 4):
            self._links.pop((pfn, level), None)

    def load_root(self, cr3: int) -> None:
        """MOV CR3: its table is a root from here on."""
        self._roots.add((cr3 & FRAME) >> 12)

    def drop_root(self, pfn: int) -> None:
        """The guest is about to free a root."""
        self._roots.discard(pfn)

    def live(self) -> dict[int, int]:
        """The level of every live page, the highest if a page serves at several."""
        found: dict[int, int] = {}
        reached = self._roots
        for level in range(4, 0, -1):
            for pfn in reached:
                found.setdefault(pfn, level)
            reached = {child for pfn in reached for child in self._linked(pfn, level)}
        return found

    def walk(self, cr3: int, gva: int) -> Translation | None:
        """Translate as the processor would, changing nothing; None if some level is not present.

        A gva that is not canonical translates to nothing either; a processor answers it with #GP.
        """
        if not is_canonical(gva):
            return None
        table = cr3 & FRAME
        path: Steps = ()
        for level in range(4, 0, -1):
            index = gva >> _shift(level) & (_ENTRIES - 1)
            entry = self.entry(table >> 12, index)
            if not entry & PRESENT:
                return None
            path = (*path, (table + 8 * index, entry))
            if _is_leaf(level, entry):
                break
            table = entry & FRAME
        return _translation(gva, level, path)

    def set_accessed_dirty(self, cr3: int, gva: int, *, write: bool) -> None:
        """Leave the marks of a successful access: A on every level, and D on a written leaf.

        Raises LookupError if nothing is mapped at gva.
        """
        found = self.walk(cr3, gva)
        if found is None:
            raise LookupError(f"nothing is mapped at gva {gva:x} under cr3 {cr3:x}")
        for gpa, entry in found.path:
            self.store(gpa, 8, entry | ACCESSED)
        if write:
            gpa, entry = found.path[-1]
            self.store(gpa, 8, entry | ACCESSED | DIRTY)

    def leaves(self, root: int) -> Iterator[Translation]:
        """Every page that the root with this pfn maps, by ascending index at every level.

        A leaf is the translation of the page's first byte.
        """
        return self._leaves_below(root, 4, 0, ())

    def digest(self) -> tuple[int, str, str]:
        """Number of live pages, and sha256 of them without and with the A and D bits.

        Hashed is, for every live page in ascending order, its pfn and its 512 entries, as 64-bit
        little-endian words.
        """
        without, full = sha256(), sha256()
        live = sorted(self.live())
        for pfn in live:
            number = pfn.to_bytes(8, "little")
            page = self._pages.get(pfn, bytes(PAGE_SIZE))
            full.update(number + page)
            masked = int.from_bytes(page) & _WITHOUT_AD  # the whole page as one number
            without.update(number + masked.to_bytes(PAGE_SIZE))
        return len(live), without.hexdigest(), full.hexdigest()

    def _present(self, pfn: int) -> Iterator[tuple[int, int]]:
        """Index and value of the present entries of a page."""
        page = self._pages.get(pfn)
        entries = () if page is None else _TABLE.unpack(page)
        return ((index, entry) for index, entry in enumerate(entries) if entry & PRESENT)

    def _linked(self, pfn: int, level: int) -> frozenset[int]:
        """The tables that a table of this level points to, kept until a store hits the page."""
        if level == 1:
            return frozenset()
        links = self._links.get((pfn, level))
        if links is None:
            present = (entry for _, entry in self._present(pfn))
            links = frozenset((e & FRAME) >> 12 for e in present if not _is_leaf(level, e))
            self._links[pfn, level] = links
        return links

    def _leaves_below(self, pfn: int, level: int, base: int, above: Steps) -> Iterator[Translation]:
        """The leaves of one table whose first entry stands for gva `base`."""
        for index, entry in self._present(pfn):
            gva = base | index << _shift(level)
            if level == 4 and index >= _ENTRIES // 2:
                gva |= -(1 << 48) & ((1 << 64) - 1)
            path = (*above, ((pfn << 12) + 8 * index, entry))
            if _is_leaf(level, entry):
                yield _translation(gva, level, path)
            else:
                yield from self._leaves_below((entry & FRAME) >> 12, level - 1, gva, path)


class RecordedGuest:
    """A recording played back: the guest's tables and each vCPU's CR3 after the events so far."""

    def __init__(self, recording: Recording) -> None:
        self.tables = GuestTables(recording.tables)
        self.cr3 = [registers.cr3 for registers in recording.registers]

    def walk(self, cpu: int, gva: int) -> Translation | None:
        """Translate for one vCPU."""
        return self.tables.walk(self.cr3[cpu], gva)

    def apply(self, event: Event) -> None:
        """Play one event; those that change neither a table nor a CR3 pass without effect."""
        match event:
            case TableStore():
                self.tables.store(event.gpa, event.size, event.value, event.count)
            case PageBecomesTable():
                self.tables.place(event)
            case LoadCr3():
                self.cr3[event.cpu] = event.value
                self.tables.load_root(event.value)
            case RootDead():
                self.tables.drop_root(event.pfn)
            case FirstTouch():
                cr3 = self.cr3[event.cpu]
                self.tables.set_accessed_dirty(cr3, event.gva, write=event.writes)
            case _:
                pass
