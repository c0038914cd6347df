"""Finding and loading scenario files.

A scenario's name is its path below a folder of scenarios, without ``.py``, hyphens for
underscores. The folders: ``scenarios`` in the current directory, then ours. A file anywhere else
is known by its path.
"""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import vmm
from vmm.discovery import public_name, unknown
from vmm.errors import UsageError, VmmError
from vmm.scenario.contract import Scenario
from vmm.scenario.failures import one_line


@dataclass(frozen=True)
class LoadedScenario:
    """A scenario with the file it came from; ``fingerprint`` is that of the file's content."""

    name: str
    path: Path
    fingerprint: str
    scenario: Scenario

    @property
    def slug(self) -> str:
        """The last part of the name: what reports call it."""
        return public_name(self.path.stem)


def load(name: str, *, beside: Path | None = None) -> LoadedScenario:
    """The scenario of that name or path; ``beside`` is one more folder to look in.

    Errors, each in one line: no such scenario, or a file that is not one.
    """
    return load_file(find(name, beside=beside))


def load_file(path: Path) -> LoadedScenario:
    """The scenario in that file. Errors: UsageError that names the file and the line."""
    path = _shown(path)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    fingerprint = hashlib.blake2b(source, digest_size=8).hexdigest()
    module = _executed(path, source, fingerprint)
    scenario = getattr(module, "SCENARIO", None)
    if not isinstance(scenario, Scenario):
        has = "no SCENARIO" if scenario is None else f"a {type(scenario).__name__} as SCENARIO"
        raise UsageError(
            f"{path} has {has}: a scenario file says SCENARIO = Scenario(title=..., source=...)"
        )
    try:
        scenario.check()
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    return LoadedScenario(_name_of(path), path, fingerprint, scenario)


def find(name: str, *, beside: Path | None = None) -> Path:
    """The file of a scenario. Errors: there is none, or several."""
    path = Path(name)
    if path.suffix == ".py":
        places = [path] if beside is None else [beside / path, path]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise UsageError(f"no such scenario file: {name}{_near(path.stem)}")
        return found
    for folder in _folders() if beside is None else [beside, *_folders()]:
        matches = list(_matches(folder, name.replace("-", "_")))
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise UsageError(f"{name} may be {' or '.join(map(str, matches))}: name the path")
    raise unknown("scenario", name, names())


def names() -> list[str]:
    """The names of all scenarios in the folders."""
    return [_name_of(path) for path in files()]


def files() -> list[Path]:
    """All scenario files in the folders, sorted; a name counts once, in the first folder."""
    found: dict[Path, Path] = {}
    for folder in _folders():
        for path in sorted(folder.rglob("*.py")):
            if not path.name.startswith("_"):
                found.setdefault(path.relative_to(folder), _shown(path))
    return [found[key] for key in sorted(found)]


def _near(stem: str) -> str:
    if stem in (path.stem for path in files()):
        return f"; did you mean the scenario {public_name(stem)}, without .py?"
    return "; vmm list shows the ones there are"


def _folders() -> list[Path]:
    package = Path(vmm.__file__).resolve().parent
    installed = package / "_scenarios"
    ours = installed if installed.is_dir() else package.parent / "scenarios"
    return [folder for folder in (Path("scenarios"), ours) if folder.is_dir()]


def _matches(folder: Path, name: str) -> Iterator[Path]:
    if "/" in name or (folder / f"{name}.py").is_file():
        candidates = [folder / f"{name}.py"]
    else:
        candidates = sorted(folder.rglob(f"{name}.py"))
    return (path for path in candidates if path.is_file() and not path.name.startswith("_"))


def _name_of(path: Path) -> str:
    """The name by which ``find`` gives that very file."""
    resolved = path.resolve()
    for folder in _folders():
        if resolved.is_relative_to(folder.resolve()):
            relative = resolved.relative_to(folder.resolve()).with_suffix("").as_posix()
            name = public_name(relative)
            if find(name).resolve() == resolved:
                return name
    return path.as_posix()


def _shown(path: Path) -> Path:
    """The path, relative to the current directory where it lies below."""
    here = Path.cwd()
    resolved = path.resolve()
    return resolved.relative_to(here) if resolved.is_relative_to(here) else resolved


def _executed(path: Path, source: bytes, fingerprint: str) -> ModuleType:
    """The module in that file, compiled from the very bytes that the fingerprint is of.

    The same file gives the same module: its classes stand for themselves in captured states, so
    there must be only one of each.
    """
    place = hashlib.blake2b(str(path.resolve()).encode(), digest_size=4).hexdigest()
    name = f"vmm_scenarios.{path.stem}_{fingerprint}_{place}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name, None)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        _execute(module, path, source)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _execute(module: ModuleType, path: Path, source: bytes) -> None:
    try:
        exec(compile(source, str(path), "exec"), vars(module))  # noqa: S102 - scenarios are code
    except VmmError as error:
        raise UsageError(f"{_line_in(path, error)}: {error}") from error
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        raise UsageError(f"{error.filename or path}{line}: {error.msg}; mend it") from error
    except ImportError as error:
        raise UsageError(
            f"{_line_in(path, error)}: {one_line(error)}; "
            "a scenario imports vmm.scenario and the standard library"
        ) from error
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{_line_in(path, error)}: {one_line(error)}; the scenario cannot be loaded"
        ) from error


def _line_in(path: Path, error: BaseException) -> str:
    """The innermost line of the file that the error passed through."""
    lines = [
        line
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == str(path)
    ]
    return f"{path}:{lines[-1]}" if lines else str(path)
