"""What the names in documents stand for."""

from __future__ import annotations

import importlib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def resolve(place: str) -> object:
    """What a dotted name stands for: a module or package, and names in it."""
    parts = place.split(".")
    depth = len(parts)
    while not _is_module(parts[:depth]):
        depth -= 1
        assert depth, f"{place} is no module"
    found: object = importlib.import_module(".".join(parts[:depth]))
    for name in parts[depth:]:
        assert hasattr(found, name), f"{place}: there is no {name}"
        found = getattr(found, name)
    return found


def _is_module(parts: list[str]) -> bool:
    path = ROOT.joinpath(*parts)
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()
