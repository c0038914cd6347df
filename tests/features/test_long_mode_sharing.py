"""One shadow for a table of two modes."""

from __future__ import annotations

import pytest

from tests.hand import bench
from vmm.features.long_mode_sharing import shared
from vmm.hw.layout import MODES, REGION, page
from vmm.hw.paging import Controls
from vmm.mmu.role import root_role
from vmm.units import Gva

THROUGH = Gva(1 << 48)
"""What the second entry of a level-5 table maps."""
TABLE_A = 0x10


@pytest.mark.parametrize(("features", "pages"), [((), 2), (("long-mode-sharing",), 1)])
def test_a_root_of_four_levels_is_found_as_a_child_of_five(
    features: tuple[str, ...], pages: int
) -> None:
    made = bench(
        {"A": {int(REGION): page(2)}, "B": {}},
        vcpus=2,
        space_modes={"B": "5-level"},
        starts=("A", "B"),
        features=features,
    )
    made.poke(made.vm.layout.gpte("B", REGION, 5) + 8, (TABLE_A << 12) | 0x27)
    made.do(made.guest.load(REGION))
    made.do(made.guests[1].load(Gva(THROUGH + REGION)), 1)
    assert len(made.pages(TABLE_A)) == pages


def test_other_modes_keep_their_roles() -> None:
    for name in ("real", "32-bit", "pae", "4-level"):
        role = root_role(Controls.of(MODES[name]))
        assert shared(role) == role
