"""Worlds: cells, tasks and monitors, wired once and then only run, replayed or searched."""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, TypeVar

from vmm.engine.capture import Registry
from vmm.engine.cells import Cell, CellArray, Guard, Lock
from vmm.engine.events import EventSpec
from vmm.engine.monitor import Monitor
from vmm.engine.task import Program, Task, TaskKind
from vmm.errors import UsageError

V = TypeVar("V", bound=Hashable)
C = TypeVar("C", bound=Cell[Any])

STEP_BUDGET = 1_000_000
"""Far above what the programs of a test take."""

_CONSTANTS = (
    int, str, bytes, float, bool, type(None), enum.Enum, type, ModuleType, Cell, CellArray,
)  # fmt: skip


class ModelObject:
    """Base of what a machine is made of: holds only cells, constants and other model objects.

    Frozen once its world is built; tasks may then keep it in locals.
    """

    _frozen = False

    def __setattr__(self, name: str, value: object) -> None:
        if self._frozen:
            raise UsageError(
                f"{type(self).__name__}.{name} cannot be changed: model objects are frozen once "
                "the world is built; keep what changes in a cell"
            )
        super().__setattr__(name, value)

    def freeze(self) -> None:
        """Forbid further changes."""
        super().__setattr__("_frozen", True)


class World:
    """Cells, tasks, monitors and goals, with the registry of model objects.

    Build it, then ``freeze`` it. Cells of sparse arrays may still be made at first touch; they
    hold their initial value in every state that never touched them.
    """

    def __init__(self, name: str = "world") -> None:
        self.name = name
        self.cells: list[Cell[Any]] = []
        self.tasks: list[Task] = []
        self.monitors: list[Monitor] = []
        self.goals: tuple[str, ...] = ()
        self.step_budget = STEP_BUDGET
        """Steps after which a live run gives up, so that a livelock ends."""
        self.registry = Registry()
        self.model: object = None
        """What the cells belong to: a machine, for tools that know it."""
        self.monitor_states: dict[str, Any] = {}
        self.live_memories: list[list[Any]] = []
        self._names: dict[str, None] = {}

    # --- building ---

    def cell(
        self,
        name: str,
        initial: V,
        *,
        guard: Guard = Guard.NONE,
        lock: Lock | None = None,
        marked: bool = False,
        observable: bool = True,
        buffered: bool = True,
        format: Callable[[Any], str] = repr,  # noqa: A002
    ) -> Cell[V]:
        """Make a cell. Names are unique: they are what traces and digests know a cell by."""
        made = Cell(
            name,
            initial,
            len(self.cells),
            guard=guard,
            lock=lock,
            marked=marked,
            observable=observable,
            buffered=buffered,
            format=format,
        )
        return self.add_cell(made)

    def lock(
        self,
        name: str,
        *,
        release_event: EventSpec = None,
        inside: tuple[Lock, ...] = (),
        outside: tuple[Lock, ...] = (),
    ) -> Lock:
        """Make a lock, with its place in the lock order."""
        made = Lock(
            name, len(self.cells), release_event=release_event, inside=inside, outside=outside
        )
        return self.add_cell(made)

    def array(
        self,
        name: str,
        default: V,
        *,
        label: Callable[[Any], str] | None = None,
        content: Mapping[Any, V] | None = None,
        guard: Guard = Guard.NONE,
        lock: Lock | None = None,
        marked: bool = False,
        observable: bool = True,
        buffered: bool = True,
        format: Callable[[Any], str] = repr,  # noqa: A002
    ) -> CellArray[Any, V]:
        """Make a sparse array of cells; ``label(key)`` names one (default: ``name[key]``)."""

        def make(cell_name: str, initial: V) -> Cell[V]:
            return self.cell(
                cell_name,
                initial,
                guard=guard,
                lock=lock,
                marked=marked,
                observable=observable,
                buffered=buffered,
                format=format,
            )

        made = CellArray(
            name, make, default, label=label or (lambda key: f"{name}[{key}]"), content=content
        )
        self.registry.add(made, name)
        return made

    def add_cell(self, made: C) -> C:
        """Take in a cell of any kind, made with the next number."""
        if made.name in self._names:
            raise UsageError(f"two cells are named {made.name!r}: give each its own name")
        self._names[made.name] = None
        self.cells.append(made)
        self.registry.add(made, made.name)
        for memory in self.live_memories:
            memory.append(made.initial)
        return made

    def task(
        self,
        name: str,
        program: Callable[..., Program],
        *args: object,
        kind: TaskKind = TaskKind.FOREGROUND,
    ) -> Task:
        """Add a task that runs ``program(*args)``."""
        for arg in args:
            self.register(arg, f"{name}'s argument")
        made = Task(len(self.tasks), name, kind, lambda: program(*args))
        self.tasks.append(made)
        return made

    # --- registration of model objects ---

    def register(self, root: object, name: str) -> None:
        """Register ``root`` and every model object it reaches; freeze them all."""
        if isinstance(root, ModelObject):
            if self.registry.number_of(root) is not None:
                return
            self.registry.add(root, name)
            for attribute, value in _attributes(root):
                self._check(value, f"{name}.{attribute}")
            root.freeze()

    def _check(self, value: object, where: str) -> None:
        if isinstance(value, ModelObject):
            self.register(value, where)
        elif isinstance(value, tuple):
            for number, item in enumerate(value):
                self._check(item, f"{where}[{number}]")
        elif isinstance(value, MappingProxyType):
            for key, item in value.items():
                self._check(item, f"{where}[{key!r}]")
        elif isinstance(value, _CONSTANTS) or callable(value):
            return
        elif not _is_frozen_record(value):
            raise UsageError(
                f"{where} is a {type(value).__name__}: a model object may hold only cells, "
                "constants, tuples, frozen records and other model objects"
            )


def _attributes(obj: ModelObject) -> list[tuple[str, object]]:
    return [(k, v) for k, v in sorted(vars(obj).items()) if k != "_frozen"]


def _is_frozen_record(value: object) -> bool:
    for name in ("__dataclass_params__", "__struct_config__"):
        params = getattr(type(value), name, None)
        if params is not None:
            return bool(params.frozen)
    return False
