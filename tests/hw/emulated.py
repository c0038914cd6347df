"""An emulated x86 (Unicorn) that makes single accesses through page tables: fault, gpa, A and D.

Physical memory is one buffer of 1G that repeats at several places, so that large pages and high
addresses lead somewhere without being filled. Its first pages hold what the accesses themselves
need, mapped by entries of their own at the last index of the root: code for both privilege levels,
a stack and a GDT. The tables under test start at ``TABLES``; data lies from ``DATA`` up.

What a load or store reached is told by a memory hook, which sees physical addresses. A fetch is a
jump to an int3 that was put where the fetch should arrive, so that it stops there or nowhere.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from itertools import pairwise, product
from typing import Any, NamedTuple

from unicorn import (
    UC_ARCH_X86,
    UC_CTL_IO_WRITE,
    UC_CTL_TLB_FLUSH,
    UC_HOOK_INTR,
    UC_HOOK_MEM_READ,
    UC_HOOK_MEM_WRITE,
    UC_MODE_32,
    UC_MODE_64,
    UC_PROT_ALL,
    UC_TLB_CPU,
)
from unicorn.unicorn import Uc, UcError
from unicorn.x86_const import (
    UC_CPU_X86_ICELAKE_SERVER,
    UC_X86_REG_CR0,
    UC_X86_REG_CR3,
    UC_X86_REG_CR4,
    UC_X86_REG_CS,
    UC_X86_REG_DS,
    UC_X86_REG_EAX,
    UC_X86_REG_ECX,
    UC_X86_REG_EDX,
    UC_X86_REG_EFLAGS,
    UC_X86_REG_ESP,
    UC_X86_REG_GDTR,
    UC_X86_REG_RSP,
    UC_X86_REG_SS,
)

from vmm.hw.access import AccessKind
from vmm.hw.paging import Controls, PagingMode

_UC: Any = Uc  # its constructor has no types
GIGA = 1 << 30
ALIASES = (0, 1, 2, 3, 32, 0x3FF)
"""The buffer lies at these multiples of 1G."""
MAXPHYADDR = 40
TABLES = 0x10000
TABLE_PAGES = 16
DATA = 2 << 20

# Fixed pages: tables of the window, then code of CPL 0 and of CPL 3, then GDT and stack.
_UPPER, _UPPER_32, _SYSTEM = (0x1000, 0x2000, 0x3000, 0x4000), 0x8000, 0x7000
_CODE = {False: 0x5000, True: 0x6000}
_PAGES = (_CODE[False], _CODE[True], _SYSTEM)
WINDOW_KEY = 15
"""The protection key of the code for CPL 3; PKRU must let it through."""

# Present, writable, accessed; then dirty for pages, user for tables.
_PAGE, _USER_PAGE, _TABLE = 0x63, 0x67, 0x27

_READ, _WRITE, _FETCH, _IMPLICIT, _IRET, _WRPKRU = range(0, 0xC0, 0x20)
_SLOT, _LANDING = 0x800, 0x400
_EFER, _AC = 0xC000_0080, 1 << 18
_PAGE_FAULT, _GENERAL_PROTECTION, _BREAKPOINT, _INT3 = 14, 13, 3, 0xCC


class Reached(NamedTuple):
    """The access went through."""

    gpa: int


class PageFault(NamedTuple):
    """#PF with CR2 and error code."""

    address: int
    code: int


class Protection(NamedTuple):
    """#GP."""


Answer = Reached | PageFault | Protection


def window_of(mode: PagingMode) -> int:
    """First address that is mapped by the fixed entries, not by the tables under test."""
    return {
        PagingMode.BITS32: 0xFFC0_0000,
        PagingMode.PAE: 0xC000_0000,
        PagingMode.LEVEL4: (1 << 64) - (1 << 39),
        PagingMode.LEVEL5: (1 << 64) - (1 << 48),
    }[mode]


class Emulated:
    """One processor and its memory, in one mode for good."""

    def __init__(self, mode: PagingMode) -> None:
        self.mode = mode
        self.long = mode in (PagingMode.LEVEL4, PagingMode.LEVEL5)
        self.window = window_of(mode)
        self.ram = mmap.mmap(-1, GIGA)
        self._interrupt: int | None = None
        self._reached: int | None = None
        self._cpu = self._processor()
        self._lay_out()
        self._boot = self._cpu.context_save()
        self._contexts: dict[tuple[bool, bool], Any] = {}
        self._code_at = self._cr2_at = 0
        self._find_registers()

    # --- making it ---

    def _processor(self) -> Any:
        cpu: Any = _UC(UC_ARCH_X86, UC_MODE_64 if self.long else UC_MODE_32)
        cpu.ctl_set_cpu_model(UC_CPU_X86_ICELAKE_SERVER)
        cpu.ctl_set_tlb_mode(UC_TLB_CPU)
        buffer = ctypes.addressof(ctypes.c_char.from_buffer(self.ram))
        for alias in ALIASES:
            cpu.mem_map_ptr(alias * GIGA, GIGA, UC_PROT_ALL, buffer)
        cpu.hook_add(UC_HOOK_INTR, self._on_interrupt)
        touches = UC_HOOK_MEM_READ | UC_HOOK_MEM_WRITE
        cpu.hook_add(touches, self._on_access, begin=DATA, end=1 << MAXPHYADDR)
        return cpu

    def _on_interrupt(self, cpu: Any, number: int, _: object) -> None:
        self._interrupt = number
        cpu.emu_stop()

    def _on_access(self, _cpu: Any, _kind: int, gpa: int, *_: object) -> None:
        if self._reached is None:  # LAR reads a descriptor in two halves
            self._reached = gpa

    def _put(self, gpa: int, *words: int) -> None:
        struct.pack_into(f"<{len(words)}Q", self.ram, gpa, *words)

    def _lay_out(self) -> None:
        """Window, code and descriptors."""
        for upper, lower in pairwise(_UPPER):
            self._put(upper, lower | _TABLE)
        key = WINDOW_KEY << 59 if self.long else 0
        pages = [page | (_USER_PAGE | key if page == _CODE[True] else _PAGE) for page in _PAGES]
        self._put(_UPPER[-1], *pages)
        if self.mode is PagingMode.BITS32:
            struct.pack_into("<3I", self.ram, _UPPER_32, *pages)
        for page in _CODE.values():
            for at, code in self._code(page).items():
                self.ram[page + at : page + at + len(code)] = code
        flags = 0xA0 if self.long else 0xC0
        code_segment = 0x000F_0000_0000_FFFF | flags << 48
        data_segment = 0x000F_0000_0000_FFFF | 0xC0 << 48
        self._put(
            _SYSTEM,
            0,
            code_segment | 0x9B << 40,
            data_segment | 0x93 << 40,
            code_segment | 0xFB << 40,
            data_segment | 0xF3 << 40,
        )

    def _code(self, page: int) -> dict[int, bytes]:
        """Each piece loads the address from the slot of its page, then acts."""
        pieces = {
            _READ: b"\x8b\x03",
            _WRITE: b"\x89\x03",
            _FETCH: b"\xff\xe3",
        }
        if self.long:
            pieces = {
                at: b"\x48\x8b\x1d" + struct.pack("<i", _SLOT - at - 7) + code
                for at, code in pieces.items()
            }
        else:
            slot = self.window + _PAGES.index(page) * 0x1000 + _SLOT
            pieces = {
                at: b"\x8b\x1d" + struct.pack("<I", slot) + code for at, code in pieces.items()
            }
        return {
            **pieces,
            _IMPLICIT: b"\x0f\x02\xc1",  # lar eax, ecx
            _IRET: b"\x48\xcf" if self.long else b"\xcf",
            _WRPKRU: b"\x0f\x01\xef",
        }

    # --- registers ---

    def fixed_root_entry(self) -> int:
        """What the last entry of the root has to be."""
        if self.mode is PagingMode.BITS32:
            return _UPPER_32 | _TABLE
        if self.mode is PagingMode.PAE:
            return _UPPER[2] | 0x1
        return _UPPER[1 if self.mode is PagingMode.LEVEL4 else 0] | _TABLE

    def load(self, controls: Controls, cr3: int) -> None:
        """Turn on paging with these controls; AC is chosen by each access."""
        cpu = self._cpu
        cpu.context_restore(self._boot)
        cpu.reg_write(UC_X86_REG_CR3, cr3)
        bits = (
            (4, controls.pse),
            (5, controls.pae),
            (7, controls.pge),
            (12, controls.la57),
            (20, controls.smep),
            (21, controls.smap),
            (22, controls.pke),
        )
        cpu.reg_write(UC_X86_REG_CR4, sum(on << bit for bit, on in bits))
        cpu.msr_write(_EFER, controls.lme << 8 | controls.nxe << 11)
        cpu.reg_write(UC_X86_REG_CR0, 1 | controls.wp << 16 | 1 << 31)
        cpu.reg_write(UC_X86_REG_GDTR, (0, self.window + 0x2000, 0xFFF, 0))
        for register, selector in (
            (UC_X86_REG_CS, 0x08),
            (UC_X86_REG_SS, 0x10),
            (UC_X86_REG_DS, 0x23),
        ):
            cpu.reg_write(register, selector)
        if controls.pke:
            for register, value in (
                (UC_X86_REG_EAX, controls.pkru),
                (UC_X86_REG_ECX, 0),
                (UC_X86_REG_EDX, 0),
            ):
                cpu.reg_write(register, value)
            self._run(self.window + _WRPKRU, 3)
        cpu.reg_write(UC_X86_REG_EAX, 0)  # what a store stores
        cpu.reg_write(UC_X86_REG_ECX, 0x08)  # the selector of LAR
        base = cpu.context_save()
        for user, ac in product((False, True), repeat=2):
            cpu.context_restore(base)
            self._enter(user=user, ac=ac)
            self._contexts[user, ac] = cpu.context_save()

    def _enter(self, *, user: bool, ac: bool) -> None:
        flags = 2 | _AC * ac
        if not user:
            self._cpu.reg_write(UC_X86_REG_EFLAGS, flags)
            return
        stack = self.window + 0x2F00
        frame = (self.window + 0x1000 + _LANDING, 0x1B, flags, stack, 0x23)
        struct.pack_into("<5Q" if self.long else "<5I", self.ram, _SYSTEM + 0xF00, *frame)
        self._cpu.reg_write(UC_X86_REG_RSP if self.long else UC_X86_REG_ESP, stack)
        self._run(self.window + _IRET, 2 if self.long else 1, until=frame[0])

    # --- accesses ---

    def _run(self, begin: int, length: int, until: int | None = None) -> None:
        self._interrupt = self._reached = None
        self._cpu.emu_start(begin, begin + length if until is None else until)
        assert self._interrupt is None, f"interrupt {self._interrupt} outside an access"

    def access(self, gva: int, kind: AccessKind, *, ac: bool, bait: int | None) -> Answer:
        """Make one access with an empty TLB. ``bait``: the gpa at which a fetch should arrive."""
        cpu = self._cpu
        # An access that no instruction asks for is made by LAR in user mode: the descriptor's.
        user = kind.user or kind.implicit
        cpu.context_restore(self._contexts[user, ac])
        cpu.ctl(UC_CTL_TLB_FLUSH, UC_CTL_IO_WRITE)
        page = _CODE[user]
        begin = self.window + _PAGES.index(page) * 0x1000
        at, length = _WRITE if kind.write else _READ, 9 if self.long else 8
        if kind.implicit:
            at, length = _IMPLICIT, 3
            cpu.reg_write(UC_X86_REG_GDTR, (0, gva - 8, 0xFFF, 0))
        else:
            struct.pack_into("<Q", self.ram, page + _SLOT, gva)
        if kind.fetch:
            at = _FETCH
            if bait is not None:
                self.ram[bait % GIGA] = _INT3
        self._interrupt = self._reached = None
        try:
            cpu.emu_start(begin + at, begin + at + length)
        except UcError as error:
            raise AssertionError(f"{error} at {gva:#x} {kind}") from error
        if kind.fetch and bait is not None:
            self.ram[bait % GIGA] = 0
        return self._answer(kind, bait)

    def _answer(self, kind: AccessKind, bait: int | None) -> Answer:
        if self._interrupt == _PAGE_FAULT:
            state = bytes(self._cpu.context_save())
            (address,) = struct.unpack_from("<Q", state, self._cr2_at)
            return PageFault(address, state[self._code_at])
        if self._interrupt == _GENERAL_PROTECTION:
            return Protection()
        if kind.fetch and self._interrupt == _BREAKPOINT and bait is not None:
            return Reached(bait)
        assert self._interrupt is None, f"interrupt {self._interrupt}"
        assert self._reached is not None, "nothing was touched"
        return Reached(self._reached)

    def _find_registers(self) -> None:
        """Where a saved context has CR2 and the error code: not documented, so look."""
        root = TABLES
        fixed = {PagingMode.BITS32: (0xFFC, "<I"), PagingMode.PAE: (0x18, "<Q")}
        offset, form = fixed.get(self.mode, (0xFF8, "<Q"))
        struct.pack_into(form, self.ram, root + offset, self.fixed_root_entry())
        self.load(Controls.of(self.mode), root)
        codes, addresses = None, None
        for gva, write, user in product((0x12345670, 0x9ABCDE8), (False, True), (False, True)):
            self.access(gva, AccessKind(write, user), ac=False, bait=None)
            state = bytes(self._cpu.context_save())
            code = write << 1 | user << 2
            codes = _where(state, code.to_bytes(4, "little"), codes)
            addresses = _where(state, gva.to_bytes(8, "little"), addresses)
        assert codes is not None
        assert addresses is not None
        assert len(codes) == 1, f"error code at one of {codes}"
        assert addresses, "no CR2"
        self._code_at, self._cr2_at = codes[0], addresses[-1]


def _where(state: bytes, value: bytes, among: list[int] | None) -> list[int]:
    """Offsets, out of those left, at which the state holds a value."""
    places = range(0, len(state) - 8, 4) if among is None else among
    return [at for at in places if state[at : at + len(value)] == value]
