"""The documents of the model against the model: all that there is has its entry, and only that.

What there is comes from the registries and from machines of every era and feature, built here.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.names import resolve
from vmm.discovery import discover
from vmm.engine.cells import Cell, CellArray, Guard, Lock
from vmm.engine.world import World
from vmm.eras import ERAS
from vmm.features import features
from vmm.hw.paging import PagingMode
from vmm.hw.speculation import FORMS
from vmm.machine import MachineConfig, build_world
from vmm.mmu.role import Role
from vmm.programs import Programs
from vmm.scenario import REGION, page
from vmm.vcpu.requests import REQUESTS
from vmm.vcpu.vcpu import Mode, Vm

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted((ROOT / "docs").glob("*.md"))
EACH_DOCUMENT = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
FENCE = re.compile(r"^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
QUOTED = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(#[^)\s]*)?\)")
DOTTED = re.compile(r"[a-z_]+(\.\w+)+")
INSTANCE = re.compile(r"(?<=^sp)\d+|(?<=\bv)\d+|\d+$")


# --- what the documents say ---


def text_of(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text("utf-8")


def section(name: str, heading: str) -> str:
    """What stands under a heading, with what is below it."""
    text = text_of(name)
    found = [match for match in HEADING.finditer(text) if match[2] == heading]
    assert len(found) == 1, f"docs/{name}.md must have one heading {heading!r}"
    start = found[0]
    ends = [m.start() for m in HEADING.finditer(text, start.end()) if len(m[1]) <= len(start[1])]
    return text[start.end() : ends[0] if ends else len(text)]


def subheadings(name: str, heading: str) -> list[str]:
    """The entries below a heading that are headings themselves."""
    return [match[2].strip("`") for match in HEADING.finditer(section(name, heading))]


def rows(name: str, heading: str, column: str) -> dict[str, list[str]]:
    """The table whose first column is ``column``, by the name in it."""
    found: dict[str, list[str]] = {}
    inside = False
    for line in section(name, heading).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif not inside:
            inside = cells[0] == column
        elif set(cells[0]) != {"-"}:
            key = cells[0].strip("`")
            assert key not in found, f"docs/{name}.md has two entries for {key}"
            found[key] = cells[1:]
    return found


def listed(text: str) -> tuple[str, ...]:
    return tuple(item.strip(" `") for item in text.split(",") if item.strip())


# --- what there is ---


class Family(NamedTuple):
    """Cells that differ in a number, or the cells of an array."""

    name: str
    guard: Guard
    lock: str


LOOSER = {Guard.EXCHANGE: Guard.WRITE}
"""What the guard of a cell is without the features that let it be exchanged."""


class Machine(NamedTuple):
    """What a machine is made of: locks by name, families of cells, fields of a shadow page."""

    locks: tuple[str, ...]
    families: tuple[Family, ...]
    fields: tuple[str, ...]


@cache
def machines() -> tuple[Machine, ...]:
    """A machine of each era and one of each feature, with store buffers."""
    configs = [MachineConfig(era=era, smp=True) for era in ERAS]
    configs += [MachineConfig(features=(name,)) for name in features()]
    configs.append(MachineConfig(structure_caches=True))
    configs += [MachineConfig(speculative_fills=form) for form in FORMS[1:]]
    return tuple(build(config) for config in configs)


def build(config: MachineConfig) -> Machine:
    arrays: list[tuple[str, Guard, Lock | None]] = []

    class Watched(World):
        def array(self, name: str, *args: Any, **others: Any) -> CellArray[Any, Any]:
            arrays.append((name, others.get("guard", Guard.NONE), others.get("lock")))
            return super().array(name, *args, **others)

    small = {"spaces": {"A": {REGION: page(2)}}, "vcpus": 2}
    small["memory_model"] = "tso" if config.speculative_fills == "none" else "sc"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vmm.machine.World", Watched)
        world = build_world("docs", _replaced(config, small), Programs({}), {})
    vm = world.model
    assert isinstance(vm, Vm)
    plain = [cell for cell in world.cells if not isinstance(cell, Lock) and cell.array is None]
    made = [*arrays, *((INSTANCE.sub("N", cell.name), cell.guard, cell.lock) for cell in plain)]
    families = {
        name: Family(name, LOOSER.get(guard, guard), _lock_name(lock, vm))
        for name, guard, lock in made
    }
    fields = [
        name
        for name, value in vars(vm.mmu.cache.pages[0]).items()
        if isinstance(value, Cell | CellArray)
    ]
    locks = [cell.name for cell in world.cells if isinstance(cell, Lock)]
    return Machine(tuple(locks), tuple(families.values()), tuple(fields))


def _replaced(config: MachineConfig, changes: dict[str, Any]) -> MachineConfig:
    values = {name: getattr(config, name) for name in MachineConfig.__dataclass_fields__}
    return MachineConfig(**(values | changes))


def _lock_name(lock: Lock | None, vm: Vm) -> str:
    """The documents speak of mmu_lock, whatever the era calls it."""
    if lock is None:
        return ""
    return "mmu_lock" if lock is vm.mmu.lock else lock.name


def all_families() -> dict[str, Family]:
    found: dict[str, Family] = {}
    for machine in machines():
        for family in machine.families:
            assert found.setdefault(family.name, family) == family, "one guard in every machine"
    return found


# --- entries ---


def test_every_lock_has_its_section() -> None:
    made = {lock for machine in machines() for lock in machine.locks}
    assert sorted(subheadings("locking", "Locks")) == sorted(made)


def test_locks_of_features_are_locks() -> None:
    made = {lock for machine in machines() for lock in machine.locks}
    assert {lock for feature in features().values() for lock in feature.locks} <= made


def test_every_guarded_cell_has_its_row_with_guard_and_lock() -> None:
    said = {
        name: (guard.strip("`"), lock.strip("`"))
        for name, (guard, lock, _) in rows("locking", "Guarded cells", "cells").items()
    }
    made = {
        family.name: (family.guard.name, family.lock)
        for family in all_families().values()
        if family.guard is not Guard.NONE
    }
    assert said == made


def test_features_that_exchange_sptes_without_the_lock_are_named() -> None:
    modules = discover("vmm.features")
    parts = {name: getattr(modules[name], "ShadowPage", None) for name in features()}
    made = [name for name, part in parts.items() if part and part.spte_guard is Guard.EXCHANGE]
    said = rows("locking", "Guarded cells", "cells")["spte"][2]
    assert [name for name in features() if f"`{name}`" in said] == made


def test_every_other_cell_has_its_row_with_the_reason() -> None:
    said = rows("locking", "Cells without a lock", "cells")
    made = [family.name for family in all_families().values() if family.guard is Guard.NONE]
    assert sorted(said) == sorted(made)
    assert all(why for (why,) in said.values())


def test_every_request_has_its_section() -> None:
    assert sorted(subheadings("vcpu-requests", "Requests")) == sorted(REQUESTS.values())
    for feature in features().values():
        assert set(feature.requests) <= set(REQUESTS.values())


@pytest.mark.parametrize("request_name", REQUESTS.values())
def test_a_request_says_who_sets_and_serves_it_and_who_waits(request_name: str) -> None:
    said = section("vcpu-requests", f"`{request_name}`")
    for word in ("Does", "Set by", "Served by", "Waits"):
        assert f"**{word}:**" in said


def test_every_mode_of_a_vcpu_has_its_row_with_its_feature() -> None:
    said = rows("vcpu-requests", "VCPU mode", "mode")
    assert list(said) == [mode.name for mode in Mode]
    assert all(name in features() for _, why in said.values() for name in listed(why))


def test_every_paging_mode_has_its_row() -> None:
    assert list(rows("mmu", "Translation", "guest mode")) == [mode.name for mode in PagingMode]


def test_every_field_of_a_shadow_page_has_its_row() -> None:
    made = {field for machine in machines() for field in machine.fields}
    assert sorted(rows("mmu", "Shadow pages", "field")) == sorted(made)


def test_every_bit_of_the_role_has_its_row() -> None:
    assert tuple(rows("mmu", "Shadow pages", "bit")) == Role._fields


def test_every_feature_has_its_row_in_the_order_of_history() -> None:
    said = rows("mmu", "Features", "feature")
    assert sorted(said) == sorted(features())
    for name, (since, eras, what) in said.items():
        assert (since, listed(eras)) == (features()[name].since, features()[name].eras), name
        assert what, name
    versions = [[int(part) for part in since.split(".")] for since, _, _ in said.values()]
    assert versions == sorted(versions)


def test_every_era_has_its_row() -> None:
    assert list(rows("mmu", "Eras", "era")) == list(ERAS)


def test_every_monitor_has_its_row_with_the_finding_it_makes() -> None:
    said = {name: finding for name, (finding, _) in rows("mmu", "Monitors", "file").items()}
    names = {
        public: {
            value.name
            for value in vars(module).values()
            if isinstance(value, type)
            and value.__module__ == module.__name__
            and hasattr(value, "name")
        }
        for public, module in discover("vmm.monitors").items()
    }
    assert sorted(said) == sorted(names)
    for public, finding in said.items():
        assert set(listed(finding)) == names[public], public


# --- names, links, blocks ---


@EACH_DOCUMENT
def test_names_in_code_font_stand_for_something(path: Path) -> None:
    for name in QUOTED.findall(FENCE.sub("", path.read_text("utf-8"))):
        if name.endswith((".py", ".md")) and "/" in name:
            assert (ROOT / name).exists(), name
        elif DOTTED.fullmatch(name):
            resolve(f"vmm.{name}")


def anchors(path: Path) -> list[str]:
    """The anchors of a document's headings."""
    headings = [match[2] for match in HEADING.finditer(FENCE.sub("", path.read_text("utf-8")))]
    return ["#" + re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings]


@pytest.mark.parametrize(
    "path", [*DOCUMENTS, *sorted(ROOT.glob("*.md"))], ids=lambda path: path.name
)
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in LINK.findall(path.read_text("utf-8")):
        if "://" in target:
            continue
        there = path.parent / target if target else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}{anchor}"


def blocks() -> Iterator[tuple[str, str]]:
    """Each two-column block with the name that stands before it."""
    for path in DOCUMENTS:
        text = path.read_text("utf-8")
        for match in FENCE.finditer(text):
            names = QUOTED.findall(text, text.rindex("\n#", 0, match.start()), match.start())
            yield [name for name in names if DOTTED.fullmatch(name)][-1], match[1]


@pytest.mark.parametrize(("name", "block"), list(blocks()), ids=[name for name, _ in blocks()])
def test_a_block_stands_in_the_docstring_of_its_module(name: str, block: str) -> None:
    said = resolve(f"vmm.{name}").__doc__ or ""
    assert textwrap.indent(block, "    ") in f"{said}\n", f"copy it from {name}"
