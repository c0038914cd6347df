"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from vmm.engine.schedule import Recorded
    from vmm.scenario.experiment import Experiment

NAME_MAX = 256
"""File names are shorter than this; tokens may well be longer, and no file system likes that."""

F = TypeVar("F", bound=Callable[..., Any])


def _all(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    def add(command: F) -> F:
        return reduce(lambda made, option: option(made), reversed(options), command)

    return add


def experiment_options() -> Callable[[F], F]:
    """What names an experiment: the scenario, bugs, era and parameters."""
    return _all(
        click.argument("scenario"),
        click.option("--bug", "bugs", metavar="SLUG", multiple=True, help="Bring a bug back."),
        click.option("--era", metavar="E", help="KVM of that time instead of the scenario's."),
        click.option("-p", "params", metavar="NAME=VALUE", multiple=True, help="Set a parameter."),
    )


def output_options() -> Callable[[F], F]:
    """How results are said."""
    return _all(
        click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout."),
        click.option("-v", "--verbose", is_flag=True, help="Diagnostics on stderr."),
    )


def seed_option() -> Callable[[F], F]:
    """The seed of random choices."""
    return click.option("--seed", type=int, default=1, show_default=True, help="First seed.")


def host_option() -> Callable[[F], F]:
    """What drives the tasks."""
    return click.option(
        "--host", metavar="direct|asyncio|trio", default="direct", show_default=True,
        help="What drives the tasks; never matters for what comes out.",
    )  # fmt: skip


def findings_option(default: str | None, text: str) -> Callable[[F], F]:
    """Where finding files go."""
    return click.option(
        "--findings", metavar="DIR", type=click.Path(path_type=Path, file_okay=False),
        default=default, show_default=default is not None, help=text,
    )  # fmt: skip


def experiment_of(
    scenario: str, bugs: tuple[str, ...], era: str | None, params: tuple[str, ...]
) -> Experiment:
    """The experiment that the options name. Errors: UsageError."""
    from vmm.scenario.experiment import prepare
    from vmm.scenario.loading import load

    return prepare(load(scenario), params=pairs(params), bugs=bugs, era=era)


def pairs(params: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE words as a dictionary. Errors: UsageError."""
    from vmm.errors import UsageError

    found: dict[str, str] = {}
    for word in params:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"-p {word}: write -p NAME=VALUE")
        found[name.strip()] = value.strip()
    return found


def finding_file_of(schedule: str) -> Path | None:
    """The path, if that is what was given rather than a token."""
    path, is_short = Path(schedule), len(schedule) < NAME_MAX
    is_path = path.suffix == ".json" or "/" in schedule or (is_short and path.exists())
    return path if is_path else None


def recorded_of(schedule: str) -> Recorded:
    """The recorded schedule of a token or a finding file. Errors: ScheduleError."""
    from vmm.engine.schedule import decode
    from vmm.report.findings import read

    path = finding_file_of(schedule)
    return decode(schedule if path is None else read(path).schedule)
