"""The interrupt controller of a vCPU, as far as interrupts between vCPUs need it."""

from __future__ import annotations

from typing import NamedTuple


class Apic(NamedTuple):
    """A vCPU's interrupt controller, as far as guest IPIs need it.

    ``served`` says that the guest has handled at least one: what a halted guest waits for.
    """

    requested: bool = False
    in_service: bool = False
    served: bool = False


def format_apic(apic: Apic) -> str:
    """The state of an APIC for a reader."""
    names = [name for name, value in zip(apic._fields, apic, strict=True) if value]
    return " ".join(names).replace("_", " ") or "idle"


def accept(apic: Apic) -> tuple[Apic, bool]:
    """Take a requested interrupt, unless one is being served; whether it was. For ``update``."""
    if not apic.requested or apic.in_service:
        return apic, False
    return Apic(requested=False, in_service=True, served=apic.served), True


def end_of_interrupt(apic: Apic) -> tuple[Apic, None]:
    """The handler is done. For ``update``."""
    return Apic(requested=apic.requested, in_service=False, served=True), None


def woken(apic: Apic) -> bool:
    """Whether a halted guest goes on."""
    return apic.requested or apic.served
