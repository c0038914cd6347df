"""Steps that another step covers for: off alone they leave the scenario clean.

With the other one off as well they do not. docs/points.md says more.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import vmm.bugs
from vmm.matrix.work import experiment_of
from vmm.search.exhaustive import search
from vmm.search.result import Verdict

HEAD = """
from vmm.bugs import Bug
from vmm.features import notifier, prefetch, shadow_count, unsync
from vmm.features.notifier import _add
SPEC = Bug(title="a step less", source="a test", caught_by=("none",))
"""

MUTANTS = {
    "lookup_without_sync": """
class Shadowing(unsync.Shadowing):
    async def sync_frame(self, me, gfn):
        pass
""",
    "new_page_unprotected": """
class Shadowing(unsync.Shadowing):
    async def get_page(self, me, gfn, role):
        if not role.direct:
            await self.sync_frame(me, gfn)
        page = await self.mmu.cache.find(gfn, role)
        return await self.mmu.cache.insert(gfn, role) if page is None else page
""",
    "count_without_barrier": """
class PageCache(shadow_count.PageCache):
    async def count(self, change):
        await self.indirect_shadow_pages.set(await self.indirect_shadow_pages + change)
""",
    "look_without_barrier": """
class PteWrite(shadow_count.PteWrite):
    async def may_be_shadowed(self):
        return await self.mmu.cache.indirect_shadow_pages != 0
""",
    "count_down_first": """
class Host(notifier.Host):
    async def invalidate_end(self, first, frames):
        async with self.vm.mmu.lock:
            await self._slots.count.update(_add, -1)
            await self._slots.sequence.update(_add, 1)
""",
    "count_not_asked": """
class Memslots(notifier.Memslots):
    async def still_holds(self, page):
        return await self.sequence == page.sequence
""",
}


class Case(NamedTuple):
    """Mutants in a scenario, and what a search of all states says."""

    scenario: str
    mutants: tuple[str, ...]
    verdict: Verdict


CASES = (
    Case("unsync-upper-level", ("lookup-without-sync",), Verdict.CLEAN),
    Case("unsync", ("lookup-without-sync",), Verdict.CLEAN),
    Case("unsync-child-link", ("lookup-without-sync",), Verdict.CLEAN),
    Case("unsync-upper-level", ("lookup-without-sync", "new-page-unprotected"), Verdict.VIOLATED),
    Case("shadow-count-storeload", ("count-without-barrier",), Verdict.CLEAN),
    Case("shadow-count-storeload", ("look-without-barrier",), Verdict.VIOLATED),
    Case("mmu-notifier", ("count-down-first",), Verdict.CLEAN),
    Case("mmu-notifier", ("count-not-asked",), Verdict.VIOLATED),
)


@pytest.fixture
def mutants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The mutants above, as if they were bugs of ours."""
    for name, text in MUTANTS.items():
        (tmp_path / f"{name}.py").write_text(f'"""A step less."""\n{HEAD}{text}')
    monkeypatch.setattr(vmm.bugs, "__path__", [*vmm.bugs.__path__, str(tmp_path)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for name in MUTANTS:
        sys.modules.pop(f"vmm.bugs.{name}", None)
        vars(vmm.bugs).pop(name, None)


@pytest.mark.slow
@pytest.mark.usefixtures("mutants")
@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case.scenario}-{'-'.join(case.mutants)}"
)
def test_one_step_covers_for_another(case: Case) -> None:
    result = search(experiment_of(case.scenario, *case.mutants).world())
    assert result.verdict is case.verdict, result.findings
