"""Writing files whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from vmm.errors import UsageError


def check_directory(file: Path) -> None:
    """Errors: UsageError if there is no directory to put ``file`` in."""
    if not file.parent.is_dir():
        raise UsageError(
            f"cannot write {file}: there is no directory {file.parent}; mkdir -p {file.parent}"
        )
    if file.is_dir():
        raise UsageError(f"cannot write {file}: it is a directory; name a file in it")


def write_whole(file: Path, content: bytes) -> None:
    """Replace ``file`` by ``content``; a reader sees the old or the new, never a part."""
    draft = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise UsageError(f"cannot write {file}: {error.strerror}") from error
