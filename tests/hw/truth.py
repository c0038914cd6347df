"""The step walk held against an emulated processor, access by access: answers, then every entry.

    python -m tests.hw.truth [--accesses 1000000] [--mode MODE ...] [--processes 2]

makes that many random accesses in each mode and prints what was compared. ``make walker-truth``
does it for a million.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from multiprocessing import Pool
from time import perf_counter
from typing import Any, TypeVar

import click

from tests.hw.emulated import (
    GIGA,
    TABLE_PAGES,
    TABLES,
    Answer,
    Emulated,
    PageFault,
    Protection,
    Reached,
)
from tests.hw.random_tables import Access, Trial, page_of, trial_of
from vmm.bits import PS, A, P
from vmm.hw.access import GuestFault
from vmm.hw.paging import PagingMode, PagingRegisters
from vmm.hw.walker import Walk, Walker
from vmm.units import Gva, word_of

T = TypeVar("T")
END = TABLES + TABLE_PAGES * 4096
MODES = tuple(PagingMode)[1:]
ACCESSES_A_TRIAL = 250
REFUSED_1G = "A set in a 1G page that refuses the access"


class Word:
    """A word of ``Bytes``: what a cell offers, taking effect at once."""

    __slots__ = ("at", "memory")

    def __init__(self, memory: bytearray, at: int) -> None:
        self.memory = memory
        self.at = at

    def __await__(self) -> Generator[None, None, int]:
        return int.from_bytes(self.memory[self.at : self.at + 8], "little")
        yield  # a generator that yields nothing: the await is over at once

    async def cas(self, old: int, new: int, *, event: object) -> bool:
        if await self != old:
            return False
        self.memory[self.at : self.at + 8] = new.to_bytes(8, "little")
        return True

    async def update(self, fn: Callable[..., tuple[int, T]], *args: Any, event: object) -> T:
        new, result = fn(await self, *args)
        self.memory[self.at : self.at + 8] = new.to_bytes(8, "little")
        return result


class Bytes:
    """Memory whose first bytes repeat every 1G; the rest reads as zeros."""

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)
        self._zeros = bytearray(8)

    def word(self, address: int) -> Any:
        at = word_of(address % GIGA)
        return Word(self.content, at) if at < len(self.content) else Word(self._zeros, 0)


def registers_of(trial: Trial, *, ac: bool) -> PagingRegisters:
    return PagingRegisters(trial.controls._replace(ac=ac), trial.cr3, trial.pdptes)


def finish(walk: Coroutine[Any, Any, T]) -> T:
    """The result of a walk over ``Bytes``, which never waits."""
    try:
        walk.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("it waits")


def step_walk(memory: Bytes, trial: Trial, access: Access) -> Answer:
    """What the walker of the model says."""
    registers = registers_of(trial, ac=access.ac)
    found = finish(Walker(memory).translate(registers, Gva(access.gva), access.kind))
    if isinstance(found, Walk):
        return Reached(found.gpa)
    return PageFault(*found) if isinstance(found, GuestFault) else Protection()


def compare(emulated: Emulated, trial: Trial, told: Callable[[Answer | str], None]) -> None:
    """Hold every access of a trial against Unicorn. Raises AssertionError."""
    emulated.ram[TABLES:END] = trial.tables
    emulated.load(trial.controls, trial.cr3)
    memory = Bytes(emulated.ram[:END])
    for access in trial.accesses:
        ours = step_walk(memory, trial, access)
        bait = ours.gpa if isinstance(ours, Reached) else None
        theirs = emulated.access(access.gva, access.kind, ac=access.ac, bait=bait)
        where = f"{access}, {trial.controls}"
        assert ours == theirs, f"walker: {ours}, Unicorn: {theirs}; {where}"
        told(ours)
        marked = emulated.ram[TABLES:END]
        if memory.content[TABLES:] != marked:
            why = _explanation(memory.content[TABLES:], marked, ours)
            assert why, f"A and D differ; {where}"
            told(why)
            memory.content[TABLES:] = marked


def _explanation(ours: bytes | bytearray, theirs: bytes, answer: Answer) -> str:
    """Why Unicorn has marked other entries than the walker; empty if it may not."""
    words = [struct.unpack(f"<{len(part) // 8}Q", part) for part in (ours, theirs)]
    places = range(page_of(3) - TABLES, page_of(4) - TABLES, 8)
    differ = [at for at, (a, b) in enumerate(zip(*words, strict=True)) if a != b]
    if len(differ) != 1 or 8 * differ[0] not in places or not isinstance(answer, PageFault):
        return ""
    entry, marked = (part[differ[0]] for part in words)
    return REFUSED_1G if entry & (P | PS) == P | PS and marked == entry | A else ""


def compare_many(mode: PagingMode, first: int, accesses: int) -> Counter[str]:
    """Trials from seed ``first`` on; counts what happened."""
    processor = Emulated(mode)
    fixed = processor.fixed_root_entry()
    seen: Counter[str] = Counter()

    def told(what: Answer | str) -> None:
        if isinstance(what, PageFault):
            seen[f"#PF {what.code:#x}"] += 1
        else:
            seen[what if isinstance(what, str) else type(what).__name__] += 1

    for seed in range(first, first - (-accesses // ACCESSES_A_TRIAL)):
        trial = trial_of(mode, seed, ACCESSES_A_TRIAL, fixed=fixed)
        try:
            compare(processor, trial, told)
        except AssertionError as error:
            raise AssertionError(f"{mode.value}, seed {seed}: {error}") from None
    return seen


def _chunk(job: tuple[PagingMode, int, int]) -> Counter[str]:
    return compare_many(*job)


@click.command()
@click.option("--accesses", default=1_000_000, help="how many in each mode")
@click.option("--mode", "names", multiple=True, default=[m.value for m in MODES], help="which")
@click.option("--processes", default=2, help="how many at once")
def main(accesses: int, names: tuple[str, ...], processes: int) -> None:
    """Make random accesses in each mode; stop at the first difference."""
    share = 20_000
    for mode in map(PagingMode, names):
        start = perf_counter()
        jobs = [
            (mode, first // ACCESSES_A_TRIAL, min(share, accesses - first))
            for first in range(0, accesses, share)
        ]
        seen: Counter[str] = Counter()
        with Pool(processes) as pool:
            for part in pool.imap_unordered(_chunk, jobs):
                seen += part
        explained = seen.pop(REFUSED_1G, 0)
        took = perf_counter() - start
        click.echo(
            f"{mode.value}: {seen.total():,} accesses, no unexplained difference, {took:.0f} s"
        )
        click.echo(f"  {', '.join(f'{what} {seen[what]:,}' for what in sorted(seen))}")
        click.echo(f"  {REFUSED_1G}: {explained:,}")


if __name__ == "__main__":
    main()
