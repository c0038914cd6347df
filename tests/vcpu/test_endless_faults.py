"""A fault loop that KVM of the time really had, as a search sees it."""

from __future__ import annotations

from tests.tiny import tiny
from vmm.hw.layout import REGION, page
from vmm.search.exhaustive import search
from vmm.vcpu.guest import Guest


async def writes_its_own_table(cpu: Guest) -> None:
    """Zapping the table lets the store through, but the walk to it shadows that table again."""
    await cpu.load(REGION)
    await cpu.store_unemulated(cpu.window(REGION), 0x5067)


def test_a_store_that_needs_the_table_which_it_writes_never_gets_through() -> None:
    result = search(tiny({"A": {int(REGION): page(2)}}, writes_its_own_table))
    (finding,) = result.findings
    assert finding.code == "livelock/inescapable"
    assert "v0 goes round" in finding.message
    assert result.schedule is not None
    assert result.schedule.repeats_from is not None
