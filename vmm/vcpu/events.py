"""Events of a vCPU."""

from __future__ import annotations

from vmm.engine.events import Event


class Enter(Event, frozen=True):
    """A vCPU entered the guest."""

    vcpu: int


class Exit(Event, frozen=True):
    """A vCPU left the guest; ``reason`` is KVM's word for why."""

    vcpu: int
    reason: str


class UserExit(Event, frozen=True):
    """KVM_RUN returned to userspace with an error."""

    vcpu: int
    error: str
