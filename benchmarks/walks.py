"""Page walks a CPU second over a real guest's tables: ``walk_many`` against a plain Python walk.

    python benchmarks/walks.py [--walks 2000000] [--rounds 5]

The addresses are those of the pages that the first vCPU of the recorded guest had mapped, drawn at
random, each at a random offset; the accesses are supervisor loads. Both walks are timed in turn, in
seconds of CPU time of one thread, and the best of each is shown. The plain walk is the one that
judges recorded guests: 4-level only, without control bits, reserved bits or keys. ``walk_many``
looks at all of them.
"""

from __future__ import annotations

import struct
from pathlib import Path
from random import Random
from time import process_time

import click
import numpy as np

from vmm.hw.access import LOAD
from vmm.hw.paging import Controls, PagingRegisters
from vmm.hw.walker import Snapshot, walk_many
from vmm.workload.ptrace import TablePage, read_recording
from vmm.workload.tables import GuestTables

RECORDING = Path(__file__).parents[1] / "scenarios" / "data" / "dev_smp2_small.ptrace.xz"
PLAIN_WALKS = 20_000


def bytes_of(table: TablePage) -> bytes:
    words = [0] * 512
    for index, entry in table.entries:
        words[index] = entry
    return struct.pack("<512Q", *words)


@click.command()
@click.option("--walks", default=2_000_000, help="walks in each call of walk_many")
@click.option("--rounds", default=5, help="how often both are timed")
def main(walks: int, rounds: int) -> None:
    """Print both rates and their ratio."""
    recording = read_recording(RECORDING)
    tables = GuestTables(recording.tables)
    cr3 = recording.registers[0].cr3
    snapshot = Snapshot({table.pfn: bytes_of(table) for table in recording.tables})
    registers = PagingRegisters(Controls(), cr3)
    random = Random(1)
    mapped = [leaf.gva for leaf in tables.leaves(cr3 >> 12)]
    chosen = [gva | random.randrange(4096) for gva in random.choices(mapped, k=walks)]
    gvas = np.array(chosen, np.uint64)
    many, plain = [], []
    for _ in range(rounds):
        start = process_time()
        found = walk_many(snapshot, registers, gvas, LOAD)
        many.append(walks / (process_time() - start))
        start = process_time()
        expected = [tables.walk(cr3, gva) for gva in chosen[:PLAIN_WALKS]]
        plain.append(PLAIN_WALKS / (process_time() - start))
    for gpa, one in zip(found.gpa.tolist(), expected, strict=False):
        assert one is not None
        assert gpa == one.gpa
    click.echo(f"{len(mapped):,} pages mapped, {len(recording.tables)} tables, {walks:,} walks")
    click.echo(f"walk_many    {max(many):12,.0f} walks/CPU s")
    click.echo(f"plain Python {max(plain):12,.0f} walks/CPU s")
    click.echo(f"ratio        {max(many) / max(plain):12,.0f}")


if __name__ == "__main__":
    main()
