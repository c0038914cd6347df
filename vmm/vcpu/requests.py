"""Requests: the bits by which others ask a vCPU to do something before it runs the guest again.

Source: KVM d9e368d612 (2007); vcpu-requests.rst.
"""

from __future__ import annotations

TLB_FLUSH = 1 << 0
"""KVM_REQ_TLB_FLUSH: drop all cached translations."""
MMU_RELOAD = 1 << 1
"""KVM_REQ_MMU_RELOAD: let go of the shadow root and load it afresh (feature ``mmu-reload``)."""
MMU_SYNC = 1 << 2
"""KVM_REQ_MMU_SYNC: bring the shadow below the root up to date (feature ``unsync``)."""
STEAL_UPDATE = 1 << 3
"""KVM_REQ_STEAL_UPDATE: look at what the guest asked for meanwhile (feature ``pv-flush``)."""
TLB_FLUSH_CURRENT = 1 << 4
"""KVM_REQ_TLB_FLUSH_CURRENT: drop what is cached of the PCID in use (feature ``pcid``)."""

REQUESTS = {
    TLB_FLUSH: "TLB_FLUSH",
    MMU_RELOAD: "MMU_RELOAD",
    MMU_SYNC: "MMU_SYNC",
    STEAL_UPDATE: "STEAL_UPDATE",
    TLB_FLUSH_CURRENT: "TLB_FLUSH_CURRENT",
}


def format_requests(requests: int) -> str:
    """The requests of a vCPU for a reader."""
    return " ".join(name for bit, name in REQUESTS.items() if requests & bit) or "none"
