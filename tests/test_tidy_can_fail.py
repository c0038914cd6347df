"""The checks of test_tidy on small samples: what they must find and what they must let pass."""

import pytest

from tests.test_tidy import (
    Check,
    Module,
    banned_code,
    banned_text,
    confined_libraries,
    dead_modules,
    docstrings,
    entry_points,
    floors,
    scenario_imports,
    sizes,
    sources,
)

BAD: list[tuple[Check, str, str]] = [
    (floors, "vmm/engine/a.py", "from vmm.mmu.rmap import Rmap"),
    (floors, "vmm/engine/a.py", "from vmm import hw"),
    (floors, "vmm/engine/a.py", "import vmm.machine"),
    (floors, "vmm/engine/hosts/a.py", "from ...machine import Machine"),
    (floors, "vmm/engine/a.py", "from vmm.units import Gfn"),
    (floors, "vmm/search/a.py", "from vmm.bits import PRESENT"),
    (floors, "vmm/search/a.py", "from vmm.strategies import pct"),
    (floors, "vmm/strategies/a.py", "from vmm.hw.tlb import Tlb"),
    (floors, "vmm/hw/a.py", "def f():\n    from vmm.mmu import rmap"),
    (floors, "vmm/mmu/a.py", "if TYPE_CHECKING:\n    from vmm.vcpu.kick import kick"),
    (floors, "vmm/mmu/a.py", "importlib.import_module('vmm.vcpu.kick')"),
    (floors, "vmm/scenario.py", "import_module(f'vmm.report.{name}')"),
    (floors, "vmm/units.py", "from vmm.bits import PRESENT"),
    (floors, "vmm/errors.py", "from .engine import cells"),
    (floors, "vmm/cellar/a.py", ""),
    (floors, "vmm/cli/a.py", "import vmm.cellar"),
    (confined_libraries, "vmm/engine/live.py", "import anyio.abc"),
    (confined_libraries, "vmm/pytest_plugin.py", "import anyio"),
    (confined_libraries, "vmm/engine/hosts/direct.py", "from asyncio import run"),
    (confined_libraries, "vmm/cli/run.py", "import trio"),
    (confined_libraries, "vmm/scenario.py", "from loguru import logger"),
    (confined_libraries, "vmm/mmu/rmap.py", "import numpy as np"),
    (scenario_imports, "scenarios/a.py", "from vmm.mmu.rmap import Rmap"),
    (scenario_imports, "scenarios/a.py", "from vmm import __version__"),
    (scenario_imports, "scenarios/x/a.py", "import numpy"),
    (sizes, "vmm/a.py", "\n" * 501),
    (sizes, "vmm/machine.py", "\n" * 200),
    (sizes, "vmm/a.py", "def f():\n" + "    x = 1\n" * 70),
    (sizes, "vmm/a.py", "class A:\n  async def f(self):\n    '''One.\n    '''\n" + "    x\n" * 70),
    (banned_code, "vmm/a.py", "key = id(task)"),
    (banned_code, "vmm/a.py", "print(1)"),
    (banned_code, "scenarios/a.py", "random.randrange(3)"),
    (banned_code, "vmm/a.py", "from random import choice"),
    (banned_code, "vmm/cli/a.py", "time.time()"),
    (banned_code, "vmm/a.py", "from time import time"),
    (banned_code, "vmm/engine/a.py", "x = {1, 2}"),
    (banned_code, "vmm/hw/a.py", "x = {y for y in z}"),
    (banned_code, "vmm/mmu/a.py", "x = set()"),
    (banned_code, "vmm/vcpu/a.py", "x = frozenset(y)"),
    (banned_text, "vmm/a.py", "# TO" + "DO: later"),
    (banned_text, "tests/a.py", "x = y  # type:" + " ignore"),
    (banned_text, "vmm/a.py", "open('/ro" + "ot/x')"),
    (banned_text, "benchmarks/a.py", "# see /ho" + "me/someone"),
    (sources, "vmm/bugs/a.py", ""),
    (sources, "vmm/bugs/a.py", "SPEC = Bug(title='a')"),
    (sources, "vmm/monitors/a.py", "SPEC = Monitor(title='', source='b')"),
    (sources, "vmm/strategies/a.py", "SPEC: Final = Strategy(title='a', source=' ')"),
    (sources, "scenarios/x/a.py", "SCENARIO = Scenario(title='a')"),
    (sources, "scenarios/a.py", "def f():\n    SCENARIO = Scenario(source='a')"),
    (docstrings, "vmm/a.py", "x = 1"),
    (docstrings, "scenarios/a.py", ""),
]


@pytest.mark.parametrize(("check", "path", "text"), BAD)
def test_check_finds(check: Check, path: str, text: str) -> None:
    assert len(list(check(Module(path, text)))) == 1


GOOD: list[tuple[Check, str, str]] = [
    (floors, "vmm/engine/hosts/a.py", "from vmm.engine.cells import Cell\nfrom vmm import errors"),
    (floors, "vmm/engine/a.py", "from . import cells\nfrom .hosts import direct"),
    (floors, "vmm/hw/a.py", "from vmm.units import Gfn\nimport trio"),
    (floors, "vmm/cli/__init__.py", "from vmm import __version__\nimport vmm.report.html"),
    (floors, "vmm/__main__.py", "from vmm.cli import main"),
    (floors, "tests/a.py", "import vmm.cellar"),
    (confined_libraries, "vmm/engine/hosts/loop.py", "import anyio, trio, asyncio"),
    (confined_libraries, "vmm/mmu/audit_bulk.py", "import numpy"),
    (confined_libraries, "vmm/report/html.py", "from loguru import logger"),
    (scenario_imports, "scenarios/a.py", "import math\nfrom vmm.scenario import Scenario"),
    (sizes, "vmm/a.py", "\n" * 500),
    (sizes, "vmm/a.py", "@wrap(\n  1\n)\ndef f():\n    '''One.\n    '''\n" + "    x = 1\n" * 69),
    (banned_code, "vmm/a.py", "rng = random.Random(1)\nx = {1}\nrow.id()\nx = {}"),
    (banned_code, "vmm/engine/a.py", "def f(x: set[int]): return set(x)  # order-free"),
    (banned_code, "vmm/engine/a.py", "x = {  # order-free\n    1,\n}\ntime.perf_counter()"),
    (banned_code, "vmm/report/table.py", "print(1)"),
    (banned_text, "vmm/a.py", "# root/home, /workload\nx = y  # type: ignore[arg-type]"),
    (sources, "vmm/bugs/_base.py", ""),
    (sources, "vmm/bugs/a.py", "SPEC = Bug(title='a', year=1, source='b' 'c')"),
    (sources, "scenarios/a.py", "SCENARIO: Scenario = Scenario(source='a')"),
    (docstrings, "vmm/a.py", "'''One.'''"),
    (docstrings, "tests/a.py", ""),
]


@pytest.mark.parametrize(("check", "path", "text"), GOOD)
def test_check_lets_pass(check: Check, path: str, text: str) -> None:
    assert not list(check(Module(path, text)))


def test_dead_modules_are_found() -> None:
    modules = [
        Module("vmm/cli/__init__.py", "import_module(f'vmm.cli.{name}')"),
        Module("vmm/cli/run.py", "from vmm.a import b"),
        Module("vmm/a/b.py", "from .c import d"),
        Module("vmm/a/c.py", ""),
        Module("vmm/a/alone.py", "import vmm.a.alone"),
        Module("vmm/bugs/stale.py", ""),
        Module("vmm/bugs/_unused.py", ""),
        Module("tests/test_alone.py", "import vmm.a.alone"),
    ]
    found = list(dead_modules(modules, entry_points()))
    assert [text.partition(":")[0] for text in found] == ["vmm/a/alone.py", "vmm/bugs/_unused.py"]
