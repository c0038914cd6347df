"""Audit: what a shadow table maps is what its guest table says."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from vmm.bits import NX, A, D, P, U, W, combine, frame_of
from vmm.engine.cells import Cell, CellArray
from vmm.engine.events import Event
from vmm.engine.monitor import Audit, Finding, Step, Verdict, View
from vmm.engine.world import World
from vmm.hw.paging import is_leaf, reserved_bits, target
from vmm.mmu.api import EmulatedStore, EmulatedStoreDone
from vmm.mmu.memslots import gfn_of
from vmm.mmu.mmu import ShadowMmu
from vmm.mmu.role import Role
from vmm.mmu.shadow_page import Header, ShadowPage, SpteRef, format_header
from vmm.monitors import Oracle, is_obsolete, is_unsync
from vmm.units import (
    ENTRIES_PER_TABLE,
    PAGE_BYTES,
    Gfn,
    Gpa,
    Gva,
    frames_per_entry,
    gfn_to_gpa,
    word_of,
)
from vmm.vcpu.vcpu import Vm

if TYPE_CHECKING:
    from typing import Any

Pending = tuple[tuple[int, Gpa], ...]


class SpteAgrees(Audit):
    """The state is the emulated stores that reached memory but not the shadow yet.

    Their gptes are excused, and those of tables that are left out of sync; all others must agree
    whenever mmu_lock is released.
    """

    name = "audit/spte-agrees"
    events = (EmulatedStore, EmulatedStoreDone)

    def __init__(self, mmu: ShadowMmu) -> None:
        self.mmu = mmu
        self.pages = {page.unsync: page for page in mmu.cache.pages if page.unsync is not None}

    def initial(self) -> Pending:
        return ()

    def on_event(self, state: Pending, event: Event, step: Step, view: View) -> Verdict:
        del step, view
        if isinstance(event, EmulatedStore):
            return tuple(sorted((*state, (event.vcpu, event.gpa)))), ()
        assert isinstance(event, EmulatedStoreDone)
        return tuple([p for p in state if p != (event.vcpu, event.gpa)]), ()

    def watched(self) -> tuple[Cell[Any] | CellArray[Any, Any], ...]:
        # A gpte of a shadowed table changes by an emulated store, after which its spte is updated;
        # what changes behind the MMU's back is seen by the full audit and by write protection.
        return (self.mmu.cache.sptes, *self.pages)

    def full(self, state: Pending, view: View) -> tuple[Finding, ...]:
        found: list[Finding] = []
        for ref, spte in view.items(self.mmu.cache.sptes):
            found += self._spte(ref, spte, state, view)
        return tuple(found)

    def incremental(
        self, state: Pending, view: View, written: tuple[Cell[Any], ...]
    ) -> tuple[Finding, ...]:
        found: list[Finding] = []
        for cell in written:
            if cell in self.pages:
                found += self._page(self.pages[cell], state, view)
            else:
                found += self._spte(cast("SpteRef", cell.key), view[cell], state, view)
        return tuple(found)

    def _page(self, page: ShadowPage, state: Pending, view: View) -> list[Finding]:
        return [
            finding
            for index in view[page.present]
            for finding in self._spte(SpteRef(page.number, index), view[page[index]], state, view)
        ]

    def _spte(self, ref: SpteRef, spte: int, state: Pending, view: View) -> list[Finding]:
        page = self.mmu.cache.pages[ref.page]
        header = view[page.header]
        if header is None or not spte & P or header.role.owner or header.role.invalid:
            return []
        if is_unsync(page, view) or is_obsolete(self.mmu.cache, page, view):
            return []
        if header.role.direct:
            return self._direct(ref, spte, header, view)
        gpa = gpte_gpa(header, ref.index)
        if any(word_of(gpa) == pending for _, pending in state):
            return []
        word = self.mmu.memory.word(gpa)
        gpte = view[word]
        if header.role.glevels == 2:
            gpte = gpte >> 8 * (gpa - word_of(gpa)) & 0xFFFF_FFFF
        wrong = self._disagreement(ref, spte, gpte, header, view)
        if not wrong:
            return []
        return [
            SPEC.finding(
                "audit/spte-agrees",
                f"{ref} {wrong}, but {word.name} says {word.format(view[word])}",
                f"spte {ref}",
                word.name,
            )
        ]

    def _disagreement(self, ref: SpteRef, spte: int, gpte: int, header: Header, view: View) -> str:
        """What an spte says that its gpte does not; empty if they agree."""
        level, controls = header.role.level, header.role.controls
        large = level > 1 and is_leaf(gpte, level, controls)
        if level == 1:
            wrong = self._leaf(spte, gpte, header.role)
        else:
            child = view[self.mmu.cache.page_at(frame_of(spte)).header]
            wrong = self._link(ref, child, gpte, header, large=large)
        if not wrong and gpte & reserved_bits(level, controls, leaf=large or level == 1):
            wrong = "is present"
        return wrong

    def _link(
        self, ref: SpteRef, child: Header | None, gpte: int, header: Header, *, large: bool
    ) -> str:
        if child is None:
            return "points to a freed shadow page"
        if not gpte & P:
            return f"links a shadow of gfn {child.gfn:#x}"
        table, quadrant = frame_of(gpte), 0
        if large:
            stretch = Gva(ref.index * frames_per_entry(header.role.level) * PAGE_BYTES)
            table = target(gpte, header.role.level, stretch, header.role.controls) // PAGE_BYTES
        elif header.role.glevels == 2:
            quadrant = ref.index % 2
        access = combine(header.role.access, gpte)
        allowed = [access]
        if large:  # shadowed without W while it is clean; a walk sets D before the shadow follows
            allowed = [access & ~W] if not gpte & D else [access, access & ~W]
        expected = header.role._replace(
            level=header.role.level - 1, direct=large, access=child.role.access, quadrant=quadrant
        )
        if child != (table, expected):
            return f"links a shadow of gfn {child.gfn:#x} ({child.role})"
        return "" if child.role.access in allowed else f"links a shadow with rights {child.role}"

    def _leaf(self, spte: int, gpte: int, role: Role) -> str:
        gfn = gfn_of(frame_of(spte))
        if not gpte & P or frame_of(gpte) != gfn:
            return f"maps gfn {gfn:#x}"
        if self._grants_more(spte, combine(role.access, gpte), role):
            return "grants rights that the guest does not"
        if spte & W and not gpte & D:
            return "is writable while D is clear, so the first write would not set it"
        return "" if gpte & A else "is cached while A is clear"

    def _grants_more(self, spte: int, access: int, role: Role) -> bool:
        if not role.wp and spte & W and not (spte & U or access & W):
            # Guest CR0.WP is clear: the supervisor may write, so W is granted and U taken. Under
            # SMEP, what was the user's must not become code of the supervisor's.
            access |= W | (NX if role.smep_andnot_wp else 0)
        return bool(spte & ~access & (W | U) or access & ~spte & NX)

    def _direct(self, ref: SpteRef, spte: int, header: Header, view: View) -> list[Finding]:
        """An spte of a large page's shadow: a fixed stretch of frames, with fixed rights."""
        first = Gfn(header.gfn + ref.index * frames_per_entry(header.role.level))
        if header.role.level > 1:
            child = view[self.mmu.cache.page_at(frame_of(spte)).header]
            expected = Header(first, header.role._replace(level=header.role.level - 1))
            wrong = "" if child == expected else f"links {format_header(child)}"
        elif gfn_of(frame_of(spte)) != first:
            wrong = f"maps gfn {gfn_of(frame_of(spte)):#x} instead of {first:#x}"
        elif self._grants_more(spte, header.role.access, header.role):
            wrong = "grants rights that the page does not have"
        else:
            return []
        message = f"{ref} of the direct page for {format_header(header)} {wrong}"
        cells = (f"spte {ref}", *self._ways(ref, view))
        return [SPEC.finding("audit/spte-agrees", message, *cells)] if wrong else []

    def _ways(self, ref: SpteRef, view: View) -> list[str]:
        """What a direct page is, and what leads to it: sptes, and the gptes that they shadow."""
        page = self.mmu.cache.pages[ref.page]
        names = [page.header.name]
        for parent in view[page.parents]:
            names.append(f"spte {parent}")
            header = view[self.mmu.cache.pages[parent.page].header]
            if header is not None and header.role.has_gptes:
                names.append(self.mmu.memory.word(gpte_gpa(header, parent.index)).name)
        return names


def gpte_gpa(header: Header, index: int) -> Gpa:
    """Where the gpte of an spte lies. A 32-bit table has 1024 gptes, a pde of it two sptes."""
    table = gfn_to_gpa(header.gfn)
    if header.role.glevels != 2:
        return Gpa(table + 8 * index)
    sptes = ENTRIES_PER_TABLE * header.role.quadrant + index
    return Gpa(table + 4 * (sptes // header.role.level))


def _build(world: World, vm: Vm | None) -> SpteAgrees | None:
    del world
    if vm is None:
        return None
    return SpteAgrees(vm.mmu)


SPEC = Oracle(
    title="a present spte agrees with the gpte that it shadows",
    source="KVM 37a7d8b046 (2007, audit_mappings); f7d9c7b7b902 (2008)",
    rule=(
        "a present spte says what its gpte says, once the table is shadowed and no emulated store "
        "to it is under way"
    ),
    build=_build,
)
