"""Random guests, one instruction at a time, against a machine without a hypervisor.

The reference knows nothing of shadow pages and shares no rule with the model: it stores into plain
words, walks the guest's tables with the second walker, and has control registers of its own. As
long as no two instructions overlap, a guest on the shadow MMU must see exactly what it would see
there: every frame reached, every fault with its error code, every refused register write, and all
words of memory, hence every Accessed and Dirty bit.

The MMU without the cache, or with unsync pages, may be behind, as a TLB may: there an access may
use any translation that was right at some time since the vCPU last invalidated it.

One thing is excused, in which KVM differs from a processor (``vmm/mmu/role.py``): what the
supervisor wrote with CR0.WP clear, SMAP on and AC set stays within its reach when AC is clear.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

from tests.hw.sdm_walker import Result
from tests.quality.plain_machine import PAGE, SWITCHES, Kind, PlainMachine, Registers
from tests.quality.random_guests import FRAMES, HOST, Act, Plan
from vmm.bits import A, D
from vmm.discovery import discover
from vmm.engine.events import Event
from vmm.engine.monitor import Finding, Monitor, Step, Verdict, View
from vmm.engine.ops import Mark, Op, mark
from vmm.engine.world import World
from vmm.hw.access import GeneralProtection, GuestFault
from vmm.hw.events import Access, GiveBack
from vmm.hw.layout import MODES
from vmm.hw.pcpu import Ipi, Irq
from vmm.machine import MachineConfig, build_world, features_of
from vmm.mmu.api import EmulatedStore
from vmm.mmu.emulator import EmulationFailed
from vmm.mmu.memslots import GENERATION_SHIFT
from vmm.programs import Programs
from vmm.units import ENTRY_BYTES, word_of
from vmm.vcpu.guest import Guest
from vmm.vcpu.host import Host
from vmm.vcpu.vcpu import Vm

AD = (A | D) * (1 | 1 << 32)
"""Accessed and Dirty, of one entry of 8 bytes or of two of 4."""


class Did(Event, frozen=True):
    """An act is over; ``answer`` is what it gave."""

    number: int
    answer: Any


# --- the programs ---


async def perform(cpu: Guest, act: Act) -> object:
    """One instruction; gives what it loaded, its fault, or None."""
    bits: dict[str, Any] = dict(act.bits)
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
            return await cpu.mov_cr3(act.value)
        case "mov cr0":
            return await cpu.mov_cr0(**bits)
        case "mov cr4":
            return await cpu.mov_cr4(**bits)
        case "wrmsr efer":
            return await cpu.wrmsr_efer(**bits)
        case "set ac":
            await cpu.set_ac(bits["ac"])
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


LEAVING = (Irq.EXITING, Irq.OFF)


class InTurns:
    """The picker that lets one act end before the next one begins.

    What the acting task waits for moves meanwhile: the hardware, and vCPUs that must leave the
    guest and take an IPI. Those are at the start of an instruction, and do not begin with it.
    """

    every_step = True

    def __init__(self, world: World, acts: Sequence[Act], random: Random) -> None:
        assert isinstance(world.model, Vm)
        self.world = world
        self.irqs = [vcpu.pcpu.irq.index for vcpu in world.model.vcpus]
        self.ipis = [vcpu.pcpu.ipi.index for vcpu in world.model.vcpus]
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
        leaving = [
            n
            for n in enabled
            if n < vcpus
            and (memory[self.irqs[n]] in LEAVING or memory[self.ipis[n]] is Ipi.PENDING)
        ]
        return ([n for n in enabled if n > vcpus] or leaving or enabled)[0]

    def branch(self, count: int) -> int:
        return self.random.randrange(count)


# --- the reference ---


class Seen(NamedTuple):
    """A translation that a vCPU may have cached."""

    gva: int
    gfn: int


class Part(NamedTuple):
    """What of an access lies in one page: ``size`` bytes, ``at`` bytes into the access."""

    gva: int
    size: int
    at: int


class BareMetal(Monitor):
    """Replays each act on plain memory as soon as it is over, and compares everything.

    ``lagging``: translations may be old until they are invalidated. It serves one run only, so it
    keeps what it knows in itself.
    """

    name = "bare-metal/differs"
    events = (Access, EmulatedStore, GiveBack, Did)
    counts = True

    def __init__(self, vm: Vm, plan: Plan, *, lagging: bool) -> None:
        self.vm = vm
        self.acts = plan.acts
        self.done = 0
        self.lagging = lagging
        self.plain = PlainMachine(vm.layout.content, [])
        self.plain.cpus = [_registers(plan, start, self.plain) for start in plan.starts]
        self.used = [_pages_used(plan.acts, cpu) for cpu in range(len(plan.starts))]
        self.old: list[dict[Seen, None]] = [{} for _ in vm.vcpus]
        self.reached: list[int] = []
        self.taken: list[int] = []
        self.kept_from_user: dict[int, None] = {}
        self._remember()

    def on_event(self, state: None, event: Event, step: Step, view: View) -> Verdict:
        del step
        match event:
            case Access(pfn=pfn):
                self._reach(pfn & (1 << GENERATION_SHIFT) - 1)
            case EmulatedStore(gpa=gpa):
                self._reach(gpa >> 12)
            case GiveBack(pfn=pfn):
                self.taken.append(pfn & (1 << GENERATION_SHIFT) - 1)
            case Did(number=number, answer=answer):
                wrong = self._judge(self.acts[number], answer) or self._compare(view)
                self.done += 1
                self.reached, self.taken = [], []
                if wrong:
                    said = f"act {number}, {self.acts[number]}, gave {answer}: {wrong}"
                    return None, (Finding(self.name, said, "as on bare metal", "the reference"),)
        return None, ()

    def _reach(self, gfn: int) -> None:
        if self.reached[-1:] != [gfn]:
            self.reached.append(gfn)

    # --- one act ---

    def _judge(self, act: Act, answer: object) -> str:
        wrong = ""
        match act.verb:
            case "reclaim":
                self._forget(act.value)
            case "load" | "store" | "fetch":
                wrong = self._access(act, answer)
            case "invlpg":
                self._drop(act.cpu, act.gva & -PAGE)
            case "mov cr3" | "mov cr0" | "mov cr4" | "wrmsr efer" | "set ac":
                wrong = self._control(act, answer)
        self._remember()
        return wrong

    def _forget(self, frame: int) -> None:
        """What was in a page that the host took is lost; the next one is empty."""
        if frame in self.taken:
            for gpa in [gpa for gpa in self.plain.words if gpa >> 12 == frame]:
                self.plain.words[gpa] = 0

    def _drop(self, cpu: int, page: int | None = None) -> None:
        """Forget old translations: those of a page, or all."""
        for seen in [seen for seen in self.old[cpu] if page in (None, seen.gva)]:
            del self.old[cpu][seen]

    def _control(self, act: Act, answer: object) -> str:
        if act.verb == "mov cr3":
            taken = self.plain.mov_cr3(act.cpu, act.value)
        else:
            taken = self.plain.change(act.cpu, **dict(act.bits))
        if taken and act.verb != "set ac":
            self._drop(act.cpu)
        if isinstance(answer, GeneralProtection) == taken:
            return "expected was that it goes through" if taken else "expected was #GP"
        return ""

    def _access(self, act: Act, answer: object) -> str:
        kind = Kind(act.verb == "store", act.user, act.verb == "fetch")
        parts = _parts(act)
        done: list[int] = []
        for number, part in enumerate(parts):
            found = self._met(act.cpu, part.gva, kind)
            gfn = self.reached[number] if number < len(self.reached) else -1
            if isinstance(answer, GuestFault) and answer.gva == part.gva:
                self.plain.access(act.cpu, part.gva, kind)
                right = found == ("#PF", part.gva, answer.error_code) and not self.reached
                return "" if right else f"expected was {found}, reached was {self.reached}"
            old = self.lagging and Seen(part.gva & -PAGE, gfn) in self.old[act.cpu]
            if found[0] == "ok" and (gfn in (-1, found[1] >> 12) or not old):
                self._mark_used(act.cpu, part.gva, kind)
                done.append(found[1])
            elif old:
                done.append(gfn << 12 | part.gva % PAGE)
            else:
                return f"expected was {found}, reached was {self.reached}"
        if isinstance(answer, EmulationFailed):
            return "" if act.size > ENTRY_BYTES and not self.reached else "KVM_RUN failed"
        frames = list(dict.fromkeys(gpa >> 12 for gpa in done))
        if isinstance(answer, GuestFault) or self.reached != frames:
            return f"expected was {done}, reached was {self.reached}"
        return self._use(act, parts, done, answer)

    def _met(self, cpu: int, gva: int, kind: Kind) -> Result:
        """What an access meets; for KVM's excuse, as if AC were set."""
        found = self.plain.look(cpu, gva, kind)
        if found[0] == "#PF" and self._is_excused(cpu, gva, kind):
            with_ac = self.plain.look(cpu, gva, kind, ac=True)
            return with_ac if self.reached else found
        return found

    def _is_excused(self, cpu: int, gva: int, kind: Kind) -> bool:
        regs = self.plain.cpus[cpu]
        if not regs.pg or regs.wp or not regs.smap or kind.user or kind.fetch:
            return False
        return self.plain.leaf(cpu, gva)[0] in self.kept_from_user

    def _mark_used(self, cpu: int, gva: int, kind: Kind) -> None:
        regs = self.plain.cpus[cpu]
        if self.plain.look(cpu, gva, kind)[0] == "ok":
            self.plain.access(cpu, gva, kind)
        else:
            self.plain.access(cpu, gva, kind, ac=True)
        if regs.pg and regs.smap and regs.ac and kind.write and not (regs.wp or kind.user):
            place, user, writable = self.plain.leaf(cpu, gva)
            if user and not writable:
                self.kept_from_user[place] = None

    def _use(self, act: Act, parts: list[Part], done: list[int], answer: object) -> str:
        if act.verb == "store":
            for part, gpa in zip(parts, done, strict=True):
                self.plain.write(gpa, part.size, act.value >> 8 * part.at)
            return ""
        held = self.plain.words.get(word_of(done[0]), 0)
        unsure = AD if self.lagging else 0  # an old translation may set them, or fail to
        assert isinstance(answer, int)
        return "" if (held ^ answer) & ~unsure == 0 else f"{done[0]:#x} holds {held:#x}"

    def is_endless(self) -> bool:
        """Whether the act under way is one that never ends in KVM either."""
        return writes_its_own_walk(self.plain, self.acts[self.done])

    # --- old translations ---

    def _remember(self) -> None:
        """Note what each vCPU may cache now."""
        if not self.lagging:
            return
        for cpu, old in enumerate(self.old):
            for page, user in self.used[cpu]:
                found = self.plain.look(cpu, page, Kind(write=False, user=user, fetch=False))
                if found[0] == "ok":
                    old[Seen(page, found[1] >> 12)] = None

    # --- all of memory ---

    def _compare(self, view: View) -> str:
        unsure = AD if self.lagging else 0
        for gpa in sorted(self.plain.words):
            if gpa >> 12 in FRAMES and self.vm.mmu.slots.host_paging:
                continue  # it may lie elsewhere; loads say what it holds
            held, expected = view[self.vm.mmu.memory.word(gpa)], self.plain.words[gpa]
            if (held ^ expected) & ~unsure:
                return f"word {gpa:#x} is {held:#x}, expected was {expected:#x}"
        return ""


def _parts(act: Act) -> list[Part]:
    """An access page by page; a load is one of the aligned word at its address."""
    if act.verb != "store" or act.gva % PAGE + act.size <= PAGE:
        return [Part(act.gva, act.size, 0)]
    first = PAGE - act.gva % PAGE
    return [Part(act.gva, first, 0), Part(act.gva + first, act.size - first, first)]


def writes_its_own_walk(plain: PlainMachine, act: Act) -> bool:
    """Whether an act is a store through the table that it writes, and too large to be emulated.

    The table is unprotected for it, and shadowed again by the next fault: a livelock in KVM too
    (``vmm/mmu/emulator.py``).
    """
    if act.verb != "store" or act.size <= ENTRY_BYTES:
        return False
    gvas = [part.gva for part in _parts(act)]
    tables = [gpa >> 12 for gva in gvas for _, gpa, _ in plain.path(act.cpu, gva)]
    kind = Kind(write=True, user=act.user, fetch=False)
    return any(plain.look(act.cpu, gva, kind, ac=True)[1] >> 12 in tables for gva in gvas)


def _pages_used(acts: Sequence[Act], cpu: int) -> list[tuple[int, bool]]:
    """The pages that a vCPU uses, and as whom."""
    mine = [act for act in acts if act.cpu == cpu]
    return sorted({(part.gva & -PAGE, act.user) for act in mine for part in _parts(act)})


def _registers(plan: Plan, start: str, memory: PlainMachine) -> Registers:
    mode = next(name for name, mode in MODES.items() if mode is plan.tables.mode(start))
    cr3 = plan.tables.roots[start] << 12
    bits: dict[str, Any] = {**SWITCHES[mode], **plan.controls}
    made = Registers(cr3=cr3, **bits)
    if made.uses_pdptes:
        made.pdptes = tuple(memory.read(cr3 + 8 * n, 8) for n in range(4))
    return made


def world_of(plan: Plan, **config: Any) -> World:
    """A machine that carries out these acts, with every oracle and the reference."""
    vcpus = len(plan.starts)

    def reference(world: World, vm: Vm | None) -> Monitor | None:
        del world
        lagging = any(name in features_of(made) for name in ("no-cache", "unsync"))
        return None if vm is None else BareMetal(vm, plan, lagging=lagging)

    config.setdefault("shadow_pages", 48)
    made = MachineConfig(
        tables=plan.tables,
        starts=plan.starts,
        controls=plan.controls,
        vcpus=vcpus,
        monitors=(reference,),
        **config,
    )
    monitors = [module.SPEC.build for module in discover("vmm.monitors").values()]
    return build_world("bare metal", made, programs(plan.acts, vcpus), {}, monitors=monitors)
