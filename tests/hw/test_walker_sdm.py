"""The step walk against a second walker, where Unicorn has no say.

Any MAXPHYADDR, processors without 1G pages or PSE-36, PDPTE registers that say other than memory,
implicit supervisor accesses at any CPL.
"""

from __future__ import annotations

from random import Random

import pytest

from tests.hw.emulated import GIGA, TABLES
from tests.hw.random_tables import Access, Trial, trial_of
from tests.hw.sdm_walker import Result, SdmWalker
from tests.hw.truth import MODES, Bytes, finish, registers_of
from vmm.hw.access import GuestFault
from vmm.hw.paging import PagingMode
from vmm.hw.walker import Walk, Walker
from vmm.units import Gva

WIDTHS = (32, 36, 39, 40, 46, 52)


def varied(mode: PagingMode, seed: int, count: int) -> Trial:
    """A trial on a processor with other limits, and with PDPTEs of another day."""
    random = Random(seed)
    trial = trial_of(mode, seed, count, fixed=0)
    controls = trial.controls._replace(
        maxphyaddr=random.choice(WIDTHS),
        gbpages=random.random() < 0.5,
        pse36=random.random() < 0.5,
    )
    accesses = tuple(
        access._replace(kind=access.kind._replace(implicit=True))
        if not access.kind.user and not access.kind.fetch and random.random() < 0.3
        else access
        for access in trial.accesses
    )
    pdptes = tuple(random.sample(trial.pdptes, len(trial.pdptes)))
    return trial._replace(controls=controls, accesses=accesses, pdptes=pdptes)


def other_walk(content: bytearray, trial: Trial, access: Access) -> Result:
    def read(gpa: int, size: int) -> int:
        gpa %= GIGA
        return int.from_bytes(content[gpa : gpa + size], "little")

    def write(gpa: int, size: int, value: int) -> None:
        gpa %= GIGA
        content[gpa : gpa + size] = value.to_bytes(size, "little")

    controls = trial.controls._replace(ac=access.ac)
    walker = SdmWalker(controls, trial.cr3, trial.pdptes, read, write)
    return walker.access(access.gva, access.kind)


def our_walk(memory: Bytes, trial: Trial, access: Access) -> Result:
    registers = registers_of(trial, ac=access.ac)
    found = finish(Walker(memory).translate(registers, Gva(access.gva), access.kind))
    if isinstance(found, Walk):
        return "ok", found.gpa, 0
    if isinstance(found, GuestFault):
        return "#PF", found.gva, found.error_code
    return "#GP", found.value, 0


def compare(mode: PagingMode, seeds: range, count: int) -> int:
    """Hold every access of these trials against the second walker; how many went through."""
    through = 0
    for seed in seeds:
        trial = varied(mode, seed, count)
        memory = Bytes(bytes(TABLES) + trial.tables)
        content = memory.content[:]
        for access in trial.accesses:
            ours = our_walk(memory, trial, access)
            assert ours == other_walk(content, trial, access), (seed, access, trial.controls)
            assert memory.content == content, f"A and D differ: {seed} {access}"
            through += ours[0] == "ok"
    return through


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_random_accesses(mode: PagingMode) -> None:
    assert 125 < compare(mode, range(10), 100) < 875


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_a_million_random_accesses(mode: PagingMode) -> None:
    assert compare(mode, range(1000, 5000), 250) > 100_000
