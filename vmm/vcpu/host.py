"""What a host thread can do to a VM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vmm.engine.ops import mark
from vmm.engine.world import ModelObject
from vmm.errors import UsageError, missing_feature
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
        """Take the host page of a guest frame away; whether it could be had."""
        raise _missing("host-paging")

    async def unmap(self, first: int, frames: int = 1) -> None:
        """Take the host pages of a range of guest frames away."""
        raise _missing("notifier")

    async def age(self, gfn: int) -> bool:
        """Whether the guest used a frame since it was last asked."""
        raise _missing("notifier")

    async def get_dirty_log(self) -> tuple[int, ...]:
        """The frames that were written since the last call."""
        raise _missing("dirty-log")

    async def create_slot(self, first: int, frames: int = 1) -> None:
        """Give the guest memory from a frame on."""
        raise _missing("memslots")

    async def delete_slot(self, first: int) -> None:
        """Take away the memory slot that begins at a frame."""
        raise _missing("memslots")

    async def move_slot(self, first: int, to: int) -> None:
        """Let the memory slot that begins at a frame begin at another one."""
        raise _missing("memslots")

    async def run_short(self, allocations: int = 1) -> None:
        """Let the next allocations of KVM fail."""
        raise _missing("memory-caches")

    async def destroy_vm(self) -> None:
        """Wait until every vCPU is closed, then free all that the MMU has."""
        raise _missing("teardown")

    async def mark(self, goal: str) -> None:
        """Reach a goal of the scenario."""
        await mark(goal)


def _missing(feature: str) -> UsageError:
    return missing_feature("the host thread", feature)
