"""Events of a vCPU."""

from __future__ import annotations

from dataclasses import dataclass

from vmm.engine.events import Event


@dataclass(frozen=True, slots=True)
class Enter(Event):
    """A vCPU entered the guest."""

    vcpu: int


@dataclass(frozen=True, slots=True)
class Exit(Event):
    """A vCPU left the guest; ``reason`` is KVM's word for why."""

    vcpu: int
    reason: str
