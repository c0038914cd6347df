"""Python in a process of its own, where strings hash by another seed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def said_elsewhere(program: str, *, hash_seed: str = "1") -> str:
    """What a program writes, which must end well."""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return ended.stdout
