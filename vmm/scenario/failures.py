"""Whose fault an exception is: the scenario's, which is bad input, or a bug in vmm."""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import vmm
from vmm.errors import InternalError, UsageError, VmmError

_PACKAGE = str(Path(vmm.__file__).resolve().parent) + os.sep
_SCENARIOS = _PACKAGE + "_scenarios" + os.sep
_LIBRARIES = tuple(
    [sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")]
)
_LOOPS = ("asyncio", "trio", "anyio", "sniffio")


class ScenarioError(UsageError):
    """An exception that a scenario's own code raised."""

    code = "scenario/error"


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns what is raised inside into one line: a ScenarioError, or else an InternalError.

    The innermost frame decides that is not a library's: a scenario's own, or one of vmm.
    """
    try:
        yield
    except VmmError:
        raise
    except (Exception, SystemExit) as error:
        raise explained(error) from error


def explained(error: BaseException) -> VmmError:
    """The error that says in one line where ``error`` comes from."""
    what = one_line(error)
    frames = list(traceback.walk_tb(error.__traceback__))
    in_library: list[str] = []
    for frame, line in reversed(frames):
        file = frame.f_code.co_filename
        if _is_vmm(file):
            return InternalError(f"{what}, at {_shown(file)}:{line}")
        if not _is_library(file):
            where = f"{_shown(file)}:{line} in {frame.f_code.co_name}"
            return ScenarioError(f"{where}: {what}; {_mend(in_library)}")
        in_library.append(file)
    return InternalError(what)


def one_line(error: BaseException) -> str:
    """Type and text of an exception, in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _mend(in_library: list[str]) -> str:
    if any(loop in Path(file).parts for file in in_library for loop in _LOOPS):
        return "a task may await only cells, ops and model objects: no call of an event loop"
    return "mend the scenario (-v shows the traceback)"


def _is_vmm(file: str) -> bool:
    return file.startswith(_PACKAGE) and not file.startswith(_SCENARIOS)


def _is_library(file: str) -> bool:
    return file.startswith("<frozen") or (
        file.startswith(_LIBRARIES) and not file.startswith(_SCENARIOS)
    )


def _shown(file: str) -> str:
    """The path, relative where that is shorter."""
    here = str(Path.cwd()) + os.sep
    return file.removeprefix(here) if file.startswith(here) else file.removeprefix(_PACKAGE[:-4])
