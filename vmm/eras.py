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
    }
)
