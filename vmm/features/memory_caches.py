"""Memory caches: what a fault may have to allocate lies ready before it takes mmu_lock.

    vCPU 0 (faults)                        host thread
                                           memory runs short
    fill the caches up: fails
    KVM_RUN returns -ENOMEM; nothing of
    the MMU has changed
    userspace runs the vCPU again
    fill the caches up: 20 objects each
    acquire mmu_lock
    link a child: may take a pte_chain
    map a page: may take an rmap_desc
    release mmu_lock

Under the lock nothing may be allocated, so nothing can fail half-way. A fault takes at most one
pte_chain a level and one rmap_desc, hence what must be there before it begins.

Departs from KVM in form: parents and reverse map are one cell each here, so chains have no holes,
and how many objects a list takes follows from its length. What is given up goes back to the slab,
as since 2.6.23, not to the vCPU that gave it up.

Source: KVM 714b93da1a, e2dec939db (2007); b5a33a7572 (2007, slab caches); 22d95b1282 (2007, on
root loads too).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vmm.engine.ops import mark
from vmm.errors import InternalError
from vmm.features import Feature
from vmm.hw.access import AccessKind, GuestFault
from vmm.mmu import fault, memslots, spte
from vmm.mmu.api import NO_ROOT, FaultResult
from vmm.mmu.shadow_page import ShadowPage, SpteRef
from vmm.units import Gva
from vmm.vcpu import host, run_loop, vcpu
from vmm.vcpu.events import UserExit

if TYPE_CHECKING:
    from vmm.engine.cells import Lock
    from vmm.engine.world import World
    from vmm.mmu.api import VcpuState
    from vmm.mmu.mmu import ShadowMmu

OBJECTS = 20
"""KVM_NR_MEM_OBJS."""
PTE_CHAIN_LINKS, RMAP_DESC_LINKS = 5, 4
"""NR_PTE_CHAIN_ENTRIES and RMAP_EXT: what one object holds."""


class Caches(NamedTuple):
    """Objects that lie ready."""

    pte_chains: int = 0
    rmap_descs: int = 0


MINIMUM = Caches(pte_chains=4, rmap_descs=1)
"""With fewer than these before a fault, a cache is filled up."""


class Memslots(memslots.Memslots):
    """The host's memory: ``failing`` is how many of its next allocations fail."""

    def __init__(self, world: World, lock: Lock) -> None:
        super().__init__(world, lock)
        self.failing = world.cell("failing allocations", 0, marked=True, observable=False)


class Vcpu(vcpu.Vcpu):
    """Has caches of its own, which nobody else touches."""

    def __init__(self, world: World, *args: Any, **others: Any) -> None:
        super().__init__(world, *args, **others)
        self.caches = world.cell(f"caches of v{self.number}", Caches(), observable=False)


async def fill_up(mmu: ShadowMmu, me: VcpuState) -> bool:
    """Fill the caches that are low; False: the host has no memory. Holds: nothing."""
    cell, slots = _caches(me), mmu.slots
    assert isinstance(slots, Memslots)
    caches = await cell
    for name, low in zip(Caches._fields, MINIMUM, strict=True):
        if getattr(caches, name) < low:
            if await slots.failing.update(_fails):
                await mark("out of memory")
                return False
            caches = caches._replace(**{name: OBJECTS})
            await cell.set(caches)
    return True


async def take(me: VcpuState | None, name: str, length: int, links: int) -> None:
    """Take what a list of ``length`` needs for one more. Holds: mmu_lock.

    The first entry of a list takes no object; the second one moves it into one.
    """
    if length and (length == 1 or not length % links):
        assert me is not None, "only a vCPU adds entries"
        if not await _caches(me).update(_take, name):
            raise InternalError(f"vCPU {me.number} finds no {name}: the caches were not filled up")


class PageFault(fault.PageFault):
    """Fills the caches up first, and again before a store is emulated."""

    async def page_fault(
        self, vcpu: VcpuState, gva: Gva, kind: AccessKind
    ) -> FaultResult | GuestFault:
        """Nothing of the MMU has changed if memory is short."""
        if not await fill_up(self.mmu, vcpu):
            return FaultResult.NO_MEMORY
        result = await super().page_fault(vcpu, gva, kind)
        if result is FaultResult.EMULATE and not await fill_up(self.mmu, vcpu):
            return FaultResult.NO_MEMORY
        return result

    async def link(self, vcpu: VcpuState, page: ShadowPage, index: int, child: ShadowPage) -> None:
        """A second parent takes a pte_chain."""
        await take(vcpu, "pte_chains", len(await child.parents), PTE_CHAIN_LINKS)
        await super().link(vcpu, page, index, child)


class SetSpte(spte.SetSpte):
    """A second mapping of a frame takes an rmap_desc."""

    async def rmap_add(self, me: VcpuState | None, new: int, ref: SpteRef) -> None:
        """Record what ``ref`` maps."""
        length = len(await self.mmu.rmap.chains[self.gfn(new)])
        await take(me, "rmap_descs", length, RMAP_DESC_LINKS)
        await super().rmap_add(me, new, ref)


class RunLoop(run_loop.RunLoop):
    """Returns to userspace when memory is short. There the vCPU is simply run again."""

    async def fault(self, vcpu: vcpu.Vcpu, gva: Gva, kind: AccessKind) -> FaultResult | GuestFault:
        """A fault that found no memory is met again."""
        answer = await super().fault(vcpu, gva, kind)
        if answer is not FaultResult.NO_MEMORY:
            return answer
        await mark(UserExit(vcpu.number, "-ENOMEM"))
        return FaultResult.RESUME

    async def load_root(self, vcpu: vcpu.Vcpu) -> None:
        """Loading a root may link nothing, but what follows will."""
        while await vcpu.root == NO_ROOT and not await fill_up(vcpu.mmu, vcpu):
            await mark(UserExit(vcpu.number, "-ENOMEM"))
        await super().load_root(vcpu)


class Host(host.Host):
    """A host whose memory runs short."""

    async def run_short(self, allocations: int = 1) -> None:
        """Let the next allocations of KVM fail."""
        slots = self.vm.mmu.slots
        assert isinstance(slots, Memslots)
        await slots.failing.set(allocations)


def _caches(me: VcpuState) -> Any:
    assert isinstance(me, Vcpu)
    return me.caches


def _fails(failing: int) -> tuple[int, bool]:
    return max(0, failing - 1), failing > 0


def _take(caches: Caches, name: str) -> tuple[Caches, bool]:
    left = getattr(caches, name)
    return (caches._replace(**{name: left - 1}), True) if left else (caches, False)


SPEC = Feature(
    title="objects for parent links and the reverse map are allocated before mmu_lock is taken",
    source="KVM 714b93da1a, e2dec939db (2.6.20)",
    since="2.6.20",
)
