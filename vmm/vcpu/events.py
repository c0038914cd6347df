"""Events of a vCPU."""

from __future__ import annotations

from vmm.engine.events import Event
from vmm.hw.access import AccessKind
from vmm.units import Gva


class Enter(Event, frozen=True):
    """A vCPU entered the guest."""

    vcpu: int


class Exit(Event, frozen=True):
    """A vCPU left the guest; ``reason`` is KVM's word for why."""

    vcpu: int
    reason: str


class PageFaultExit(Event, frozen=True):
    """A vCPU left the guest because an access to ``gva`` faulted on the shadow."""

    vcpu: int
    gva: Gva
    kind: AccessKind


class FlushDeferred(Event, frozen=True):
    """A vCPU that does not run is to flush before it does: to the guest it has flushed now."""

    vcpu: int


class EmulatorTranslated(Event, frozen=True):
    """KVM has translated an operand for a vCPU whose instruction it emulates."""

    vcpu: int


class UserExit(Event, frozen=True):
    """KVM_RUN returned to userspace with an error."""

    vcpu: int
    error: str
