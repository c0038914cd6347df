"""Random guests: what their vCPUs do, one act after the other, in any paging mode.

A guest has three address spaces, of one mode or of several. Its acts are about few pages and few
entries, so that they meet: accesses of every size, also across pages; stores of every size to the
tables; INVLPG; loads of CR3; control bits; switches to another space with all that its mode needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any, NamedTuple

from tests.quality.plain_machine import PAGE, SWITCHES
from vmm.bits import NX, PS, A, D, G, P, U, W, make_entry
from vmm.hw.layout import FIRST_TABLE, MODES, REGION, WINDOW, Layout, lay_out, page
from vmm.units import Gva

LARGE, GIGA = 1 << 21, 1 << 30
FRAMES = (2, 3, 4)
FAR = Gva(GIGA + REGION)
GVAS = (
    *[REGION + n * PAGE for n in range(4)],
    REGION + LARGE,
    REGION + LARGE + PAGE,
    REGION + 2 * LARGE,
    FAR,
    REGION + LARGE + (FIRST_TABLE + 3) * PAGE,
    3 * GIGA + REGION,
)
SPACES = ("A", "B", "C")
TABLES = tuple(range(FIRST_TABLE, FIRST_TABLE + 4 * len(SPACES)))
LEVELS = {"32-bit": 2, "pae": 3, "4-level": 4, "5-level": 5}
HOST = -1
CONTROLS = {
    "mov cr0": ("wp",),
    "mov cr4": ("pse", "smep", "smap", "pge"),
    "wrmsr efer": ("nxe",),
    "set ac": ("ac",),
}
RARE = (("mov cr0", "pg"), ("mov cr4", "pae"), ("mov cr4", "la57"), ("wrmsr efer", "lme"))


class Act(NamedTuple):
    """An instruction of a vCPU, or what a host thread does (``cpu`` HOST)."""

    cpu: int
    verb: str
    gva: int = 0
    value: int = 0
    size: int = 8
    user: bool = False
    bits: tuple[tuple[str, bool], ...] = ()


class Plan(NamedTuple):
    """A guest: its tables, where its vCPUs start and with which bits, and what they do."""

    acts: tuple[Act, ...]
    tables: Layout
    starts: tuple[str, ...]
    controls: Mapping[str, Any]


def guest_tables(modes: tuple[str, ...] = ("4-level",) * 3) -> Layout:
    """Three address spaces that share no table."""
    nx = modes[2] != "32-bit"
    strict = {gva: page(2 + n % 3, writable=n % 2 > 0) for n, gva in enumerate(GVAS)}
    return lay_out(
        {
            "A": {gva: page(2 + n % 3, user=n != 1) for n, gva in enumerate(GVAS) if n != 3},
            "B": {GVAS[0]: page(4), GVAS[1]: page(2, fresh=True), GVAS[2]: page(3, user=False)},
            "C": {**strict, GVAS[3]: page(2, no_execute=nx)},
        },
        {name: MODES[mode] for name, mode in zip(SPACES, modes, strict=True)},
    )


def plan(acts: tuple[Act, ...], vcpus: int = 1) -> Plan:
    """A 64-bit guest that does as it is told."""
    return Plan(acts, guest_tables(), (SPACES[0],) * vcpus, {})


def random_plan(
    seed: int, count: int, *, vcpus: int, host: str = "", modes: tuple[str, ...] = ()
) -> Plan:
    """``host`` names the verbs of the host thread, with commas between; ``modes`` those to use."""
    random = Random(seed)
    names = modes or tuple(LEVELS)
    if not modes and random.random() < 0.4:
        names = (random.choice(names),)
    of_spaces = tuple(random.choice(names) for _ in SPACES)
    tables = guest_tables(of_spaces)
    starts = tuple(random.choice(SPACES) for _ in range(vcpus))
    bits = {name: random.random() < 0.3 for name in ("smep", "smap")}
    controls = {"wp": random.random() < 0.7, **bits}
    writer = _Writer(random, tables, dict(zip(SPACES, of_spaces, strict=True)), list(starts))
    while len(writer.acts) < count:
        if host and random.random() < 0.1:
            writer.host(random.choice(host.split(",")))
        else:
            writer.act(random.randrange(vcpus))
    return Plan(tuple(writer.acts), tables, starts, controls)


class Slot(NamedTuple):
    """An entry of a guest table, and what the guest likes to have there."""

    gpa: int
    size: int
    entry: int
    likely: int
    """Bits that stay set: the guest's map of its tables hangs on the entry."""


class _Writer:
    """Writes the acts of one guest. ``at``: the space that each vCPU is in, "" without paging.

    ``narrow``: it has 32-bit tables. They are never read as tables of 8-byte entries: two of their
    entries make one of a frame above 64G, which the model does not have. So a guest with such
    tables takes no step towards a mode other than that of the tables it loads.
    """

    def __init__(
        self, random: Random, tables: Layout, modes: Mapping[str, str], at: list[str]
    ) -> None:
        self.random, self.tables, self.modes, self.at = random, tables, modes, at
        self.narrow = "32-bit" in modes.values()
        self.acts: list[Act] = []
        self.gvas = tuple(random.sample(GVAS, random.randint(2, 6)))
        self.slots = tuple(self._slot() for _ in range(random.randint(2, 8)))

    def act(self, cpu: int) -> None:
        """One act of a vCPU, or a few that belong together."""
        makers = (self._access,) * 8 + (self._store_gpte,) * 5 + (self._invalidate,) * 3
        self.random.choice((*makers, self._control, self._control, self._switch))(cpu)

    def host(self, verb: str) -> None:
        """One act of the host thread."""
        frames = FRAMES if verb == "reclaim" else tuple(self.tables.tables)
        self.acts.append(Act(HOST, verb, value=self.random.choice(frames)))

    # --- accesses ---

    def _access(self, cpu: int) -> None:
        """A store may hit any table, so its few bytes lie where they make no frame above 64G."""
        random = self.random
        verb = random.choice(("load", "load", "store", "store", "fetch"))
        size = random.choice((8, 8, 8, 4, 4, 2, 1, 16)) if verb == "store" else 8
        offset = random.choice((0, 0, 0, 8, 3, 7, PAGE - 1))
        gva = random.choice(self.gvas) + (offset if offset % 8 != 7 else 0) // size * size
        value = random.randrange(1, 128 if self.narrow else 200)
        if random.random() < 0.2:
            gva = gva & -PAGE | offset
            value |= random.randrange(200) << 8 if offset % 8 == 7 else 0
        self.acts.append(Act(cpu, verb, gva, value, size, random.random() < 0.4))

    def _store_gpte(self, cpu: int) -> None:
        """A store to a table: what the guest likes there, mostly but for a bit."""
        random = self.random
        slot, entry = self._choose()
        size = random.choice((slot.size,) * 5 + (8, 4, 2, 1))
        if size > slot.size:
            entry |= self._choose()[1] << 32
        if slot.size == 4 and entry & PS:
            size = max(size, 4)  # PS alone would make a 4M page above 64G of a link
        gpa = slot.gpa
        if random.random() < 0.05:
            gpa, entry = gpa + 1, entry & 0xFFFFFF
        gva = gpa if not self.at[cpu] else WINDOW + gpa
        self.acts.append(Act(cpu, "store", gva, entry & (1 << 8 * size) - 1, size))

    def _choose(self) -> tuple[Slot, int]:
        random = self.random
        slot = random.choice(self.slots)
        entry = slot.entry
        if random.random() < 0.6:
            entry ^= random.choice((P, W, U, A, D, D, G, NX, PS, 1 << 53, 1 << 14, 1 << 21))
        if slot.size == 4 and entry & 0x1E0000:
            entry &= ~PS  # a 4M page would lie above 64G
        return slot, (entry | slot.likely) & (1 << 8 * slot.size) - 1

    # --- translations and registers ---

    def _invalidate(self, cpu: int) -> None:
        random = self.random
        if random.random() < 0.5:
            self.acts.append(Act(cpu, "invlpg", random.choice(self.gvas)))
            return
        mine = self.modes.get(self.at[cpu])
        same = [name for name in SPACES if self.modes[name] == mine]
        wide = [name for name in SPACES if self.modes[name] != "32-bit"]
        among = same if same and random.random() < 0.9 else wide
        if among:
            self._load_root(cpu, random.choice(among))

    def _load_root(self, cpu: int, space: str) -> None:
        self.acts.append(Act(cpu, "mov cr3", value=self.tables.roots[space] << 12))

    def _control(self, cpu: int) -> None:
        random = self.random
        if random.random() < 0.1:
            verb, name = random.choice(RARE)
            if name != "pg" and self.narrow:
                return
            names: tuple[str, ...] = (name,)
        else:
            verb = random.choice(tuple(CONTROLS))
            among = CONTROLS[verb]
            names = tuple(random.sample(among, random.randint(1, min(2, len(among)))))
        self._set(cpu, verb, **{name: random.random() < 0.5 for name in names})

    def _switch(self, cpu: int) -> None:
        """Into a space of any mode, through paging turned off; now and then a step is left out."""
        random = self.random
        if random.random() < 0.2:
            self._set(cpu, "mov cr0", pg=False)
            self.at[cpu] = ""
            return
        space = random.choice(SPACES)
        bits = SWITCHES[self.modes[space]]
        self._set(cpu, "mov cr0", pg=False)
        if self.narrow or random.random() < 0.95:
            self._set(cpu, "wrmsr efer", lme=bits["lme"])
        if self.narrow or random.random() < 0.95:
            self._set(cpu, "mov cr4", pae=bits["pae"], la57=bits["la57"])
        self._load_root(cpu, space)
        self._set(cpu, "mov cr0", pg=True)
        self.at[cpu] = space

    def _set(self, cpu: int, verb: str, **bits: bool) -> None:
        self.acts.append(Act(cpu, verb, bits=tuple(bits.items())))

    # --- what the guest likes to have in its tables ---

    def _slot(self) -> Slot:
        random = self.random
        space = random.choice(SPACES)
        levels = LEVELS[self.modes[space]]
        level = min(random.choice((1, 1, 1, 2, 2, 2, 3, 4, 5)), levels)
        size = 4 if levels == 2 else 8
        gva = random.choice(self.gvas if space != "B" else GVAS[:3])
        gpa = self.tables.gpte(space, Gva(gva), level) & -PAGE
        shift = (12, 22)[level - 1] if size == 4 else 3 + 9 * level
        gpa += size * (gva >> shift & PAGE // size - 1)
        root_of_pae = levels == 3 and level == 3
        window = level > 1 and gva >> shift == WINDOW >> shift
        if root_of_pae:
            return Slot(gpa, size, self._pdpte(gva), 0)
        return Slot(gpa, size, self._entry(level, space, window=window), (P | W) * window)

    def _pdpte(self, gva: int) -> int:
        wrong = self.random.choice((0, 0, 0, 0, W, PS, 1 << 53))
        present = self.random.random() < 0.8 or gva >> 30 == 0
        return make_entry(self.random.choice(self._tables_of(2, size=8)), P * present | wrong)

    def _entry(self, level: int, space: str, *, window: bool) -> int:
        random = self.random
        flags = P | A | D | W | U
        for bit, chance in ((P, 0.1), (W, 0.25), (U, 0.2), (A, 0.2), (D, 0.3)):
            if random.random() < chance:
                flags &= ~bit
        flags |= NX if random.random() < 0.15 else 0
        flags |= G if random.random() < 0.2 else 0
        size = 4 if self.modes[space] == "32-bit" else 8
        if level == 1:
            frames = (*FRAMES, *self._tables_of(1), *self._own(space))
            return make_entry(random.choice(frames), flags)
        if level <= 3 and random.random() < 0.4 and not window:
            span = 10 if size == 4 else 9 * (level - 1)
            return make_entry(random.choice((0, 1 << span)), flags | PS)
        # A table of 8-byte entries may serve as one of 4, but not the other way round.
        odd = size == 4 and not window and random.random() < 0.15
        below = self._tables_of(level - 1, size=8 if odd else size)
        return make_entry(random.choice(below or self._tables_of(1)), flags & ~D)

    def _tables_of(self, level: int, *, size: int = 0) -> tuple[int, ...]:
        """Tables that serve at a level, with entries of that size (0: of any)."""
        found: tuple[int, ...] = ()
        for name, mode in self.modes.items():
            if level <= LEVELS[mode] and size in (0, 4 if mode == "32-bit" else 8):
                found = (*found, self.tables.gpte(name, REGION, level) >> 12)
        return found

    def _own(self, space: str) -> tuple[int, ...]:
        """All tables of a space on the way to its pages."""
        levels = range(1, LEVELS[self.modes[space]] + 1)
        return tuple(self.tables.gpte(space, REGION, level) >> 12 for level in levels)
