"""The mode of a vCPU as one half of a handshake: EXITING says that an IPI is on its way.

    vCPU 0 (asks)                          vCPU 1
                                           interrupts off
    requests1 |= request                   mode1 := IN_GUEST
    full barrier                           full barrier
    old = mode1; IN_GUEST becomes EXITING  mode1 = EXITING, or requests1 not 0?
    old is not OUTSIDE: IPI, wait              yes: mode1 := OUTSIDE, interrupts on, start over
                                               no: enter

Each side writes its own variable, then reads the other's: at least one of them sees the other.
A vCPU outside the guest needs no IPI: it looks at its requests before it enters. A request that is
waited for interrupts a vCPU in every other mode, also one that is exiting; a kick, which nobody
waits for, only one that is in the guest and that nobody has kicked yet.

The requester's barrier is that of its locked update. Departs from the code of that time,
which published the mode just before interrupts were off: here as documented, interrupts first.

Source: KVM 6b7e2d0991 (2011); vcpu-requests.rst.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.engine.ops import mark
from vmm.features import Feature, mmu_reload
from vmm.vcpu import flush
from vmm.vcpu.vcpu import Mode

if TYPE_CHECKING:
    from vmm.vcpu.vcpu import Vcpu


class Flush(flush.Flush):
    """Interrupts by mode, whether or not the request was made before."""

    async def needs_ipi(self, vcpu: Vcpu, *, was_clear: bool) -> bool:
        """Whether the vCPU may be in the guest, or on its way in or out."""
        return await vcpu.mode.update(_exiting) is not Mode.OUTSIDE_GUEST_MODE


class RunLoop(mmu_reload.RunLoop):
    """Looks at the mode too before it enters."""

    async def publish_mode(self, vcpu: Vcpu) -> None:
        """The store comes before the loads of ``may_enter``: a full barrier."""
        await vcpu.mode.set(Mode.IN_GUEST_MODE, serialising=True)

    async def may_enter(self, vcpu: Vcpu) -> bool:
        """Whether nobody has asked or kicked since the mode was published."""
        if await vcpu.mode is Mode.EXITING_GUEST_MODE:
            await mark("kicked before entry")
            return False
        return await super().may_enter(vcpu)

    async def kick(self, vcpu: Vcpu) -> None:
        """Interrupt a vCPU that is in the guest, once; nobody waits for it."""
        if await vcpu.mode.update(_exiting) is Mode.IN_GUEST_MODE:
            await vcpu.pcpu.send_ipi()


def _exiting(mode: Mode) -> tuple[Mode, Mode]:
    """IN_GUEST becomes EXITING, any other mode stays; gives the old one."""
    return (Mode.EXITING_GUEST_MODE if mode is Mode.IN_GUEST_MODE else mode), mode


SPEC = Feature(
    title="vCPU mode with EXITING, by which requesters and vCPUs see each other",
    source="KVM 6b7e2d0991 (2.6.39); vcpu-requests.rst",
    since="2.6.39",
    eras=("3.6", "5.15", "2026"),
    needs=("mmu-reload",),
)
