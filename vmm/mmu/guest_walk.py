"""KVM's software walk of the guest's page tables, outside the lock.

Source: KVM ac79c978f1 (2007, one walk to the lowest level), 7993ba43db (permission checks before
Accessed is set), b3e4e63fd9 (2008, A and D by cmpxchg, restart if the gpte changed), e3c5e7ec9e
(2008, Dirty set by the walk), 10589a4699 (2008, walk without the lock).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmm.bits import D, P, U, W, combine, frame_of
from vmm.engine.world import ModelObject
from vmm.hw.access import AccessKind, GuestFault
from vmm.hw.events import Exchange
from vmm.hw.paging import ALL_RIGHTS, Controls, fault_code, is_leaf, refusal, target, used
from vmm.mmu.role import Role
from vmm.units import Gfn, Gpa, Gva, entry_gpa, frames_per_entry, gpa_to_gfn, table_index

if TYPE_CHECKING:
    from vmm.hw.memory import Memory
    from vmm.mmu.api import VcpuState

ROOT_LEVEL = 4


class WalkStep(NamedTuple):
    """One gpte of a walk: ``entry`` as it was read (with the A and D that the walk set).

    ``access`` are the rights of the walk up to and with this entry.
    """

    level: int
    table: Gfn
    gpa: Gpa
    entry: int
    access: int


class GuestWalk(NamedTuple):
    """A walk that ended at a leaf. ``gfn`` is the 4K frame of ``gva``, also in a large page."""

    gva: Gva
    steps: tuple[WalkStep, ...]
    gfn: Gfn

    @property
    def leaf(self) -> WalkStep:
        """The last step."""
        return self.steps[-1]

    def at(self, level: int) -> WalkStep | None:
        """The step of a level; None below a large page's leaf."""
        depth = ROOT_LEVEL - level
        return self.steps[depth] if depth < len(self.steps) else None

    def passes(self, gfn: Gfn) -> bool:
        """Whether the walk went through a table in that frame."""
        return any(step.table == gfn for step in self.steps)

    def shadow_key(self, level: int) -> tuple[Gfn, Role]:
        """The (gfn, role) of the shadow page of that level on the way to ``gva``.

        Below a large page's leaf there is no guest table: a direct page maps a stretch of it.
        """
        if level == ROOT_LEVEL:
            return self.steps[0].table, root_role()
        step = self.at(level)
        if step is None:
            first = self.gfn & -frames_per_entry(level + 1)
            return Gfn(first), Role(level, direct=True, access=direct_access(self.leaf))
        return step.table, Role(
            level, direct=False, access=self.steps[ROOT_LEVEL - level - 1].access
        )


def direct_access(leaf: WalkStep) -> int:
    """The access of the pages below a large page's leaf: no W while it is clean.

    Clean and dirty gptes that map the same frames must not share pages, or a write through the
    clean one would not set its D. Source: KVM 2.6.25, ``fetch``.
    """
    return leaf.access if leaf.entry & D else leaf.access & ~W


def root_role() -> Role:
    """The role of a root: nothing above it takes rights away."""
    return Role(ROOT_LEVEL, direct=False, access=W | U)


class GuestWalker(ModelObject):
    """Walks the tables of a guest that is running meanwhile.

    Holds: nothing. Ops: one read a level, one cmpxchg for each entry whose A or D must be set.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    async def walk(self, vcpu: VcpuState, gva: Gva, kind: AccessKind) -> GuestWalk | GuestFault:
        """Walk from cr3 to the leaf. Guest faults are values, with the architectural code."""
        while True:
            result = await self._descend(vcpu, gva, kind)
            if result is not None:
                return result

    async def _descend(
        self, vcpu: VcpuState, gva: Gva, kind: AccessKind
    ) -> GuestWalk | GuestFault | None:
        """One try; None if an entry changed under the update of its A and D bits."""
        controls = Controls(wp=vcpu.write_protect)
        table, access = Gfn(await vcpu.cr3), ALL_RIGHTS
        steps: tuple[WalkStep, ...] = ()
        for level in range(ROOT_LEVEL, 0, -1):
            gpa = entry_gpa(table, table_index(gva, level))
            entry = await self.memory.word(gpa)
            if not entry & P:
                return GuestFault(gva, fault_code(kind, controls, why=0))
            access = combine(access, entry)
            refused = refusal(access, entry, kind, controls)
            if refused is not None:
                return GuestFault(gva, refused)
            leaf = is_leaf(entry, level, controls)
            marked = used(entry, kind, leaf=leaf)
            if marked != entry and not await self.mark_used(gpa, entry, marked):
                return None
            steps = (*steps, WalkStep(level, table, gpa, marked, access))
            if leaf:
                gpa = Gpa(target(marked, level, gva, controls))
                return GuestWalk(gva, steps, gpa_to_gfn(gpa))
            table = Gfn(frame_of(entry))
        raise AssertionError("a level-1 entry is always a leaf")

    async def mark_used(self, gpa: Gpa, entry: int, marked: int) -> bool:
        """Set A and D in a gpte, unless it has changed since it was read."""
        return await self.memory.word(gpa).cas(entry, marked, event=Exchange(gpa, entry))
