"""Eras: states of KVM's history that a machine takes as its base.

An era is the features that say so (``Feature.eras``), and the bugs that its kernels had and this
model can show. Only eras whose features all exist are offered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Era:
    """A state of KVM's history.

    ``bugs``: what still fires, switched on with the era; each bug file names the fix that ended it.
    ``vcpus_max``: how many vCPUs a guest could have; None: as many as a scenario wants.
    """

    title: str
    source: str
    bugs: tuple[str, ...] = ()
    vcpus_max: int | None = None


ERAS: Mapping[str, Era] = MappingProxyType(
    {
        "2.6.20": Era(
            title="as first released: one vCPU, one lock, local TLB flushes",
            source="Linux 2.6.20 (2007): the series of January 2007",
            bugs=("remote-flush-missing", "stale-gpte", "walk-plain-store"),
            vcpus_max=1,
        ),
        "2.6.23": Era(
            title="first guests with several vCPUs, everything under the kvm lock",
            source="Linux 2.6.23 (2007): ef9254df0b, d9e368d612",
            bugs=("stale-gpte", "walk-plain-store"),
        ),
        "2.6.25": Era(
            title="mmu_lock, guest walk outside the lock, gptes read again under it",
            source="Linux 2.6.25 (2008): aaee2c94f7, 10589a4699, 7819026eef, f7d9c7b7b902",
        ),
        "2.6.28": Era(
            title="zapped roots are reloaded, the mmu notifier, unsync page tables",
            source="Linux 2.6.28 (2008): 2e53d63acb, e930bffe95, 4731d4c7a0",
        ),
        "3.6": Era(
            title="vCPU modes, two-phase zap, lockless walks and fast page faults, flush debt",
            source="Linux 3.6 (2012): 7775834a23, a4ee1ca4a3, 6b7e2d0991, c142786c62",
        ),
        "5.15": Era(
            title="zap by generation, the dirty log flushes outside mmu_lock, no flush debt",
            source="Linux 5.15 (2021): 92f58b5c01, 198c74f43f, 6bc6db000295",
        ),
        "2026": Era(
            title="the newest that the model knows",
            source="Linux of 2026, as far as the features go",
        ),
    }
)
