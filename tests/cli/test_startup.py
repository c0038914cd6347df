"""The command as a process of its own: quick to start, silent about what it need not import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.lab import Lab

HEAVY = ("numpy", "trio", "anyio", "asyncio", "loguru", "msgspec", "rich", "vmm.engine")


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


def vmm(*words: str) -> subprocess.CompletedProcess[str]:
    return python("-c", "from vmm.cli import main; main()", *words)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom vmm.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    said = python("-c", code)
    assert said.stdout.splitlines()[-1] == "[]", said.stderr
    assert "explore" in said.stdout


def test_the_installed_command_says_the_same_under_any_hash_seed(lab: Lab) -> None:
    command = Path(sys.executable).parent / "vmm"
    said = subprocess.run(
        [command, "run", "lost_update"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )
    assert (said.returncode, said.stderr) == (1, "")
    assert "\x1b" not in said.stdout
    assert said.stdout == lab.vmm("run", "lost_update").out


def test_no_colour_without_a_terminal(lab: Lab) -> None:
    said = vmm("explore", "lost_update", "-p", "locked=1")
    assert said.returncode == 0
    assert "\x1b" not in said.stdout + said.stderr


def test_one_json_object_on_stdout_and_diagnostics_on_stderr(lab: Lab) -> None:
    said = vmm("run", "lost_update", "--json", "-v")
    assert len(said.stdout.splitlines()) == 1
    assert "fingerprint" in said.stderr
