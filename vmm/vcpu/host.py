"""What a host thread can do to a VM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vmm.engine.ops import mark
from vmm.engine.world import ModelObject
from vmm.units import Gfn

if TYPE_CHECKING:
    from vmm.vcpu.vcpu import Vm


class Host(ModelObject):
    """A host thread that works on the VM, such as an ioctl or the host's memory management."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm

    @property
    def params(self) -> Mapping[str, int | str]:
        """The parameters of the scenario."""
        return self.vm.params

    async def zap_all(self) -> None:
        """Zap every shadow page (a memory alias was changed). Source: KVM e0fa826f96 (2007)."""
        async with self.vm.mmu.lock:
            await self.vm.mmu.zap.zap_all(None)

    async def zap_table(self, gfn: int) -> None:
        """Zap every shadow of a guest table."""
        async with self.vm.mmu.lock:
            await self.vm.mmu.zap.zap_gfn(None, Gfn(gfn))

    async def reclaim(self, gfn: int) -> bool:
        """Take the host page of a guest frame away; whether it could be had.

        Needs a machine with ``host_paging``.
        """
        mmu = self.vm.mmu
        async with mmu.lock:
            await mmu.zap.zap_leaves(None, Gfn(gfn))
            taken = await mmu.slots.give_back(Gfn(gfn))
        if taken:
            await mark("page given back")
        return taken

    async def mark(self, goal: str) -> None:
        """Reach a goal of the scenario."""
        await mark(goal)
