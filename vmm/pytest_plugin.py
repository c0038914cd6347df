"""Pytest plugin: scenarios as tests, each under many seeds.

    @pytest.mark.vmm("stale_gpte", seeds=100)
    def test_stale_gpte() -> None: ...

    @pytest.mark.vmm("stale_gpte", bugs=("stale-gpte",))
    def test_the_bug_is_found(vmm_outcomes: Outcomes) -> None:
        assert "audit/spte-agrees" in vmm_outcomes.codes

    @pytest.mark.trio
    async def test_beside_others(vmm_run: VmmRun) -> None:
        await vmm_run("stale_gpte", seed=3)

A failure's last note is the one command that shows it again. ``--vmm-seed N`` runs one seed only.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from vmm.engine.trace import Outcome
    from vmm.scenario.experiment import Experiment

SEEDS = 100
"""Seeds that a marked test runs, if it does not say how many."""
TABLE_WIDTH = 100


class Violated(AssertionError):
    """A scenario violated a rule: the message is the race table."""


@dataclass(frozen=True, repr=False)
class Outcomes:
    """What came of a scenario, by seed."""

    experiment: Experiment
    strategy: str
    host: str
    by_seed: Mapping[int, Outcome]

    def __repr__(self) -> str:
        name = self.experiment.loaded.name
        return f"<{len(self.by_seed)} outcomes of {name}, {len(self.failures)} with findings>"

    @property
    def failures(self) -> dict[int, Outcome]:
        """The outcomes with findings."""
        return {seed: outcome for seed, outcome in self.by_seed.items() if outcome.findings}

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of all findings, each once."""
        found = (finding.code for o in self.by_seed.values() for finding in o.findings)
        return tuple(dict.fromkeys(found))

    @property
    def goals(self) -> dict[str, bool]:
        """Each goal, and whether some seed reached it."""
        reached: dict[str, bool] = {}
        for outcome in self.by_seed.values():
            for goal, done in outcome.goals.items():
                reached[goal] = done or reached.get(goal, False)
        return reached

    def command(self, seed: int) -> str:
        """The command that runs a seed again."""
        options = ["--seed", str(seed)]
        if self.strategy != self.experiment.default_strategy:
            options += ["--strategy", self.strategy]
        if self.host != "direct":
            options += ["--host", self.host]
        return self.experiment.command("run", *options)

    def check(self) -> None:
        """Errors: Violated, by the first seed with a finding."""
        __tracebackhide__ = True
        for seed in self.failures:
            raise _violated(self, seed)


class VmmRun(Protocol):
    """The fixture ``vmm_run``: runs a scenario as tasks of the loop that the test runs on."""

    def __call__(
        self,
        scenario: str,
        seed: int | None = None,
        *,
        bugs: Sequence[str] = (),
        params: Mapping[str, int | str] | None = None,
        era: str | None = None,
        strategy: str | None = None,
        check: bool = True,
    ) -> Awaitable[Outcome]:
        """What came of it. Errors: Violated, unless ``check`` is off."""
        ...


# --- hooks ---


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options."""
    group = parser.getgroup("vmm", "scenarios under many seeds")
    group.addoption("--vmm-seed", type=int, metavar="N", help="run scenarios under this seed only")
    group.addoption("--vmm-seeds", type=int, metavar="N", help="run scenarios under N seeds")


def pytest_configure(config: pytest.Config) -> None:
    """The marker."""
    config.addinivalue_line(
        "markers",
        f"vmm(scenario, *, seeds={SEEDS}, bugs=(), params={{}}, era=None, strategy=None, "
        "host='direct'): run the scenario under each seed from 1; fail at the first finding, "
        "unless the test takes vmm_outcomes and judges itself",
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Run the scenario of a marked test before its body; say how to see a failure again."""
    __tracebackhide__ = True
    if pyfuncitem.get_closest_marker("vmm") is None:
        return (yield)
    judges_itself = "vmm_outcomes" in pyfuncitem.fixturenames
    outcomes = pyfuncitem.funcargs["vmm_outcomes"] if judges_itself else _outcomes(pyfuncitem)
    assert isinstance(outcomes, Outcomes)
    try:
        if not judges_itself:
            outcomes.check()
        return (yield)
    except Exception as error:
        first = next(iter(outcomes.failures or outcomes.by_seed), None)
        if first is not None and not isinstance(error, Violated):
            error.add_note(f"reproduce: {outcomes.command(first)}")
        for note in getattr(error, "__notes__", ()):
            pyfuncitem.add_report_section("call", "vmm", note)
        raise


# --- fixtures ---


@pytest.fixture
def vmm_outcomes(request: pytest.FixtureRequest) -> Outcomes:
    """What came of the marked scenario under every seed; the test judges it."""
    return _outcomes(request.node)


@pytest.fixture
def vmm_run(request: pytest.FixtureRequest) -> VmmRun:
    """Runs a scenario once, as tasks beside the others of an async test."""

    async def run(
        scenario: str,
        seed: int | None = None,
        *,
        bugs: Sequence[str] = (),
        params: Mapping[str, int | str] | None = None,
        era: str | None = None,
        strategy: str | None = None,
        check: bool = True,
    ) -> Outcome:
        from vmm.engine.hosts.loop import drive
        from vmm.engine.live import Run
        from vmm.scenario.failures import user_errors

        __tracebackhide__ = True
        chosen = request.config.getoption("vmm_seed") if seed is None else seed
        number = 1 if chosen is None else int(chosen)
        experiment = _experiment(request.path.parent, scenario, bugs, params, era)
        name = strategy or experiment.default_strategy
        world = experiment.world()
        with user_errors():
            picker = experiment.pickers(world, name)(number)
            outcome = await drive(Run(world, picker, incremental=experiment.is_long))
        if check:
            Outcomes(experiment, name, "direct", {number: outcome}).check()
        return outcome

    return run


# --- the work ---


def _outcomes(item: pytest.Item) -> Outcomes:
    """Run the scenario of the item's marker under its seeds."""
    from vmm.errors import VmmError

    __tracebackhide__ = True
    marker = item.get_closest_marker("vmm")
    if marker is None:
        pytest.fail("vmm_outcomes needs the marker @pytest.mark.vmm(scenario)", pytrace=False)
    problem = ""
    try:
        inspect.signature(_swept).bind(item, *marker.args, **marker.kwargs)
    except TypeError as error:
        problem = f"{error}; see pytest --markers"
    else:
        try:
            return _swept(item, *marker.args, **marker.kwargs)
        except VmmError as error:
            problem = str(error)
    pytest.fail(f"@pytest.mark.vmm: {problem}", pytrace=False)


def _swept(
    item: pytest.Item,
    scenario: str,
    *,
    seeds: int = SEEDS,
    bugs: Sequence[str] = (),
    params: Mapping[str, int | str] | None = None,
    era: str | None = None,
    strategy: str | None = None,
    host: str = "direct",
) -> Outcomes:
    from vmm.engine.live import Run
    from vmm.scenario.experiment import host_named

    experiment = _experiment(item.path.parent, scenario, bugs, params, era)
    name = strategy or experiment.default_strategy
    world, drive = experiment.world(), host_named(host)
    picker = experiment.pickers(world, name)
    by_seed = {
        seed: drive(Run(world, picker(seed), incremental=experiment.is_long))
        for seed in _seeds(item.config, seeds)
    }
    return Outcomes(experiment, name, host, by_seed)


def _seeds(config: pytest.Config, count: int) -> range:
    only = config.getoption("vmm_seed")
    if only is not None:
        return range(int(only), int(only) + 1)
    return range(1, (config.getoption("vmm_seeds") or count) + 1)


def _experiment(
    beside: Path,
    scenario: str,
    bugs: Sequence[str],
    params: Mapping[str, int | str] | None,
    era: str | None,
) -> Experiment:
    from vmm.scenario.experiment import prepare
    from vmm.scenario.loading import load

    return prepare(load(scenario, beside=beside), params=params, bugs=bugs, era=era)


def _violated(outcomes: Outcomes, seed: int) -> Violated:
    """The failure of a seed: its race table, and the command that shows it again."""
    from vmm.report.violation import witnessed

    experiment = outcomes.experiment
    world = experiment.world()
    picker: Any = experiment.pickers(world, outcomes.strategy)(seed)
    found = witnessed(experiment, world, picker, outcomes.by_seed[seed].findings)
    *table, _ = found.table().lines(TABLE_WIDTH)
    what = f"{found.findings[0].code} under seed {seed}"
    failure = Violated("\n".join([what, *table]))
    failure.add_note(f"reproduce: {outcomes.command(seed)}")
    return failure
