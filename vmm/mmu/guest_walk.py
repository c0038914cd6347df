"""KVM's software walk of the guest's page tables, outside the lock.

Source: KVM ac79c978f1 (2007, one walk to the lowest level), 7993ba43db (permission checks before
Accessed is set), b3e4e63fd9 (2008, A and D by cmpxchg, restart if the gpte changed), e3c5e7ec9e
(2008, Dirty set by the walk), 10589a4699 (2008, walk without the lock).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmm.bits import D, U, W
from vmm.hw.access import AccessKind, GuestFault
from vmm.hw.paging import Controls, PagingRegisters, refusal
from vmm.hw.walker import Walker, WalkStep
from vmm.mmu.role import Role
from vmm.units import Gfn, Gva, frames_per_entry, gfn_to_gpa, gpa_to_gfn

if TYPE_CHECKING:
    from vmm.hw.memory import Memory
    from vmm.mmu.api import VcpuState

ROOT_LEVEL = 4


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


class GuestWalker(Walker):
    """Walks the tables of a guest that is running meanwhile, by the processor's own rules."""

    memory: Memory

    async def walk(self, vcpu: VcpuState, gva: Gva, kind: AccessKind) -> GuestWalk | GuestFault:
        """Walk from cr3 to the leaf. Guest faults are values, with the architectural code."""
        registers = PagingRegisters(
            Controls(wp=vcpu.write_protect), gfn_to_gpa(Gfn(await vcpu.cr3))
        )
        found = await self.walk_tables(registers, gva, kind)
        if isinstance(found, GuestFault):
            return found
        return GuestWalk(gva, found.steps, gpa_to_gfn(found.gpa))

    def refused(
        self, entry: int, access: int, level: int, kind: AccessKind, controls: Controls
    ) -> int | None:
        """As silicon, but the first entry that denies the access ends the walk, until 2010."""
        refused = super().refused(entry, access, level, kind, controls)
        return refusal(access, 0, kind, controls) if refused is None else refused
