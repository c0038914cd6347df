"""The step walk against Unicorn 2.1.4: fault or not, error code, CR2, gpa, A and D of every entry.

Unicorn (the processor of QEMU 5) has all four modes, 1G pages, SMEP, SMAP, NX, protection keys and
five levels, and shares no code with the model. What it does not have, or has otherwise, is left
out or explained, and judged by the SDM alone in ``test_walker_sdm``:

- A 1G page that refuses its access gets A all the same: it sets A in each PDPTE before it looks
  whether that maps a page. The SDM lets A be set early. Counted as explained, in the very entry.
- Physical addresses have 40 bits on every processor model, so MAXPHYADDR is 40 here.
- 1G pages and PSE-36 are there on every model, whatever its CPUID says.
- PDPTEs of PAE paging are read from memory by each walk and their reserved bits give #PF; silicon
  has them in registers and MOV CR3 gives #GP. So here registers and memory hold the same, valid,
  PDPTEs.
- An implicit supervisor access below CPL 3 obeys AC. The model has the SDM's rule, which differs,
  so implicit accesses are made at CPL 3 only (LAR through a GDT at the address).
- A fetch shows where it went by running into an int3, so its bytes lie there and nowhere else.
"""

from __future__ import annotations

import pytest

from tests.hw.truth import MODES, REFUSED_1G, compare_many
from vmm.hw.paging import PagingMode


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_random_accesses(mode: PagingMode) -> None:
    seen = compare_many(mode, 1_000_000, 1500)
    explained = seen.pop(REFUSED_1G, 0)
    assert seen.total() == 1500
    assert 300 < seen["Reached"] < 1200
    codes = {int(what.removeprefix("#PF "), 16) for what in seen if what.startswith("#PF")}
    assert {0, 1, 2, 3, 4, 5, 6, 7, 9, 0xB, 0xD, 0xF, 0x10, 0x11, 0x14, 0x15} <= codes
    long_mode = mode in {PagingMode.LEVEL4, PagingMode.LEVEL5}
    assert bool(explained) == long_mode
    assert bool(codes & {0x21, 0x23, 0x25, 0x27}) == long_mode, "protection keys"
    assert bool(seen["Protection"]) == long_mode, "addresses that are not canonical"
