"""How fast a search is as it grows, and how far parameters grow before it is too large.

    python benchmarks/growth.py [--states 10000000] [--seconds 60] [--scenario stale_gpte]

First, one world of more than 10^7 states is searched by each engine until it has so many of them:
states a second of CPU time, and bytes a state, less what a tiny search takes of both; the best of
some rounds. Then each scenario is exhausted as it stands, and with each of its numbers larger and
larger: one more where it is small, twice as much where it is not. Each row is the last search that
was complete within the budget; ``limit`` says what ended the row: states, seconds, or that the
parameter goes no further. Every search is a process of its own; ``of process`` is the share of its
time that the search itself took, the rest is start-up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from vmm.scenario import loading
from vmm.scenario.contract import Parameter
from vmm.scenario.loading import load

VMM = str(Path(sys.executable).with_name("vmm"))


WORLD = ["notifier_retry", "-p", "vcpus=5"]
TINY = ["notifier_retry", "-p", "vcpus=1"]
SIZES = (10**4, 10**5, 10**6, 10**7)


ROUNDS = 3


def measured(words: list[str]) -> tuple[int, float, int]:
    """The states that ``vmm explore`` visits, its CPU seconds, and its peak of memory in bytes."""
    best = float("inf")
    for _ in range(ROUNDS):
        with tempfile.TemporaryFile("w+") as kept:
            process = subprocess.Popen([VMM, "explore", *words, "--json"], stdout=kept)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            kept.seek(0)
            states: int = json.load(kept)["states"]
        best = min(best, usage.ru_utime + usage.ru_stime)
    return states, best, usage.ru_maxrss * 1024


def show_speed(most: int) -> None:
    """States a second, and bytes a state, by engine and size of the search."""
    for engine in ["numpy", *(["numba"] if find_spec("numba") else [])]:
        _, startup, least = measured([*TINY, "--engine", engine])
        for size in [size for size in SIZES if size <= most]:
            words = [*WORLD, "--engine", engine, "--max-states", str(size)]
            states, seconds, peak = measured(words)
            click.echo(
                f"{engine:34}{states:16,}{states / (seconds - startup):16,.0f}"
                f"{(peak - least) / states:12.0f}"
            )


def explore(scenario: str, given: dict[str, int], states: int, seconds: float) -> dict[str, Any]:
    """What ``vmm explore`` says, and ``share``: the search's part of the whole process."""
    wanted = [word for name, value in given.items() for word in ("-p", f"{name}={value}")]
    budget = ["--max-states", str(states), "--seconds", str(seconds)]
    started = time.perf_counter()
    done = subprocess.run(
        [VMM, "explore", scenario, *wanted, *budget, "--json"], capture_output=True, check=False
    )
    whole = time.perf_counter() - started
    if done.returncode not in (0, 1, 4):
        raise click.ClickException(done.stderr.decode())
    said: dict[str, Any] = json.loads(done.stdout)
    return said | {"share": said["seconds"] / whole}


def larger(parameter: Parameter) -> Iterator[int]:
    """The values above the default, at most doubled each time."""
    value = int(parameter.default)
    while parameter.maximum is not None and value < parameter.maximum:
        value = min(value + 1 if value < 4 else 2 * value, parameter.maximum)
        yield value


def grow(scenario: str, parameter: Parameter, states: int, seconds: float) -> None:
    """One row: the largest world that was exhausted."""
    last, limit = None, "maximum"
    for value in larger(parameter):
        said = explore(scenario, {parameter.name: value}, states, seconds)
        if not said["complete"]:
            limit = "seconds" if said["seconds"] >= seconds else "states"
            limit = said["verdict"] if said["verdict"] == "violated" else limit
            break
        last = f"{parameter.name}={value}", said
    if last is not None:
        show(scenario, *last, limit)
    else:
        click.echo(f"{scenario:34}{parameter.name:>16}   no larger value within the {limit}")


def show(scenario: str, what: str, said: dict[str, Any], limit: str) -> None:
    """One search as a row."""
    click.echo(
        f"{scenario:34}{what:>16}{said['verdict']:>10}{said['states']:13,}{said['seconds']:9.2f}"
        f"{said['share']:12.2f}  {limit}"
    )


@click.command()
@click.option("--states", default=10_000_000, help="budget of one search")
@click.option("--seconds", default=60.0, help="budget of one search")
@click.option("--scenario", "names", multiple=True, help="which; all, if none is given")
@click.option("--grow/--as-they-stand", "growing", default=True, help="with larger parameters too")
def main(states: int, seconds: float, names: tuple[str, ...], growing: bool) -> None:
    """Print the rows."""
    if not names:
        click.echo(f"{'engine':34}{'states':>16}{'states/s':>16}{'B/state':>12}")
        show_speed(states)
    click.echo(
        f"{'scenario':34}{'parameter':>16}{'verdict':>10}{'states':>13}{'seconds':>9}"
        f"{'of process':>12}  limit"
    )
    for scenario in names or loading.names():
        loaded = load(scenario)
        small = {name: int(value) for name, value in loaded.scenario.small.items()}
        show(scenario, "small", explore(scenario, small, states, seconds), "")
        for parameter in loaded.scenario.parameters if growing else ():
            numeric = isinstance(parameter.default, int) and not parameter.choices
            if numeric and parameter.maximum not in (None, 1):
                grow(scenario, parameter, states, seconds)


if __name__ == "__main__":
    main()
