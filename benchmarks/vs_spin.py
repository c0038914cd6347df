"""The exhaustive search against Spin, on two worlds at the same granularity.

    python benchmarks/vs_spin.py [--rounds 3] [--world "tlb_shootdown vcpus=3"]

The worlds are ``scenarios/calibration`` here and ``benchmarks/spin/*.pml`` there: one transition
for each shared access in both. Spin's verifier is compiled with ``gcc -O2 -DSAFETY``, with its
partial-order reduction and without (``-DNOREDUCE``); compiling it is not in its time. Our time is
that of the whole process, so learning the tables is in it, less ``start-up``: starting Python,
importing, and numba's compiling, which stand apart. The tools run in turn, as often as there are
rounds; each row has the fastest round. ``ratio`` is our seconds over Spin's with its reduction.
``MiB`` is the peak of the whole process.

Needs ``spin`` and ``gcc`` (Debian: ``apt-get install spin gcc``).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click

HERE = Path(__file__).parent
WORLDS = (
    "notifier_retry vcpus=2",
    "notifier_retry vcpus=3",
    "notifier_retry vcpus=4",
    "tlb_shootdown vcpus=2 flushers=1",
    "tlb_shootdown vcpus=3 flushers=1",
    "tlb_shootdown vcpus=2 flushers=2",
    "tlb_shootdown vcpus=3 flushers=2",
)
SLOTS_BITS = 24
"""log2 of the slots of Spin's hash table: its default, more only for worlds with more states."""


@dataclass(frozen=True)
class Figures:
    """One run of one tool."""

    states: int
    transitions: int
    seconds: float
    startup: float
    mebibytes: float


@dataclass(frozen=True)
class Process:
    """What a process said, how long it took, and the most memory that it had."""

    output: str
    seconds: float
    mebibytes: float


def run(words: list[str], folder: Path) -> Process:
    """Run a command to its end. Errors: CalledProcessError."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as kept:
        process = subprocess.Popen(words, cwd=folder, stdout=kept, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        kept.seek(0)
        output = kept.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words, output)
    return Process(output, seconds, usage.ru_maxrss / 1024)


class Spin:
    """Spin's verifier of one world."""

    def __init__(self, name: str, params: dict[str, str], folder: Path, *, reduce: bool) -> None:
        self.folder = folder / f"{name}-{'-'.join(params.values())}-{reduce}"
        self.folder.mkdir()
        shutil.copy(HERE / "spin" / f"{name}.pml", self.folder)
        defines = [f"-D{key.upper()}={value}" for key, value in params.items()]
        run(["spin", "-a", *defines, f"{name}.pml"], self.folder)
        unreduced = [] if reduce else ["-DNOREDUCE"]
        run(["gcc", "-O2", "-DSAFETY", *unreduced, "-o", "pan", "pan.c"], self.folder)
        self.bits = SLOTS_BITS

    def measure(self) -> Figures:
        """Run it once, with a hash table that has a slot for each state."""
        while True:
            done = run(["./pan", "-m1000000", f"-w{self.bits}"], self.folder)
            if "errors: 0" not in done.output:
                raise click.ClickException(f"Spin found an error in {self.folder.name}")
            states, transitions = (
                int(float(re.search(rf"([\d.e+]+) {what}", done.output)[1]))  # type: ignore[index]
                for what in ("states, stored", "transitions")
            )
            if states <= 1 << self.bits:
                return Figures(states, transitions, done.seconds, 0.0, done.mebibytes)
            self.bits = states.bit_length()


class Ours:
    """``vmm explore`` on one world."""

    def __init__(self, name: str, params: dict[str, str], engine: str, reduction: str) -> None:
        path = str(HERE.parent / "scenarios" / "calibration" / f"{name}.py")
        wanted = [word for key, value in params.items() for word in ("-p", f"{key}={value}")]
        options = ["--engine", engine, "--reduction", reduction, "--json"]
        vmm = str(Path(sys.executable).with_name("vmm"))
        self.words = [vmm, "explore", path, *wanted, *options]

    def measure(self) -> Figures:
        """Run it once."""
        done = run(self.words, HERE.parent)
        said = json.loads(done.output)
        if said["verdict"] != "clean":
            raise click.ClickException(f"{' '.join(self.words)}: {said['verdict']}")
        # What is left of the process outside the search, which reports its own start-up.
        startup = done.seconds - said["seconds"]
        return Figures(
            said["states"], said["transitions"], said["seconds"], startup, done.mebibytes
        )


def tools(name: str, params: dict[str, str], folder: Path) -> dict[str, Spin | Ours]:
    """Who takes part; the first is what the others are compared with."""
    engines = ["numpy", *(["numba"] if find_spec("numba") else [])]
    return {
        "Spin, reduced": Spin(name, params, folder, reduce=True),
        "Spin": Spin(name, params, folder, reduce=False),
        **{
            f"vmm {engine}{', reduced' if reduction == 'auto' else ''}": Ours(
                name, params, engine, reduction
            )
            for engine in engines
            for reduction in ("auto", "none")
        },
    }


@click.command()
@click.option("--rounds", default=3, help="how often each tool runs")
@click.option("--world", "worlds", multiple=True, default=WORLDS, help="scenario and parameters")
def main(rounds: int, worlds: tuple[str, ...]) -> None:
    """Print a table for each world."""
    if not (shutil.which("spin") and shutil.which("gcc")):
        click.echo("left out: spin or gcc is missing (apt-get install spin gcc)", err=True)
        return
    for world in worlds:
        name, *given = world.split()
        params = dict(word.split("=") for word in given)
        with tempfile.TemporaryDirectory() as folder:
            taking_part = tools(name, params, Path(folder))
            measured = [
                {who: tool.measure() for who, tool in taking_part.items()} for _ in range(rounds)
            ]
        rows = {
            who: min([figures[who] for figures in measured], key=lambda f: f.seconds)
            for who in taking_part
        }
        show(world, rows)


def show(world: str, rows: dict[str, Figures]) -> None:
    """One world's table."""
    base = next(iter(rows.values()))
    click.echo(
        f"{world:36}{'states':>12}{'transitions':>13}{'seconds':>9}{'start-up':>10}"
        f"{'MiB':>7}{'B/state':>9}{'ratio':>7}"
    )
    for who, f in rows.items():
        bytes_each = f.mebibytes * 2**20 / f.states
        click.echo(
            f"  {who:34}{f.states:12,}{f.transitions:13,}{f.seconds:9.2f}{f.startup:10.2f}"
            f"{f.mebibytes:7.0f}{bytes_each:9.0f}{f.seconds / base.seconds:7.2f}"
        )


if __name__ == "__main__":
    main()
