"""A physical CPU: its walks over hand-made tables, its TLB, and how IPIs reach it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from random import Random

import pytest

from tests.hand import Hand
from vmm.bits import NX, A, D, P, U, W, make_entry
from vmm.engine.cells import Cell
from vmm.engine.task import TaskKind
from vmm.engine.world import ModelObject, World
from vmm.hw.access import LOAD, STORE, AccessKind
from vmm.hw.events import TlbFlush, WalkRead
from vmm.hw.paging import HOST, PagingRegisters
from vmm.hw.pcpu import Boundary, Ipi, Irq, Pcpu
from vmm.hw.tlb import TlbEntry
from vmm.mmu.api import Root
from vmm.units import ENTRY_BYTES, Gva, Pfn
from vmm.workload.tables import GuestTables, fault_code

ROOT = Pfn(0x10)
ALL = P | W | U | A
GVA = Gva(0x401000)


class Entries(ModelObject):
    """Shadow tables for a walker: (pfn, index) to entry."""

    def __init__(self, world: World, content: Mapping[tuple[int, int], int]) -> None:
        self.array = world.array("entry", 0, content=content)

    def __call__(self, pfn: int, index: int) -> Cell[int]:
        return self.array[pfn, index]


class Silicon:
    """A lone pCPU over hand-made tables, driven by hand."""

    def __init__(
        self,
        content: Mapping[tuple[int, int], int],
        number: int = 0,
        *,
        structure_caches: bool = False,
    ) -> None:
        world = World()
        self.entries = Entries(world, content)
        self.cpu = Pcpu(
            world,
            number,
            tagged=True,
            table_entry=self.entries,
            structure_caches=structure_caches,
        )
        self.root = world.cell("root", Root(4, (0,)))
        self.registers = world.cell("registers", PagingRegisters(HOST, 0))
        world.task("ipi", Pcpu.deliver_ipis, self.cpu, kind=TaskKind.EVENTUAL)
        self.hand = Hand(world)

    @property
    def tlb(self) -> tuple[TlbEntry, ...]:
        found: tuple[TlbEntry, ...] = self.hand[self.cpu.tlb]
        return found

    def at_boundary(self, gva: Gva) -> Boundary:
        return self.hand.do(self.cpu.at_boundary(gva, self.root, self.registers))

    def walk(self, gva: Gva = GVA, kind: AccessKind = LOAD) -> TlbEntry | None:
        return self.hand.do(self.cpu.walk(4, ROOT, gva, kind, HOST))


def one_page(leaf: int, *, upper: int = ALL) -> dict[tuple[int, int], int]:
    """Tables 0x10 .. 0x13 that lead to ``leaf`` at GVA."""
    return {
        (0x10, 0): make_entry(0x11, upper),
        (0x11, 0): make_entry(0x12, upper),
        (0x12, 2): make_entry(0x13, upper),
        (0x13, 1): leaf,
    }


def random_tables(random: Random) -> dict[tuple[int, int], int]:
    """Two tables a level, half of whose entries are holes."""
    content = {}
    for level, table, index in product((4, 3, 2, 1), (0, 1), (0, 1)):
        flags = P if random.random() < 0.8 else 0
        for bit, chance in ((W, 0.8), (U, 0.8), (A, 0.9), (D, 0.5), (NX, 0.15)):
            flags |= bit if random.random() < chance else 0
        below = 0x10 + 2 * (5 - level) + random.randrange(2) if level > 1 else random.randrange(4)
        content[0x10 + 2 * (4 - level) + table, index] = make_entry(below, flags)
    return content


def test_walks_agree_with_an_independent_walker() -> None:
    kinds = [AccessKind(*flags) for flags in product((False, True), repeat=3)]
    outcomes = []
    for seed in range(30):
        content = random_tables(Random(seed))
        tables = GuestTables()
        for (pfn, index), entry in content.items():
            tables.store(pfn << 12 | index * ENTRY_BYTES, ENTRY_BYTES, entry)
        for indexes, kind in product(product((0, 1), repeat=4), kinds):
            gva = Gva(sum(i << shift for i, shift in zip(indexes, (39, 30, 21, 12), strict=True)))
            expected = tables.walk(ROOT << 12, gva)
            code = fault_code(expected, write=kind.write, user=kind.user, fetch=kind.fetch)
            silicon = Silicon(content)
            found = silicon.walk(gva, kind)
            outcomes.append(found is None)
            if code is not None or expected is None:
                assert found is None, (seed, indexes, kind)
                assert silicon.tlb == ()
                continue
            rights = W * expected.rights.write | U * expected.rights.user | NX * expected.rights.nx
            assert found == TlbEntry(1, gva >> 12, expected.gpa >> 12, rights), (seed, indexes)
            assert silicon.tlb == (found,)
    assert 0.1 < sum(outcomes) / len(outcomes) < 0.95, "both outcomes must come up"


@pytest.mark.parametrize("missing", [(0x10, 0), (0x11, 0), (0x12, 2), (0x13, 1)])
def test_nothing_is_cached_of_a_walk_that_meets_a_hole(missing: tuple[int, int]) -> None:
    content = one_page(make_entry(2, ALL | D))
    silicon = Silicon({**content, missing: content[missing] & ~P})
    assert silicon.walk() is None
    assert silicon.tlb == ()


def test_nothing_is_cached_of_a_walk_that_is_refused() -> None:
    silicon = Silicon(one_page(make_entry(2, ALL & ~W)))
    assert silicon.walk(kind=STORE) is None
    assert silicon.tlb == ()
    assert silicon.walk(kind=LOAD) is not None


def test_the_host_runs_with_write_protection() -> None:
    """A supervisor may not write a read-only spte, whatever the guest's CR0.WP."""
    silicon = Silicon(one_page(make_entry(2, P | U | A)))
    assert silicon.walk(kind=AccessKind(write=True)) is None


def test_a_walk_of_fewer_levels_starts_lower() -> None:
    silicon = Silicon(one_page(make_entry(2, ALL | D)))
    found = silicon.hand.do(silicon.cpu.walk(2, Pfn(0x12), GVA, LOAD, HOST))
    assert found == TlbEntry(1, GVA >> 12, 2, W | U)
    assert [read.level for read in silicon.hand.said(WalkRead)] == [2, 1]


def test_a_walk_is_one_op_a_level_and_the_last_one_fills() -> None:
    silicon = Silicon(one_page(make_entry(2, ALL | D)))
    doing = silicon.hand.start(silicon.cpu.walk(4, ROOT, GVA, LOAD, HOST))
    for _ in range(3):
        doing.step()
        assert silicon.tlb == ()
    doing.step()
    assert doing.ended
    assert [entry.pfn for entry in silicon.tlb] == [2]
    reads = [(read.table, read.level) for read in silicon.hand.said(WalkRead)]
    assert reads == [(0x10, 4), (0x11, 3), (0x12, 2), (0x13, 1)]


def test_a_walk_under_way_goes_on_below_an_entry_that_is_cleared() -> None:
    """Why a zapped page may not be freed before the walkers are out of it."""
    silicon = Silicon(one_page(make_entry(2, ALL | D)))
    doing = silicon.hand.start(silicon.cpu.walk(4, ROOT, GVA, LOAD, HOST))
    for _ in range(3):
        doing.step()
    silicon.hand[silicon.entries(0x12, 2)] = 0
    assert doing.finish() is not None


def test_a_walk_sees_a_leaf_that_is_cleared_before_it_gets_there() -> None:
    silicon = Silicon(one_page(make_entry(2, ALL | D)))
    doing = silicon.hand.start(silicon.cpu.walk(4, ROOT, GVA, LOAD, HOST))
    doing.step()
    silicon.hand[silicon.entries(0x13, 1)] = 0
    assert doing.finish() is None
    assert silicon.tlb == ()


def test_a_fresh_walk_replaces_what_was_cached() -> None:
    silicon = Silicon(one_page(make_entry(2, P | U | A)))
    silicon.walk()
    silicon.hand[silicon.entries(0x13, 1)] = make_entry(3, ALL | D)
    silicon.walk(kind=STORE)
    assert silicon.tlb == (TlbEntry(1, GVA >> 12, 3, W | U),)


# --- the TLB ---


def test_a_boundary_shows_the_entry_of_that_page_and_no_other() -> None:
    silicon = Silicon(one_page(make_entry(2, ALL | D)), number=4)
    assert silicon.at_boundary(GVA) == Boundary(Irq.ON, None, Root(4, (0,)), HOST)
    filled = silicon.walk()
    assert filled is not None
    assert filled.tag == 5
    for gva, entry in ((GVA, filled), (Gva(GVA + 0xFFF), filled), (Gva(GVA + 0x1000), None)):
        assert silicon.at_boundary(gva).entry == entry


def test_invlpg_drops_one_page_and_a_flush_all() -> None:
    content = {**one_page(make_entry(2, ALL | D)), (0x13, 2): make_entry(3, ALL | D)}
    silicon = Silicon(content)
    other = Gva(GVA + 0x1000)
    silicon.walk(), silicon.walk(other)
    silicon.hand.do(silicon.cpu.invlpg(Gva(GVA + 8)))
    assert [entry.page for entry in silicon.tlb] == [other >> 12]
    silicon.walk()
    silicon.hand.do(silicon.cpu.flush())
    assert silicon.tlb == ()
    assert len(silicon.hand.said(TlbFlush)) == 2


# --- paging-structure caches ---


def relinked() -> Silicon:
    """A processor that has walked to frame 2; the upper entry leads to frame 7 by now."""
    silicon = Silicon(
        {**one_page(make_entry(2, ALL | D)), (0x14, 1): make_entry(7, P | U | A)},
        structure_caches=True,
    )
    silicon.walk()
    silicon.hand[silicon.entries(0x12, 2)] = make_entry(0x14, ALL)
    return silicon


@pytest.mark.parametrize(("branch", "pfn"), [(0, 7), (1, 2), (2, 7), (3, 7)])
def test_a_walk_may_begin_at_the_root_or_below_any_cached_entry(branch: int, pfn: int) -> None:
    silicon = relinked()
    silicon.hand.branch = branch
    found = silicon.walk()
    assert found is not None
    assert found.pfn == pfn


def test_a_cached_entry_brings_the_rights_of_the_walk_to_it() -> None:
    silicon = Silicon(one_page(make_entry(2, ALL | D), upper=P | W | A), structure_caches=True)
    silicon.walk()
    silicon.hand.branch = 1
    assert silicon.walk(kind=AccessKind(user=True)) is None
    assert silicon.walk() == TlbEntry(1, GVA >> 12, 2, W)


def test_any_invlpg_and_any_flush_drops_all_upper_entries() -> None:
    for drop in (Pcpu.flush, lambda cpu: cpu.invlpg(Gva(0x7000_0000))):
        silicon = relinked()
        silicon.hand.branch = 1
        silicon.hand.do(drop(silicon.cpu))
        found = silicon.walk()
        assert found is not None
        assert found.pfn == 7


def test_upper_entries_serve_the_addresses_below_them_only() -> None:
    silicon = relinked()
    silicon.hand.branch = 1
    silicon.hand[silicon.entries(0x12, 3)] = make_entry(0x14, ALL)
    found = silicon.walk(Gva(GVA + (1 << 21)))
    assert found is not None
    assert found.pfn == 7


def test_an_upper_entry_that_is_not_present_is_not_cached() -> None:
    silicon = Silicon({**one_page(make_entry(2, ALL | D)), (0x11, 0): 0}, structure_caches=True)
    assert silicon.walk() is None
    assert silicon.cpu.caches is not None
    assert [entry.level for entry in silicon.hand[silicon.cpu.caches]] == [4]


# --- interrupts ---


@pytest.mark.parametrize(
    ("before", "after", "ipi"),
    [
        (Irq.ON, Irq.ON, Ipi.NONE),  # taken at once: acknowledged
        (Irq.OFF, Irq.OFF, Ipi.PENDING),
        (Irq.GUEST, Irq.EXITING, Ipi.PENDING),  # ends the guest run; acknowledged in the host
        (Irq.EXITING, Irq.EXITING, Ipi.PENDING),
    ],
)
def test_delivery_in_each_state(before: Irq, after: Irq, ipi: Ipi) -> None:
    silicon = Silicon({})
    silicon.hand[silicon.cpu.irq] = before
    silicon.hand[silicon.cpu.ipi] = Ipi.SENT
    silicon.hand.settle()
    assert (silicon.hand[silicon.cpu.irq], silicon.hand[silicon.cpu.ipi]) == (after, ipi)


@pytest.mark.parametrize("state", list(Irq))
def test_nothing_is_delivered_that_was_not_sent(state: Irq) -> None:
    silicon = Silicon({})
    silicon.hand[silicon.cpu.irq] = state
    silicon.hand.settle()
    assert (silicon.hand[silicon.cpu.irq], silicon.hand[silicon.cpu.ipi]) == (state, Ipi.NONE)


def test_a_pending_ipi_is_taken_as_interrupts_go_on() -> None:
    """Not some time after: a pCPU could turn them off again for ever and never take it."""
    silicon = Silicon({})
    silicon.hand[silicon.cpu.irq] = Irq.GUEST
    silicon.hand.do(silicon.cpu.send_ipi())
    silicon.hand.settle()
    silicon.hand.do(silicon.cpu.interrupts_off())
    assert silicon.hand[silicon.cpu.ipi] is Ipi.PENDING
    silicon.hand.do(silicon.cpu.send_ipi())
    assert silicon.hand[silicon.cpu.ipi] is Ipi.PENDING
    silicon.hand.do(silicon.cpu.interrupts_on())
    assert (silicon.hand[silicon.cpu.irq], silicon.hand[silicon.cpu.ipi]) == (Irq.ON, Ipi.NONE)


def test_an_ipi_under_way_may_arrive_later_than_interrupts_go_on() -> None:
    silicon = Silicon({})
    silicon.hand[silicon.cpu.irq] = Irq.OFF
    silicon.hand.do(silicon.cpu.send_ipi())
    silicon.hand.do(silicon.cpu.interrupts_on())
    assert (silicon.hand[silicon.cpu.irq], silicon.hand[silicon.cpu.ipi]) == (Irq.ON, Ipi.SENT)


@pytest.mark.parametrize(("ipi", "irq"), [(Ipi.SENT, Irq.GUEST), (Ipi.PENDING, Irq.EXITING)])
def test_a_pending_ipi_lets_the_guest_run_no_instruction(ipi: Ipi, irq: Irq) -> None:
    silicon = Silicon({})
    silicon.hand[silicon.cpu.irq] = Irq.OFF
    silicon.hand[silicon.cpu.ipi] = ipi
    silicon.hand.do(silicon.cpu.run_guest())
    assert (silicon.hand[silicon.cpu.irq], silicon.hand[silicon.cpu.ipi]) == (irq, ipi)
