"""Discovery: an extension is one file, found by its name, so there is no central list to edit."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType

from vmm.errors import UsageError


def public_name(file_name: str) -> str:
    """What users call the extension in that file: ``stale_gpte`` is ``stale-gpte``."""
    return file_name.replace("_", "-")


def discover(package_name: str) -> dict[str, ModuleType]:
    """The modules of a package that hold a ``SPEC``, by public name, sorted.

    Names that start with an underscore are skipped. A directory appended to the package's
    ``__path__`` takes part like the package's own. Errors: a module that cannot be imported.
    """
    package = import_module(package_name)
    files = [file for folder in package.__path__ for file in Path(folder).iterdir()]
    names = sorted(file.stem for file in files if file.suffix == ".py")
    modules = {
        public_name(name): _imported(f"{package_name}.{name}")
        for name in names
        if not name.startswith("_")
    }
    return {name: module for name, module in modules.items() if hasattr(module, "SPEC")}


def _imported(module_name: str) -> ModuleType:
    if (known := sys.modules.get(module_name)) is not None:
        return known  # discovery is asked often, the import system takes its time
    try:
        return import_module(module_name)
    except Exception as error:
        place = f"{error.filename}:{error.lineno}" if isinstance(error, SyntaxError) else ""
        raise UsageError(
            f"{place or module_name} cannot be imported: {type(error).__name__}: {error}; "
            "mend it, or let its file name start with an underscore"
        ) from error


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that nothing answers to: says what is close to it."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        mend = f"did you mean {' or '.join(near)}?"
    elif known:
        mend = f"known: {', '.join(known)}"
    else:
        mend = "there are none"
    return UsageError(f"unknown {kind} {name!r}: {mend}")
