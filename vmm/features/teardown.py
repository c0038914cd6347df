"""Teardown: a VM is destroyed once all its vCPUs are closed.

    vCPU 0                vCPU 1                 host thread (last user of the VM)
    close
                          close
                                                 let go of the root of every vCPU
                                                 acquire mmu_lock
                                                 zap every page: rmap, parents, TLBs
                                                 release mmu_lock
                                                 free the vCPUs

The roots come first: a page that is still somebody's root is emptied, but not freed. The vCPUs come
last, since zapping flushes their TLBs.

Source: KVM f51234c2cd, 9ede74e0af (2007); 7b53aa5650 (2007, all roots before any page).
"""

from __future__ import annotations

from typing import Any

from vmm.engine.ops import wait_until
from vmm.engine.world import World
from vmm.features import Feature
from vmm.mmu.api import MmuDestroyed
from vmm.vcpu import guest, host, vcpu


class Vcpu(vcpu.Vcpu):
    """``is_open``: whether userspace still has it."""

    def __init__(self, world: World, *args: Any, **others: Any) -> None:
        super().__init__(world, *args, **others)
        self.is_open = world.cell(f"v{self.number} open", True, marked=True, observable=False)


class Guest(guest.Guest):
    """A guest whose userspace may end."""

    async def close(self) -> None:
        """The last thing that happens on this vCPU: userspace closes it."""
        await self.vm.loop.leave(self.vcpu, "closed")
        assert isinstance(self.vcpu, Vcpu)
        await self.vcpu.is_open.set(False)


class Host(host.Host):
    """The last user of a VM."""

    async def destroy_vm(self) -> None:
        """Wait until every vCPU is closed, then free all that the MMU has."""
        mmu = self.vm.mmu
        opens = [one.is_open for one in self.vm.vcpus if isinstance(one, Vcpu)]
        await wait_until(tuple(opens), _all_closed)
        await self.unload_roots()
        await mmu.lock.acquire()
        await mmu.zap.zap_all(None)
        await mmu.lock.release(event=(MmuDestroyed(), *mmu.release_events))
        await self.mark("VM destroyed")

    async def unload_roots(self) -> None:
        """Let go of the roots, so that their pages can be freed."""
        for one in self.vm.vcpus:
            await self.vm.mmu.roots.free(one)


def _all_closed(*is_open: bool) -> bool:
    return not any(is_open)


SPEC = Feature(
    title="a VM whose vCPUs are closed is destroyed",
    source="KVM f51234c2cd, 9ede74e0af (2.6.20); 7b53aa5650 (2.6.23)",
    since="2.6.20",
    locks={"mmu_lock": "held while everything is zapped"},
)
