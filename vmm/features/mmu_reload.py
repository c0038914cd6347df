"""MMU reload: a zapped root is invalid, and vCPUs let go of it before they run the guest again.

    vCPU 0 (zaps root R, which vCPU 1 uses)    vCPU 1
    acquire mmu_lock
    empty R; flush, wait
    R.role.invalid := 1: no lookup finds it
    set MMU_RELOAD in every requests word
    IPI, wait for all                          exits; may even fault and fill R again
    release mmu_lock
                                               takes MMU_RELOAD: frees its root R; being the last
                                               user of an invalid root, it zaps R for good
                                               loads the root of cr3: not R
                                               takes TLB_FLUSH, flushes
                                               interrupts off; mode := IN_GUEST
                                               requests = 0? enter: else start over

Requests are served with interrupts on, since a reload may sleep. So they are looked at once more
with interrupts off: any that came in between cancels the entry.

Source: KVM 2e53d63acb (2008, 2.6.26, "ignore zapped root pagetables"); 376c53c2b3 (2.6.27, not
again for a root that is invalid already).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.engine.ops import atomically, mark
from vmm.features import Feature
from vmm.mmu import page_cache, roots, zap
from vmm.mmu.api import ShadowPageInvalid
from vmm.mmu.page_cache import Bucket
from vmm.mmu.shadow_page import Header, ShadowPage
from vmm.vcpu import flush, run_loop
from vmm.vcpu.requests import MMU_RELOAD, TLB_FLUSH
from vmm.vcpu.vcpu import Mode

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState
    from vmm.mmu.mmu import ShadowMmu
    from vmm.vcpu.vcpu import Vcpu


class PageCache(page_cache.PageCache):
    """Keeps invalid pages, which no lookup finds: their role is no one's."""

    async def invalidate(self, page: ShadowPage, header: Header) -> Header:
        """Set ``role.invalid``; gives the new header."""
        await atomically(
            _invalidate,
            (self.buckets[header.gfn], page.header),
            page.number,
            header,
            event=ShadowPageInvalid(page.number, header.gfn),
        )
        return _invalid(header)


class Zap(zap.Zap):
    """Makes roots in use invalid."""

    async def keep_root(self, me: VcpuState | None, page: ShadowPage, header: Header) -> None:
        """The root leaves the lookups at once, and the pool when its last user has let go."""
        await super().keep_root(me, page, header)
        if not header.role.invalid:
            await cache_of(self.mmu).invalidate(page, header)
            await self.reload_users(me, page)

    async def reload_users(self, me: VcpuState | None, page: ShadowPage) -> None:
        """Make the users of an invalid root let go of it. KVM asks all vCPUs."""
        await flusher_of(self.mmu).reload_remote(me)


class Roots(roots.Roots):
    """Frees invalid roots with their last user."""

    async def released(self, vcpu: VcpuState, page: ShadowPage) -> None:
        """A use of a root has ended. Holds: mmu_lock."""
        await super().released(vcpu, page)
        header = await page.header
        if header is not None and header.role.invalid and not await page.root_count:
            await mark("invalid root freed")
            await self.mmu.zap.zap_page(vcpu, page)


class Flush(flush.Flush):
    """Knows one more request."""

    async def reload_remote(self, me: VcpuState | None) -> None:
        """Make every vCPU reload its root; none runs the guest on the old one once this returns.

        Holds: mmu_lock. Ops: as ``flush_remote``.
        """
        await self.ask_all(me, MMU_RELOAD)


class RunLoop(run_loop.RunLoop):
    """Serves requests with interrupts on, and looks again with interrupts off."""

    async def enter(self, vcpu: Vcpu) -> None:
        """Into the guest, as soon as no request is left."""
        while True:
            await self.serve_reload(vcpu)
            await self.load_root(vcpu)
            await self.serve_requests(vcpu)
            await vcpu.pcpu.interrupts_off()
            await self.publish_mode(vcpu)
            if await self.may_enter(vcpu):
                break
            await mark("entry cancelled")
            await vcpu.mode.set(Mode.OUTSIDE_GUEST_MODE)
            await vcpu.pcpu.interrupts_on()
        await self.run_guest(vcpu)

    async def serve_reload(self, vcpu: Vcpu) -> None:
        """Let go of the root if somebody asked for it."""
        if await vcpu.requests.update(take_request, MMU_RELOAD):
            await vcpu.mmu.roots.free(vcpu)

    async def serve_requests(self, vcpu: Vcpu) -> None:
        """Flush if somebody asked for it: on the root that the guest will run on."""
        if await vcpu.requests.update(take_request, TLB_FLUSH) or not vcpu.pcpu.tagged:
            await vcpu.pcpu.flush()

    async def publish_mode(self, vcpu: Vcpu) -> None:
        """Say that the guest is about to run."""
        await vcpu.mode.set(Mode.IN_GUEST_MODE)

    async def may_enter(self, vcpu: Vcpu) -> bool:
        """Whether nothing was asked since. Interrupts are off: who asks from now on interrupts."""
        return not await vcpu.requests


def cache_of(mmu: ShadowMmu) -> PageCache:
    """The page cache of a machine with this feature."""
    assert isinstance(mmu.cache, PageCache)
    return mmu.cache


def flusher_of(mmu: ShadowMmu) -> Flush:
    """The flusher of a machine with this feature."""
    assert isinstance(mmu.flusher, Flush)
    return mmu.flusher


def _invalid(header: Header) -> Header:
    return Header(header.gfn, header.role._replace(invalid=True))


def _invalidate(
    bucket: Bucket, old: Header | None, number: int, header: Header
) -> tuple[tuple[Bucket, Header], None]:
    del old
    invalid = _invalid(header)
    rest = tuple([entry for entry in bucket if entry[1] != number])
    return (tuple(sorted((*rest, (invalid.role, number)))), invalid), None


def take_request(requests: int, bit: int) -> tuple[int, bool]:
    """Clear a request; whether it was made. For ``Cell.update``."""
    return requests & ~bit, bool(requests & bit)


SPEC = Feature(
    title="zapped roots are invalid and every vCPU is asked to reload",
    source="KVM 2e53d63acb (2.6.26), 376c53c2b3 (2.6.27); vcpu-requests.rst",
    since="2.6.26",
    eras=("2.6.28", "3.6", "5.15", "2026"),
    locks={"mmu_lock": "role.invalid, and the root counts that free an invalid root"},
    requests={"MMU_RELOAD": "let go of the root before the next entry; waited for"},
)
