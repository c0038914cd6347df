"""KVM's software walk of the guest's page tables, outside the lock.

Source: KVM ac79c978f1 (2007, one walk to the lowest level), 7993ba43db (permission checks before
Accessed is set), b3e4e63fd9 (2008, A and D by cmpxchg, restart if the gpte changed), e3c5e7ec9e
(2008, Dirty set by the walk), 10589a4699 (2008, walk without the lock). Departs from KVM before
2010, which ended the walk at the first entry that denies the access and so said "present" in the
error code although an entry below is not: rights are judged at the leaf here, as silicon does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmm.bits import D, W
from vmm.hw.access import AccessKind, GuestFault
from vmm.hw.paging import format_of
from vmm.hw.walker import Walker, WalkStep
from vmm.mmu.role import Role, root_role
from vmm.units import Gfn, Gva, frames_per_entry, gpa_to_gfn

if TYPE_CHECKING:
    from vmm.hw.memory import Memory
    from vmm.mmu.api import VcpuState


class GuestWalk(NamedTuple):
    """A walk that ended at a leaf. ``gfn`` is the 4K frame of ``gva``, also in a large page.

    ``root`` is the role of the shadow root it belongs to. Without paging there are no steps.
    """

    gva: Gva
    steps: tuple[WalkStep, ...]
    gfn: Gfn
    root: Role

    @property
    def access(self) -> int:
        """The rights of the whole walk."""
        return self.steps[-1].access if self.steps else self.root.access

    @property
    def dirty(self) -> bool:
        """Whether D is set in the leaf; without paging there is none to be set."""
        return not self.steps or bool(self.steps[-1].entry & D)

    def at(self, level: int) -> WalkStep | None:
        """The step of a level; None below a large page's leaf."""
        depth = self.root.level - level
        return self.steps[depth] if depth < len(self.steps) else None

    def passes(self, gfn: Gfn) -> bool:
        """Whether the walk went through a table in that frame."""
        return any(step.table == gfn for step in self.steps)

    def shadow_key(self, level: int) -> tuple[Gfn, Role]:
        """The (gfn, role) of the shadow page of that level on the way to ``gva``.

        Below a large page's leaf there is no guest table: a direct page maps a stretch of it.
        """
        step = self.at(level)
        if step is None:
            first = self.gfn & -frames_per_entry(level + 1)
            return Gfn(first), self.root._replace(
                level=level, direct=True, access=self.direct_access()
            )
        depth = self.root.level - level
        access = self.steps[depth - 1].access if depth else self.root.access
        return step.table, self.root.below(self.gva, level, access)

    def direct_access(self) -> int:
        """The access of the pages below a large page's leaf: no W while it is clean.

        Clean and dirty gptes that map the same frames must not share pages, or a write through the
        clean one would not set its D. Source: KVM 2.6.25, ``fetch``.
        """
        return self.access if self.dirty else self.access & ~W


class GuestWalker(Walker):
    """Walks the tables of a guest that is running meanwhile, by the processor's own rules."""

    memory: Memory

    async def walk(self, vcpu: VcpuState, gva: Gva, kind: AccessKind) -> GuestWalk | GuestFault:
        """Walk from cr3 to the leaf. Guest faults are values, with the architectural code."""
        registers = await vcpu.registers
        found = await self.walk_tables(registers, gva, kind)
        if isinstance(found, GuestFault):
            return found
        read = found.steps[format_of(registers.controls).pdptes :]  # latched ones are not shadowed
        return GuestWalk(gva, read, gpa_to_gfn(found.gpa), root_role(registers.controls))
