"""Random guests, one instruction at a time, against a machine without a hypervisor.

The reference knows nothing of shadow pages: it stores into plain words and walks the guest's tables
with the independent walker of recorded guests. As long as no two instructions overlap, a guest on
the shadow MMU must see exactly what it would see there: every frame reached, every fault with its
error code, and all words of memory, hence every Accessed and Dirty bit.

The MMU without the cache may be behind, as a TLB may: there an access may use any translation that
was right at some time since the vCPU last invalidated it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

from vmm.bits import NX, PS, A, D, P, U, W, combine, frame_of, make_entry
from vmm.discovery import discover
from vmm.engine.events import Event
from vmm.engine.monitor import Finding, Monitor, Step, Verdict, View
from vmm.engine.ops import Mark, Op, mark
from vmm.engine.world import World
from vmm.hw.access import AccessKind, GuestFault
from vmm.hw.events import Access, GiveBack
from vmm.hw.layout import FIRST_TABLE, REGION, WINDOW, Layout, lay_out, page
from vmm.hw.memory import merge
from vmm.hw.paging import Controls, grants, is_leaf
from vmm.hw.pcpu import Irq
from vmm.machine import MachineConfig, build_world
from vmm.mmu.api import EmulatedStore
from vmm.mmu.memslots import GENERATION_SHIFT
from vmm.programs import Programs
from vmm.units import ENTRY_BYTES, PAGE_BYTES, Gfn, Gva, entry_gpa, table_index, word_of
from vmm.vcpu.guest import Guest
from vmm.vcpu.host import Host
from vmm.vcpu.vcpu import Vm
from vmm.workload.tables import PRESENT, GuestTables, Translation, fault_code

LARGE = 1 << 21
FRAMES = (2, 3, 4)
GVAS = (*[REGION + n * PAGE_BYTES for n in range(4)], REGION + LARGE, REGION + LARGE + PAGE_BYTES)
SPACES = ("A", "B", "C")
TABLES = tuple(range(FIRST_TABLE, FIRST_TABLE + 4 * len(SPACES)))
LEAF_TABLES = TABLES[3::4]
HOST = -1
LINUX = Controls()


class Act(NamedTuple):
    """An instruction of a vCPU, or what a host thread does (``cpu`` HOST)."""

    cpu: int
    verb: str
    gva: int = 0
    value: int = 0
    size: int = ENTRY_BYTES
    user: bool = False


class Did(Event, frozen=True):
    """An act is over; ``answer`` is what it gave."""

    number: int
    answer: Any


# --- the programs ---


async def perform(cpu: Guest, act: Act) -> object:
    """One instruction; gives what it loaded, its fault, or None."""
    match act.verb:
        case "load":
            return await cpu.load(act.gva, user=act.user)
        case "fetch":
            return await cpu.fetch(act.gva, user=act.user)
        case "store":
            return await cpu.store(act.gva, act.value, user=act.user, size=act.size)
        case "invlpg":
            await cpu.invlpg(act.gva)
        case "mov cr3":
            await cpu.mov_cr3(act.value << 12)
    return None


async def host_does(host: Host, act: Act) -> object:
    """What the host does to the shadow; the guest must not see any of it."""
    match act.verb:
        case "zap all":
            await host.zap_all()
        case "zap table":
            await host.zap_table(act.value)
        case "reclaim":
            return await host.reclaim(act.value)
    return None


def programs(acts: Sequence[Act], vcpus: int) -> Programs:
    """Each vCPU and the host carry out their own acts, each marked when it is over."""
    numbered = tuple(enumerate(acts))

    async def guest(cpu: Guest) -> None:
        for number, act in numbered:
            if act.cpu == cpu.number:
                await mark(Did(number, await perform(cpu, act)))

    async def host(host: Host) -> None:
        for number, act in numbered:
            if act.cpu == HOST:
                await mark(Did(number, await host_does(host, act)))

    return Programs(vcpus=dict.fromkeys(range(vcpus), guest), hosts={"host": host})


class InTurns:
    """The picker that lets one act end before the next one begins.

    What the acting task waits for moves meanwhile: the hardware, and vCPUs that must leave the
    guest, which are at the start of an instruction.
    """

    every_step = True

    def __init__(self, world: World, acts: Sequence[Act], random: Random) -> None:
        assert isinstance(world.model, Vm)
        self.world = world
        self.irqs = [vcpu.pcpu.irq.index for vcpu in world.model.vcpus]
        self.turns = [len(self.irqs) if act.cpu == HOST else act.cpu for act in acts]
        self.random = random
        self.at = 0

    def pick(self, enabled: Sequence[int], pending: Sequence[Op | None], last: int) -> int:
        turn = self.turns[self.at] if self.at < len(self.turns) else enabled[0]
        if turn in enabled:
            op = pending[turn]
            self.at += isinstance(op, Mark) and isinstance(op.event, Did)
            return turn
        vcpus = len(self.irqs)
        memory = self.world.live_memories[-1]
        leaving = [n for n in enabled if n < vcpus and memory[self.irqs[n]] is not Irq.GUEST]
        return ([n for n in enabled if n > vcpus] or leaving or enabled)[0]

    def branch(self, count: int) -> int:
        return self.random.randrange(count)


# --- random acts ---


class Slot(NamedTuple):
    """An entry of a guest table, and what the guest likes to have there."""

    table: int
    at: int
    entry: int


class Field(NamedTuple):
    """What one run is about: few pages and few entries, so that acts meet."""

    cpus: int
    gvas: tuple[int, ...]
    slots: tuple[Slot, ...]


def random_acts(random: Random, count: int, *, vcpus: int, host: str = "") -> list[Act]:
    """``host`` names the verbs of the host thread, with commas between."""
    makers = (_access, _access, _access, _gpte, _gpte, _invalidate)
    gvas = tuple(random.sample(GVAS, random.randint(2, len(GVAS))))
    field = Field(vcpus, gvas, tuple(_slot(random) for _ in range(random.randint(2, 8))))
    acts = []
    for _ in range(count):
        if host and random.random() < 0.1:
            acts.append(_host(random, random.choice(host.split(","))))
        else:
            acts.append(random.choice(makers)(random, field))
    return acts


def _slot(random: Random) -> Slot:
    """Entries of the guest's map of its own tables stay as they are."""
    table = random.choice(TABLES)
    level = 4 - (table - FIRST_TABLE) % 4
    at = random.choice((0, 1, 2, 3) if level == 1 else (3, 3, 3, 2) if level == 2 else (1,))
    return Slot(table, at, _entry(random, level, own=table, at=at))


def _access(random: Random, field: Field) -> Act:
    """Stores stay small and low, so that one that hits a table names no frame out of reach."""
    verb = random.choice(("load", "load", "store", "store", "fetch"))
    size = random.choice((8, 8, 4, 1)) if verb == "store" else ENTRY_BYTES
    gva = random.choice(field.gvas) + random.choice((0, 0, 1, ENTRY_BYTES)) // size * size
    cpu, user = random.randrange(field.cpus), random.random() < 0.4
    return Act(cpu, verb, gva, random.randrange(1, 200), size, user)


def _gpte(random: Random, field: Field) -> Act:
    """A store through the guest's map of its tables: what it likes there, mostly but for a bit."""
    table, at, entry = random.choice(field.slots)
    if random.random() < 0.6:
        entry ^= random.choice((P, W, U, A, D, D, NX))
    if table in TABLES[2::4] and at == 2:
        entry |= P | W | A  # the map of the tables hangs on it
    gva = WINDOW + table * PAGE_BYTES + at * ENTRY_BYTES
    size = random.choice((8, 8, 8, 4, 1))
    return Act(random.randrange(field.cpus), "store", gva, entry & (1 << 8 * size) - 1, size)


def _entry(random: Random, level: int, *, own: int, at: int) -> int:
    flags = P | A | D | W | U
    for bit, chance in ((P, 0.1), (W, 0.25), (U, 0.2), (A, 0.2), (D, 0.3)):
        if random.random() < chance:
            flags &= ~bit
    flags |= NX if random.random() < 0.2 else 0
    if level == 1:
        return make_entry(random.choice((*FRAMES, LEAF_TABLES[-1], own)), flags)
    if level == 2 and at == 2:
        # The entry above the map of the tables: never anything but its own table, with W.
        return make_entry(own + 1, P | W | A | flags & (U | NX))
    if level == 2 and random.random() < 0.4:
        return make_entry(random.choice((0, 0x200)), flags | PS)
    below = [table for table in TABLES if (table - FIRST_TABLE) % 4 == 5 - level]
    return make_entry(random.choice(below), flags & ~D)


def _invalidate(random: Random, field: Field) -> Act:
    cpu = random.randrange(field.cpus)
    if random.random() < 0.5:
        return Act(cpu, "invlpg", random.choice(field.gvas))
    return Act(cpu, "mov cr3", value=FIRST_TABLE + 4 * random.randrange(len(SPACES)))


def _host(random: Random, verb: str) -> Act:
    return Act(HOST, verb, value=random.choice(FRAMES if verb == "reclaim" else TABLES))


# --- the reference ---


class Seen(NamedTuple):
    """A translation that a vCPU may have cached."""

    gva: int
    gfn: int


class BareMetal(Monitor):
    """Replays each act on plain memory as soon as it is over, and compares everything.

    ``lagging``: translations may be old until they are invalidated. It serves one run only, so it
    keeps what it knows in itself.
    """

    name = "bare-metal/differs"
    events = (Access, EmulatedStore, GiveBack, Did)
    counts = True

    def __init__(self, vm: Vm, acts: Sequence[Act], *, lagging: bool) -> None:
        self.vm = vm
        self.acts = acts
        self.lagging = lagging
        self.words = dict(vm.layout.content)
        self.tables = GuestTables()
        for gpa, word in self.words.items():
            self.tables.store(gpa, ENTRY_BYTES, word)
        self.cr3 = [vm.layout.roots[SPACES[0]] << 12 for _ in vm.vcpus]
        self.old: list[dict[Seen, None]] = [{} for _ in vm.vcpus]
        self.done = 0
        self.reached: list[int] = []
        self.taken: list[int] = []
        self.at_fault: dict[int, None] = {}
        self._remember()

    def on_event(self, state: None, event: Event, step: Step, view: View) -> Verdict:
        del step
        match event:
            case Access(pfn=pfn):
                self.reached.append(pfn & (1 << GENERATION_SHIFT) - 1)
            case EmulatedStore(gpa=gpa):
                self.reached.append(gpa >> 12)
            case GiveBack(pfn=pfn):
                self.taken.append(pfn & (1 << GENERATION_SHIFT) - 1)
            case Did(number=number, answer=answer):
                wrong = self._judge(self.acts[number], answer) or self._compare(view)
                self.done += 1
                self.reached, self.taken, self.at_fault = [], [], {}
                if wrong:
                    said = f"act {number}, {self.acts[number]}, gave {answer}: {wrong}"
                    return None, (Finding(self.name, said, "as on bare metal", "the reference"),)
        return None, ()

    # --- one act ---

    def _judge(self, act: Act, answer: object) -> str:
        if act.verb == "reclaim":
            self._forget(act.value)
        if act.cpu == HOST:
            return ""
        if act.verb == "mov cr3":
            self.cr3[act.cpu] = act.value << 12
            self.old[act.cpu].clear()
        elif act.verb == "invlpg":
            for seen in [seen for seen in self.old[act.cpu] if seen.gva == _page(act.gva)]:
                del self.old[act.cpu][seen]
        else:
            return self._access(act, answer)
        self._remember()
        return ""

    def _forget(self, frame: int) -> None:
        """What was in a page that the host took is lost; the next one is empty."""
        if frame in self.taken:
            for gpa in [gpa for gpa in self.words if gpa >> 12 == frame]:
                self._store(gpa, ENTRY_BYTES, 0)

    def _access(self, act: Act, answer: object) -> str:
        found = self.tables.walk(self.cr3[act.cpu], act.gva)
        write, fetch = act.verb == "store", act.verb == "fetch"
        code = fault_code(found, write=write, user=act.user, fetch=fetch)
        if isinstance(answer, GuestFault):
            right = answer.gva == act.gva and answer.error_code in self._codes(act, code)
            return "" if right else f"expected was {code}"
        if len(self.reached) != 1:
            return f"it reached {self.reached}"
        (gfn,) = self.reached
        if code is None and found is not None and found.gpa >> 12 == gfn:
            self._mark_used(act, found)
        elif not (self.lagging and Seen(_page(act.gva), gfn) in self.old[act.cpu]):
            return f"it reached frame {gfn:#x}, expected was {found}, error code {code}"
        return self._use(act, gfn, answer)

    def _mark_used(self, act: Act, found: Translation) -> None:
        self.tables.set_accessed_dirty(self.cr3[act.cpu], act.gva, write=act.verb == "store")
        for gpa, _ in found.path:
            self.words[gpa] = self.tables.entry(gpa >> 12, gpa % PAGE_BYTES // ENTRY_BYTES)

    def _use(self, act: Act, gfn: int, answer: object) -> str:
        gpa = gfn << 12 | act.gva % PAGE_BYTES
        if act.verb == "store":
            self._store(gpa, act.size, act.value)
            return ""
        held = self.words.get(word_of(gpa), 0)
        unsure = A | D if self.lagging else 0  # an old translation may set them, or fail to
        assert isinstance(answer, int)
        return "" if (held ^ answer) & ~unsure == 0 else f"frame {gfn:#x} holds {held:#x}"

    def _store(self, gpa: int, size: int, value: int) -> None:
        word = word_of(gpa)
        self.words[word] = merge(self.words.get(word, 0), value, gpa - word, size)[0]
        self.tables.store(gpa, size, value)
        self._remember()

    # --- what a fault may say ---

    def _codes(self, act: Act, code: int | None) -> tuple[int | None, ...]:
        """Error codes that a fault may have.

        KVM of the time stopped at the first entry that denies the access, so it said "present"
        although an entry below is not. Silicon goes on, and so does KVM since 2010.
        """
        kind = AccessKind(act.verb == "store", act.user, act.verb == "fetch")
        rights = W | U
        for gpa, entry in self._walked(act):
            self.at_fault[gpa] = None
            rights = combine(rights, entry)
            if code is not None and not grants(rights, kind, LINUX):
                return code, code | PRESENT
        return (code,)

    def _walked(self, act: Act) -> Iterator[tuple[int, int]]:
        """The present entries that a walk meets from the root on."""
        table = self.cr3[act.cpu] >> 12
        for level in range(4, 0, -1):
            index = table_index(Gva(act.gva), level)
            entry = self.tables.entry(table, index)
            if not entry & P:
                return
            yield entry_gpa(Gfn(table), index), entry
            if is_leaf(entry, level, LINUX):
                return
            table = frame_of(entry)

    # --- old translations ---

    def _remember(self) -> None:
        """Note what each vCPU may cache now."""
        if not self.lagging:
            return
        for cpu, old in enumerate(self.old):
            for gva in (*GVAS, *[WINDOW + table * PAGE_BYTES for table in TABLES]):
                if found := self.tables.walk(self.cr3[cpu], gva):
                    old[Seen(gva, found.gpa >> 12)] = None

    # --- all of memory ---

    def _compare(self, view: View) -> str:
        for gpa in sorted(self.words):
            if gpa >> 12 in FRAMES and self.vm.mmu.slots.host_paging:
                continue  # it may lie elsewhere; loads say what it holds
            held, expected = view[self.vm.mmu.memory.word(gpa)], self.words[gpa]
            if self.lagging:
                held, expected = held & ~(A | D), expected & ~(A | D)
            elif gpa in self.at_fault and held == expected | A:
                self._store(gpa, ENTRY_BYTES, held)  # a walk that faults may set A on its way
                continue
            if held != expected:
                return f"word {gpa:#x} is {held:#x}, expected was {expected:#x}"
        return ""


def _page(gva: int) -> int:
    return gva & -PAGE_BYTES


def guest_tables() -> Layout:
    """Three address spaces that share no table."""
    return lay_out(
        {
            "A": {gva: page(frame) for gva, frame in zip(GVAS, FRAMES, strict=False)},
            "B": {GVAS[0]: page(4), GVAS[1]: page(2, fresh=True), GVAS[2]: page(3, user=False)},
            "C": {GVAS[0]: page(3, writable=False), GVAS[3]: page(2, no_execute=True)},
        }
    )


def world_of(acts: Sequence[Act], vcpus: int, **config: Any) -> World:
    """A machine that carries out these acts, with every oracle and the reference."""
    lagging = "no-cache" in config.get("features", ())

    def reference(world: World, vm: Vm | None) -> Monitor | None:
        del world
        return None if vm is None else BareMetal(vm, acts, lagging=lagging)

    config.setdefault("shadow_pages", 24)
    made = MachineConfig(tables=guest_tables(), vcpus=vcpus, monitors=(reference,), **config)
    monitors = [module.SPEC.build for module in discover("vmm.monitors").values()]
    return build_world("bare metal", made, programs(acts, vcpus), {}, monitors=monitors)
