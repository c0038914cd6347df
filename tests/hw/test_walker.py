"""The step-by-step walk while others write: one op a level, locked updates, retries."""

from __future__ import annotations

from tests.hand import Doing, Hand
from vmm.bits import PFERR_PRESENT, PFERR_RSVD, A, D, P, U, W
from vmm.engine.ops import Cas, Op, Read, Update
from vmm.engine.world import World
from vmm.hw.access import LOAD, STORE, AccessKind, GeneralProtection, GuestFault
from vmm.hw.events import Exchange
from vmm.hw.memory import Memory
from vmm.hw.paging import Controls, PagingMode, PagingRegisters
from vmm.hw.walker import Walk, Walker
from vmm.units import Gpa, Gva

DIRECTORY, TABLE, DATA = 0x1000, 0x2000, 0x5000
GVA = Gva(0x0040_0123)
FLAGS = P | W | U
TWO_LEVEL = PagingRegisters(Controls.of(PagingMode.BITS32), DIRECTORY)


class Stage:
    """A walker over a memory that only this test touches."""

    def __init__(self, content: dict[int, int]) -> None:
        world = World("walk")
        self.memory = Memory(world, content, {})
        self.walker = Walker(self.memory)
        self.hand = Hand(world)

    def start(self, registers: PagingRegisters, gva: Gva, kind: AccessKind = LOAD) -> Doing:
        return self.hand.start(self.walker.translate(registers, gva, kind))

    def word(self, gpa: int) -> int:
        value: int = self.hand[self.memory.word(gpa)]
        return value

    def poke(self, gpa: int, value: int) -> None:
        self.hand[self.memory.word(gpa)] = value


def two_level() -> Stage:
    """Entry 1 of the directory leads to the table, whose entry 0 maps the data page."""
    return Stage({DIRECTORY: (TABLE | FLAGS) << 32, TABLE: DATA | FLAGS | 0xABC << 32})


def is_update(op: Op) -> bool:
    return isinstance(op, Update)


def test_four_byte_entries_are_read_and_marked_one_by_one() -> None:
    stage = two_level()
    found = stage.start(TWO_LEVEL, GVA, STORE).finish()
    assert isinstance(found, Walk)
    assert found.gpa == DATA + 0x123
    assert [(step.level, step.gpa) for step in found.steps] == [(2, DIRECTORY + 4), (1, TABLE)]
    assert [type(op) for op in stage.hand.taken] == [Read, Update, Read, Update]
    assert stage.word(DIRECTORY) == (TABLE | FLAGS | A) << 32
    assert stage.word(TABLE) == DATA | FLAGS | A | D | 0xABC << 32, "the neighbour is untouched"


def test_a_neighbour_that_changes_does_not_send_the_walk_back() -> None:
    stage = two_level()
    walk = stage.start(TWO_LEVEL, GVA)
    walk.until(is_update)
    stage.poke(DIRECTORY, stage.word(DIRECTORY) | 0x777)
    assert walk.finish().gpa == DATA + 0x123
    assert len(stage.hand.taken) == 4
    assert stage.word(DIRECTORY) == (TABLE | FLAGS | A) << 32 | 0x777


def test_an_entry_that_changes_sends_the_walk_back_to_the_root() -> None:
    stage = two_level()
    walk = stage.start(TWO_LEVEL, GVA)
    walk.until(is_update)
    walk.step()
    walk.until(is_update)
    stage.poke(TABLE, 0x7000 | FLAGS)
    assert walk.finish().gpa == 0x7123
    kinds = [type(op) for op in stage.hand.taken]
    assert kinds == [Read, Update, Read, Update, Read, Read, Update]
    assert [event.gpa for event in stage.hand.said(Exchange)] == [DIRECTORY + 4, TABLE]


def test_eight_byte_entries_are_compared_whole() -> None:
    stage = Stage({0x1000: 0x2000 | FLAGS, 0x2000: 0x3000 | FLAGS | A, 0x3000: 0x4000 | FLAGS | A})
    walk = stage.start(PagingRegisters(Controls(), 0x1000), Gva(0))
    walk.until(lambda op: isinstance(op, Cas))
    stage.poke(0x1000, 0)
    assert walk.finish() == GuestFault(0, 0)


def test_pdptes_come_from_registers() -> None:
    stage = Stage({0x2008: 0x3000 | FLAGS, 0x3000: 0x5000 | FLAGS})
    latched = (0, 0, 0, 0x2000 | P)
    registers = PagingRegisters(Controls.of(PagingMode.PAE), 0x1020, latched)
    found = stage.start(registers, Gva(0xC020_0042)).finish()
    assert found.gpa == 0x5042
    assert [(step.level, step.gpa) for step in found.steps] == [
        (3, 0x1038),
        (2, 0x2008),
        (1, 0x3000),
    ]
    assert found.steps[0].entry == latched[3], "never marked accessed"
    assert found.steps[0].access == W | U, "without rights of its own"
    assert [op.cell.name for op in stage.hand.taken if isinstance(op, Read)] == [
        "ram 0x2008",
        "ram 0x3000",
    ]
    assert stage.start(registers, Gva(0x4000_0000)).finish() == GuestFault(0x4000_0000, 0)


def test_an_address_that_is_not_canonical_is_no_page_fault() -> None:
    stage = Stage({})
    far = Gva(1 << 47)
    assert stage.start(PagingRegisters(Controls(), 0), far).finish() == GeneralProtection(far)
    five = PagingRegisters(Controls.of(PagingMode.LEVEL5), 0)
    assert stage.start(five, far).finish() == GuestFault(far, 0)


def test_without_paging_an_address_is_its_own() -> None:
    registers = PagingRegisters(Controls.of(PagingMode.NONE), 0)
    assert Stage({}).start(registers, GVA, STORE).finish() == Walk(GVA, Gpa(GVA), ())


def test_silicon_walks_on_where_rights_are_missing() -> None:
    """The fault says "not present" although an upper entry denies the access as well."""
    stage = Stage({0x1000: 0x2000 | P, 0x2000: 0x3000 | FLAGS})
    kind = AccessKind(user=True)
    found = stage.start(PagingRegisters(Controls(), 0x1000), Gva(0), kind).finish()
    assert found == GuestFault(0, 4)
    assert [stage.word(gpa) & A for gpa in (0x1000, 0x2000)] == [A, A], "both were used"


def test_a_refused_leaf_keeps_its_marks() -> None:
    controls = Controls(maxphyaddr=40)
    for entry, code in ((0x5000 | P, PFERR_PRESENT), (0x5000 | P | 1 << 45, 1 | PFERR_RSVD)):
        stage = Stage(
            {0x1000: 0x2000 | FLAGS, 0x2000: 0x3000 | FLAGS, 0x3000: 0x4000 | FLAGS, 0x4000: entry}
        )
        found = stage.start(PagingRegisters(controls, 0x1000), Gva(0), STORE).finish()
        assert found == GuestFault(0, code | 2)
        assert stage.word(0x4000) == entry
        assert all(stage.word(gpa) & A for gpa in (0x1000, 0x2000, 0x3000))
