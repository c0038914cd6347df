"""A shadowed guest table is writable nowhere: not by an spte, nor by a stale TLB entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from vmm.bits import P, W, frame_of
from vmm.engine.cells import Cell, CellArray
from vmm.engine.events import AuditPoint, Event
from vmm.engine.monitor import Audit, Finding, Step, Verdict, View
from vmm.engine.world import World
from vmm.hw.events import Access
from vmm.mmu.api import (
    ShadowPageFreed,
    ShadowPageInvalid,
    ShadowPageMade,
    ShadowPageSynced,
    ShadowPageUnsync,
)
from vmm.mmu.memslots import gfn_of
from vmm.mmu.mmu import ShadowMmu
from vmm.monitors import Oracle, is_obsolete, is_unsync
from vmm.units import Gfn
from vmm.vcpu.vcpu import Vm

if TYPE_CHECKING:
    from typing import Any

Gfns = tuple[int, ...]
State = tuple[Gfns, Gfns]


class WriteProtection(Audit):
    """The state is (gfns protected, gfns being protected).

    Protection is claimed from the release of mmu_lock on: a native store to the table is then a
    violation as long as it stays shadowed; before, the protection may still be under way. Pages
    that are unsync do not count: their tables may be written.
    """

    name = "audit/write-protection"
    events = (
        Access,
        AuditPoint,
        ShadowPageMade,
        ShadowPageFreed,
        ShadowPageInvalid,
        ShadowPageSynced,
        ShadowPageUnsync,
    )

    def __init__(self, mmu: ShadowMmu) -> None:
        self.mmu = mmu
        self.pages = {page.unsync: page for page in mmu.cache.pages if page.unsync is not None}

    def initial(self) -> State:
        return (), ()

    def on_event(self, state: State, event: Event, step: Step, view: View) -> Verdict:
        del step
        protected, coming = state
        match event:
            case Access():
                return state, self._access(protected, event, view)
            case ShadowPageMade(_, gfn, direct) if not direct:
                return (protected, _with(coming, gfn)), ()
            case ShadowPageSynced(_, gfn):
                return (protected, _with(coming, gfn)), ()
            case ShadowPageFreed(_, gfn) | ShadowPageInvalid(_, gfn) | ShadowPageUnsync(_, gfn):
                if self._shadowed(gfn, view):
                    return state, ()
                return (_without(protected, gfn), _without(coming, gfn)), ()
            case AuditPoint() if coming:
                merged = tuple(sorted(dict.fromkeys((*protected, *coming))))
                return (merged, ()), ()
            case _:
                return state, ()

    def _access(self, protected: Gfns, event: Access, view: View) -> tuple[Finding, ...]:
        gfn = gfn_of(event.pfn)
        if not event.write or gfn not in protected or not self._shadowed(gfn, view):
            return ()
        how = "a stale TLB entry" if event.cached else "a walk of the shadow tables"
        return (
            SPEC.finding(
                "audit/write-protection",
                f"vCPU {event.pcpu} stores to gfn {gfn:#x}, a shadowed page table, through {how}: "
                "no trap, so the shadow does not follow",
                f"tlb{event.pcpu}",
                f"shadows of gfn {gfn:#x}",
                f"rmap of gfn {gfn:#x}",
            ),
        )

    def _shadowed(self, gfn: int, view: View) -> bool:
        """Whether a page that is in sync shadows a table in this frame."""
        return any(
            role.has_gptes and not is_unsync(page, view)
            for role, number in view[self.mmu.cache.buckets[Gfn(gfn)]]
            for page in (self.mmu.cache.pages[number],)
            if not is_obsolete(self.mmu.cache, page, view)
        )

    # --- the audit of the sptes ---

    def watched(self) -> tuple[Cell[Any] | CellArray[Any, Any], ...]:
        return (self.mmu.cache.sptes, self.mmu.cache.buckets, *self.pages)

    def full(self, state: State, view: View) -> tuple[Finding, ...]:
        del state
        found: list[Finding] = []
        for gfn, _ in view.items(self.mmu.cache.buckets):
            found += self._table(gfn, view)
        return tuple(found)

    def incremental(
        self, state: State, view: View, written: tuple[Cell[Any], ...]
    ) -> tuple[Finding, ...]:
        del state
        found: list[Finding] = []
        for cell in written:
            if cell in self.pages:
                header = view[self.pages[cell].header]
                found += [] if header is None else self._table(header.gfn, view)
            elif cell.array is self.mmu.cache.buckets:
                found += self._table(cast("Gfn", cell.key), view)
            elif view[cell] & P and view[cell] & W:
                found += self._table(gfn_of(frame_of(view[cell])), view)
        return tuple(found)

    def _table(self, gfn: int, view: View) -> list[Finding]:
        if not self._shadowed(gfn, view):
            return []
        return [
            SPEC.finding(
                "audit/write-protection",
                f"{ref} maps gfn {gfn:#x} writable although that page table is shadowed",
                f"spte {ref}",
                f"shadows of gfn {gfn:#x}",
            )
            for ref in view[self.mmu.rmap.chains[Gfn(gfn)]]
            if view[self.mmu.cache.sptes[ref]] & W
        ]


def _with(gfns: Gfns, gfn: int) -> Gfns:
    return gfns if gfn in gfns else tuple(sorted((*gfns, gfn)))


def _without(gfns: Gfns, gfn: int) -> Gfns:
    return tuple([g for g in gfns if g != gfn])


def _build(world: World, vm: Vm | None) -> WriteProtection | None:
    del world
    return None if vm is None else WriteProtection(vm.mmu)


SPEC = Oracle(
    title="a shadowed guest page table is mapped writable nowhere",
    source="KVM 374cbac033 and 37a7d8b046 (2007, audit_write_protection); d9e368d612 for TLBs",
    rule="once a guest page table is shadowed, every guest write to it traps",
    build=_build,
)
