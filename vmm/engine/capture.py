"""The local state of a suspended coroutine as one hashable key, read without changing it.

Two captures are equal only if the coroutines will do the same from here on, whatever results they
are sent. What has no such key is refused by name.

What is awaited now is followed from the outermost coroutine in. Each level gives its code, the
offset of its last instruction, and its locals and value stack, which ``gc.get_referents`` of the
coroutine lists in order. (Of its *frame* it lists nothing: keys would lose the locals.)

The referents leave NULL slots out. For locals, the frame's names say which. On the stack, the
offset says where NULLs stand, except for two things: calls of methods (method and self, or NULL
and a callable), which the number of referents tells apart, and the variables that an inlined
comprehension sets aside: see ``CodeFacts.hidden_at``.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import types
from collections.abc import Coroutine, Generator, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

from vmm.engine.capture_code import CodeFacts
from vmm.engine.capture_values import FAILURES, OpKey, Reader, Registry, Wrapper, reason_of
from vmm.errors import CaptureRefused, UsageError

__all__ = ["Registry", "Remembered", "capture", "close", "self_test", "value_key"]

Remembered = list[tuple[object, object, Hashable]]
"""Levels of one coroutine's last capture: whose, what it awaited, and its key, or None.

A level that still awaits the same object has not run since. Its key is the same again if nothing
that was read there can change or is numbered.
"""


def capture(
    coro: Coroutine[Any, Any, object] | Generator[Any, Any, object],
    registry: Registry,
    *,
    op_key: OpKey | None = None,
    remembered: Remembered | None = None,
) -> Hashable:
    """The key of ``coro``, which must be suspended at an op.

    ``op_key`` is asked first about objects of classes that are not built in; None or
    NotImplemented means that the object is not its own. With ``remembered``, which is empty at
    first, only the levels that ran since the last capture of that coroutine are read.
    """
    levels = _levels(coro)
    reader = Reader(registry, op_key, _chain(levels))
    if remembered is None:
        return tuple([_level_key(level, reader) for level in levels])
    keys = []
    for depth, level in enumerate(levels):
        owner, awaited, key = remembered[depth] if depth < len(remembered) else _NOT_YET
        ran = owner is not level.owner or awaited is not level.awaited
        if ran or key is None:
            reader.lasting = True
            key = _level_key(level, reader)
        if ran:
            remembered[depth:] = [(level.owner, level.awaited, key if reader.lasting else None)]
        keys.append(key)
    return tuple(keys)


_NOT_YET = (None, None, None)


def value_key(value: object, registry: Registry, where: str = "a value") -> Hashable:
    """The same key for one plain value; ``where`` names it if it is refused."""
    try:
        return Reader(registry).read(value)
    except FAILURES as failure:
        raise CaptureRefused(f"{where}: {reason_of(failure)}") from None


_CLOSINGS = 1000


def close(coro: Coroutine[Any, Any, object]) -> None:
    """Close a discarded coroutine, although its cleanup may publish ops.

    Each ``close`` ends one such op; what the cleanup raises concerns nobody any more.
    """
    for _ in range(_CLOSINGS):
        with contextlib.suppress(Exception):
            coro.close()
        if getattr(coro, "cr_frame", None) is None:
            return
    name = getattr(coro, "__qualname__", "of a task")
    raise UsageError(f"function {name} does not end when it is closed; let GeneratorExit pass")


# --- levels: what is awaited now, from the outermost coroutine in ---


class _Level(NamedTuple):
    """A suspended coroutine or generator, and what it awaits: None where the op is published."""

    owner: object
    frame: types.FrameType
    awaited: object

    def refusal(self, subject: str, reason: str) -> CaptureRefused:
        where = f"function {self.frame.f_code.co_qualname}, line {self.frame.f_lineno}"
        return CaptureRefused(f"{subject} in {where}: {reason}")


def _levels(coro: object) -> list[_Level]:
    levels: list[_Level] = []
    owner = coro
    while owner is not None:
        level = _level(owner)
        if level is None:
            raise _not_suspended(owner, levels)
        levels.append(level)
        owner = level.awaited
        if type(owner) is Wrapper:
            (owner,) = gc.get_referents(owner)
    return levels


def _chain(levels: Sequence[_Level]) -> list[object]:
    """All that is awaited, each once."""
    chain: list[object] = []
    for level in levels:
        if not chain or level.owner is not chain[-1]:
            chain.append(level.owner)
        chain.append(level.awaited)
    return chain


def _level(owner: object) -> _Level | None:
    if isinstance(owner, types.CoroutineType):
        frame, awaited, suspended = owner.cr_frame, owner.cr_await, owner.cr_suspended
    elif isinstance(owner, types.GeneratorType):
        frame, awaited, suspended = owner.gi_frame, owner.gi_yieldfrom, owner.gi_suspended
    else:
        return None
    return _Level(owner, frame, awaited) if suspended and frame is not None else None


def _not_suspended(owner: object, above: Sequence[_Level]) -> CaptureRefused:
    if above:
        return above[-1].refusal(
            "an await", f"a {type(owner).__qualname__} has no frame to read; await a coroutine"
        )
    name = getattr(owner, "__qualname__", type(owner).__qualname__)
    return CaptureRefused(f"function {name} is not suspended at an op")


def _level_key(level: _Level, reader: Reader) -> Hashable:
    """Code, place, which locals are unbound, then every value in the order of its slot."""
    values = _slots(level)
    facts = reader.registry.facts(level.frame.f_code)
    bound, offset = level.frame.f_locals, level.frame.f_lasti
    if facts.ambiguous and (hidden := facts.hidden_at(offset)):
        raise level.refusal(
            f"variables {', '.join(map(repr, hidden))}",
            "a comprehension around an op hides which of them are bound outside it; "
            "give it names of its own",
        )
    unbound = tuple([name for name in facts.names if name not in bound])
    try:
        return (facts.label, offset, unbound, *map(reader.read, values))
    except FAILURES as failure:
        raise level.refusal(_culprit(level, facts, reader), reason_of(failure)) from None


def _slots(level: _Level) -> list[object]:
    """Locals, then the value stack without what is awaited; NULL slots are left out."""
    values = gc.get_referents(level.owner)
    # Names, frame and function come first, and the code that the frame runs ends them. (Up to
    # 3.11 the same code stands at the very beginning too.)
    del values[: values.index(level.frame.f_code, 1) + 1]
    if level.awaited is None:
        return values
    # What is awaited is on top. The exception that is being handled follows: None once it was.
    handled = None if values[-1] is level.awaited else values.pop()
    if isinstance(handled, BaseException):
        raise level.refusal(
            "a live exception",
            "an op in except, or in finally on the way out, keeps it and its frames alive; "
            "leave the block first",
        )
    if handled is not None or values.pop() is not level.awaited:
        raise level.refusal("the value stack", "this interpreter does not show it in order")
    return values


def _culprit(level: _Level, facts: CodeFacts, reader: Reader) -> str:
    """The first local that leads to what cannot be read."""
    bound = level.frame.f_locals
    for name in facts.names:
        if name in bound:
            try:
                reader.fresh().read(bound[name])
            except FAILURES:
                return f"variable {name!r}"
    return "a value on the stack"


# --- what the interpreter must show ---


@types.coroutine
def _op() -> Generator[None, Any, Any]:
    return (yield)


async def _loop(items: Sequence[int]) -> None:
    for item in items:
        del item
        await _op()


async def _sum() -> int:
    return (await _op()) + (await _op())  # type: ignore[no-any-return]


async def _handle() -> None:
    try:
        int("")
    except ValueError:
        await _op()


def _key_after(coro: Coroutine[Any, Any, object], *results: int) -> Hashable:
    for result in (None, *results):
        coro.send(result)
    try:
        return capture(coro, Registry())
    except CaptureRefused:
        return None
    finally:
        close(coro)


def _hidden() -> Iterator[str]:
    """What this interpreter does not show; later ones keep small ints that are no objects."""
    for items in (range(2), (7, 7), [7, 7]):
        if _key_after(_loop(items)) == _key_after(_loop(items), 0):
            yield f"the place of a loop over a {type(items).__name__}"
    if _key_after(_sum(), 1) == _key_after(_sum(), 2) or _key_after(_sum(), 1) is None:
        yield "half evaluated expressions"
    if _key_after(_sum(), 1) != _key_after(_sum(), 1):
        yield "equal states as equal"
    if _key_after(_handle()) is not None:
        yield "exceptions that are being handled"


def self_test() -> str | None:
    """None if this interpreter shows all that a capture needs; else in one line what it hides."""
    interpreter = f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor}"
    try:
        hidden = next(_hidden(), None)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong, live runs must go on
        hidden = f"coroutines at all ({type(error).__name__}: {error})"
    return hidden and f"{interpreter} does not show {hidden}; search needs another interpreter"
