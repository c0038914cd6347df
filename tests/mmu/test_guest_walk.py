"""KVM's walk of guest tables against the independent walker of recorded guests."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from random import Random

import pytest

from tests.hand import Bench, bench
from vmm.bits import NX, PS, A, D, P, U, W, combine, frame_of, make_entry
from vmm.engine.ops import Cas, Op
from vmm.hw.access import LOAD, STORE, AccessKind, GuestFault
from vmm.hw.layout import REGION, Layout, lay_out, page
from vmm.hw.paging import HOST, grants, is_leaf
from vmm.hw.walker import WalkStep
from vmm.mmu.guest_walk import GuestWalk
from vmm.mmu.role import Role, root_role
from vmm.units import ENTRY_BYTES, Gfn, Gpa, Gva, entry_gpa, table_index
from vmm.workload.tables import GuestTables, fault_code

ROOT = Gfn(0x10)
KINDS = [AccessKind(*flags) for flags in product((False, True), repeat=3)]
GVAS = [
    Gva(sum(index << shift for index, shift in zip(indexes, (39, 30, 21, 12), strict=True)) + 0x123)
    for indexes in product((0, 1), repeat=4)
]

ROOT_ROLE = root_role(HOST)


def random_layout(random: Random) -> Layout:
    """Two tables a level with two entries each: holes, large pages, missing rights and A bits."""
    content: dict[int, int] = {}
    for level, table, index in product((4, 3, 2, 1), (0, 1), (0, 1)):
        flags = P if random.random() < 0.85 else 0
        for bit, chance in ((W, 0.8), (U, 0.8), (A, 0.6), (D, 0.5), (NX, 0.15)):
            flags |= bit if random.random() < chance else 0
        own = 0x10 + 2 * (4 - level) + table
        below = 0x10 + 2 * (5 - level) + random.randrange(2)
        if level in (2, 3) and random.random() < 0.25:
            below, flags = random.randrange(4) << 9 * (level - 1), flags | PS
        content[entry_gpa(Gfn(own), index)] = make_entry(below if level > 1 else own, flags)
    return Layout({"A": ROOT}, {Gfn(0x10 + n): 8 for n in range(8)}, content)


def words_of(layout: Layout) -> GuestTables:
    tables = GuestTables()
    for gpa, word in layout.content.items():
        tables.store(gpa, ENTRY_BYTES, word)
    return tables


def entries(tables: GuestTables, gva: Gva) -> Iterator[tuple[int, int, int]]:
    """(level, gpa, entry) of the present entries that a walk meets."""
    table = int(ROOT)
    for level in range(4, 0, -1):
        index = table_index(gva, level)
        entry = tables.entry(table, index)
        if not entry & P:
            return
        yield level, entry_gpa(Gfn(table), index), entry
        if is_leaf(entry, level, HOST):
            return
        table = frame_of(entry)


def denied_at(tables: GuestTables, gva: Gva, kind: AccessKind, *, write_protect: bool) -> int:
    """The level of the first entry that denies an access; 0 if none does."""
    rights = W | U
    for level, _, entry in entries(tables, gva):
        rights = combine(rights, entry)
        if not grants(rights, kind, HOST._replace(wp=write_protect)):
            return level
    return 0


def all_words(made: Bench) -> dict[int, int]:
    return {gpa: made.word(gpa) for gpa in made.vm.layout.content}


def as_words(tables: GuestTables, layout: Layout) -> dict[int, int]:
    return {gpa: tables.entry(gpa >> 12, gpa % 4096 // ENTRY_BYTES) for gpa in layout.content}


@pytest.mark.parametrize("write_protect", [True, False])
def test_random_tables(write_protect: bool) -> None:
    seen = dict.fromkeys(("walks", "large", "faults", "upper denies, lower is missing"), 0)
    for seed in range(25):
        layout = random_layout(Random(seed))
        made = bench(tables=layout, controls={"wp": write_protect})
        for gva, kind in product(GVAS, KINDS):
            tables = words_of(layout)
            made.hand.reset()
            result = made.do(made.vm.mmu.walker.walk(made.vcpu, gva, kind))
            # The independent walker knows CR0.WP = 1 only; without it the supervisor's writes
            # need the rights of a read.
            asks_write = kind.write and (write_protect or kind.user)
            found = tables.walk(ROOT << 12, gva)
            code = fault_code(found, write=asks_write, user=kind.user, fetch=kind.fetch)
            if code is None:
                assert isinstance(result, GuestWalk), (seed, gva, kind)
                assert found is not None
                seen["walks"] += 1
                seen["large"] += found.level > 1
                assert result.gfn == found.gpa >> 12
                assert [step.gpa for step in result.steps] == [gpa for gpa, _ in found.path]
                assert bool(result.access & W) == found.rights.write
                assert bool(result.access & U) == found.rights.user
                assert bool(result.access & NX) == found.rights.nx
                tables.set_accessed_dirty(ROOT << 12, gva, write=kind.write)
                for step in result.steps:
                    assert step.entry == made.word(step.gpa), "the entry as it is now"
            else:
                denied = denied_at(tables, gva, kind, write_protect=write_protect)
                if found is None and denied:
                    seen["upper denies, lower is missing"] += 1  # told as missing
                code |= kind.write << 1
                assert result == GuestFault(gva, code), (seed, gva, kind)
                seen["faults"] += 1
                met = list(entries(tables, gva))
                for _, gpa, entry in met if found is None else met[:-1]:
                    tables.store(gpa, ENTRY_BYTES, entry | A)
            assert all_words(made) == as_words(tables, layout), (seed, gva, kind)
    assert all(seen.values()), seen


# --- the guest writes its tables meanwhile ---


def one_page(**flags: bool) -> tuple[Bench, Gpa]:
    layout = lay_out({"A": {REGION: page(2, **flags)}})
    return bench(tables=layout), layout.gpte("A", REGION)


def is_cas(op: Op) -> bool:
    return isinstance(op, Cas)


def test_a_walk_restarts_if_the_entry_changes_under_its_accessed_bit() -> None:
    made, gpte = one_page(fresh=True)
    walk = made.hand.start(made.vm.mmu.walker.walk(made.vcpu, REGION, LOAD))
    walk.until(is_cas)
    made.poke(gpte, make_entry(4, P | U))
    found = walk.finish()
    assert (found.gfn, found.access) == (4, U)
    assert made.word(gpte) == make_entry(4, P | U | A), "A of the new entry, nothing of the old"


def test_a_walk_that_restarts_may_end_in_a_fault() -> None:
    made, gpte = one_page(fresh=True)
    walk = made.hand.start(made.vm.mmu.walker.walk(made.vcpu, REGION, STORE))
    walk.until(is_cas)
    made.poke(gpte, 0)
    assert walk.finish() == GuestFault(REGION, 2)
    assert made.word(gpte) == 0


def test_another_walk_may_set_accessed_first() -> None:
    made, gpte = one_page(fresh=True)
    one, two = (
        made.hand.start(made.vm.mmu.walker.walk(made.vcpu, REGION, kind)) for kind in (LOAD, STORE)
    )
    one.until(is_cas)
    two.until(is_cas)
    assert two.finish().gfn == 2
    assert one.finish().gfn == 2
    assert made.word(gpte) & (A | D) == A | D, "neither bit is lost"


def test_a_change_at_any_moment_gives_the_old_or_the_new_translation() -> None:
    level2 = lay_out({"A": {REGION: page(2)}}).gpte("A", REGION, 2)
    for fresh, moment in product((False, True), range(8)):
        for level, gpte, new in (
            (1, one_page()[1], make_entry(4, P | W | U)),
            (2, level2, make_entry(0x200, P | W | U | PS)),
        ):
            made, _ = one_page(fresh=fresh)
            walk = made.hand.start(made.vm.mmu.walker.walk(made.vcpu, REGION, STORE))
            for _ in range(moment):
                if not walk.ended:
                    walk.step()
            made.poke(gpte, new)
            found = walk.finish()
            assert found.gfn in (2, 4 if level == 1 else 0x200)
            took_new = found.gfn != 2
            assert made.word(gpte) == (new | A | D if took_new else new), (fresh, moment, level)


# --- which shadow pages a walk asks for ---


def walk_of(*entries: int) -> GuestWalk:
    """A walk over tables 0x10, 0x11, ... with these entries."""
    access, steps = W | U, []
    for depth, entry in enumerate(entries):
        access = combine(access, entry)
        steps.append(WalkStep(4 - depth, Gfn(0x10 + depth), Gpa(0), entry, access))
    level = 5 - len(entries)
    first = frame_of(entries[-1]) & -(1 << 9 * (level - 1))
    return GuestWalk(REGION, tuple(steps), Gfn(first + 5 * (level > 1)), ROOT_ROLE)


def test_a_page_is_keyed_by_its_table_and_the_rights_above_it() -> None:
    walk = walk_of(
        make_entry(0x11, P | W | U | A),
        make_entry(0x12, P | W | A),
        make_entry(0x13, P | W | U | A | NX),
        make_entry(2, P | U | A),
    )
    assert walk.shadow_key(4) == (0x10, ROOT_ROLE)
    assert walk.shadow_key(3) == (0x11, Role(3, direct=False, access=W | U))
    assert walk.shadow_key(2) == (0x12, Role(2, direct=False, access=W))
    assert walk.shadow_key(1) == (0x13, Role(1, direct=False, access=W | NX))
    assert [walk.passes(Gfn(gfn)) for gfn in (0x10, 0x13, 2)] == [True, True, False]


@pytest.mark.parametrize("dirty", [0, D])
def test_below_a_large_page_lie_direct_pages(dirty: int) -> None:
    large = make_entry(0x400, P | W | U | A | PS | dirty)
    walk = walk_of(make_entry(0x11, P | W | U | A), make_entry(0x12, P | W | U | A), large)
    access = W | U if dirty else U
    assert walk.direct_access() == access
    assert walk.gfn == 0x405
    assert walk.shadow_key(1) == (0x400, Role(1, direct=True, access=access))
    assert walk.at(1) is None


def test_a_huge_page_has_direct_pages_at_two_levels() -> None:
    huge = make_entry(1 << 18, P | U | A | PS)
    walk = walk_of(make_entry(0x11, P | W | U | A), huge)._replace(gfn=Gfn((1 << 18) + 0x605))
    assert walk.shadow_key(2) == (1 << 18, Role(2, direct=True, access=U))
    assert walk.shadow_key(1) == ((1 << 18) + 0x600, Role(1, direct=True, access=U))
