"""Features: what KVM grew beside the base of 2.6.25, one file each.

A file holds ``SPEC = Feature(...)`` and subclasses of machine components
(``vmm.components.COMPONENTS``), which are put in front of the components of their names. Its
docstring explains the protocol in two columns. A feature is switched on by name or by an era.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vmm.components import overrides_of
from vmm.discovery import discover, unknown
from vmm.errors import UsageError


@dataclass(frozen=True, slots=True)
class Feature:
    """What a feature is, and what it takes.

    ``since``: the first Linux that had it. ``eras``: the eras that contain it. ``needs``: features
    that are switched on with it. ``excludes``: features it cannot be combined with. ``locks``: what
    it guards, by lock. ``requests``: what it asks of vCPUs, by request.
    """

    title: str
    source: str
    since: str
    eras: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    locks: Mapping[str, str] = field(default_factory=dict)
    requests: Mapping[str, str] = field(default_factory=dict)


def features() -> dict[str, Feature]:
    """All features by name."""
    return {name: module.SPEC for name, module in discover("vmm.features").items()}


def chosen(era: str, names: Iterable[str]) -> tuple[str, ...]:
    """The features of an era, those named, and what they need, each after all that it needs.

    The order is that of needs, then of history, and never that of files or of the command line.
    Errors: an unknown name, or two features that exclude each other.
    """
    known = features()
    wanted: dict[str, None] = {}
    stack = [*names, *(name for name, feature in known.items() if era in feature.eras)]
    while stack:
        name = stack.pop()
        if name not in known:
            raise unknown("feature", name, known)
        if name not in wanted:
            wanted[name] = None
            stack += known[name].needs
    for name in sorted(wanted):
        for other in known[name].excludes:
            if other in wanted:
                raise UsageError(f"features {name} and {other} exclude each other: leave one out")
    return _ordered({name: known[name] for name in wanted})


def feature_overrides(names: Iterable[str]) -> dict[str, list[type]]:
    """The classes of features in that order, the last one's in front."""
    modules = discover("vmm.features")
    return overrides_of(modules[name] for name in names)


def _ordered(wanted: Mapping[str, Feature]) -> tuple[str, ...]:
    rest = sorted(wanted, key=lambda name: (_version(wanted[name].since), name))
    placed: list[str] = []
    while rest:
        name = next(n for n in rest if not any(need in rest for need in wanted[n].needs))
        rest.remove(name)
        placed.append(name)
    return tuple(placed)


def _version(since: str) -> tuple[int, ...]:
    return tuple(map(int, since.split(".")))
