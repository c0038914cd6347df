"""What a capture needs to know of a code object, found once for each."""

from __future__ import annotations

import dis
import hashlib
import inspect
import itertools
import types
from collections.abc import Iterator, Sequence
from typing import NamedTuple

Span = tuple[tuple[int, int], tuple[int, int]]


class CodeFacts(NamedTuple):
    """Facts of one code object, which is held so that nothing else can take its identity."""

    code: types.CodeType
    label: str
    """Equal for two code objects only if they do the same; the same in every process."""
    names: tuple[str, ...]
    """The local slots, in their order."""
    ambiguous: tuple[tuple[Span | None, tuple[str, ...]], ...]
    """Comprehensions (None: place unknown) and those of their variables that hide each other."""

    @classmethod
    def of(cls, code: types.CodeType) -> CodeFacts:
        digest = hashlib.blake2b(_text(code).encode("utf-8", "surrogatepass"), digest_size=12)
        cells = [name for name in code.co_cellvars if name not in code.co_varnames]
        return cls(
            code,
            f"{code.co_qualname}:{code.co_firstlineno}:{digest.hexdigest()}",
            (*code.co_varnames, *cells, *code.co_freevars),
            tuple(_ambiguous(code)),
        )

    def hidden_at(self, offset: int) -> tuple[str, ...]:
        """Variables of which the value stack does not show, at ``offset``, whether they are set."""
        for span, names in self.ambiguous:
            at = next(itertools.islice(self.code.co_positions(), offset // 2, None))
            if span is None or _within(_span(at), span):
                return names
        return ()


def _text(code: types.CodeType) -> str:
    place = (code.co_filename, code.co_qualname, code.co_firstlineno)
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_cellvars, code.co_freevars)
    body = (code.co_code, code.co_exceptiontable)
    return repr((place, counts, names, body, _constant_text(code.co_consts)))


def _constant_text(constant: object) -> str:
    match constant:
        case types.CodeType():
            return _text(constant)
        case tuple():
            return f"({', '.join(map(_constant_text, constant))})"
        case frozenset():
            return f"{{{', '.join(sorted(map(_constant_text, constant)))}}}"
    return repr(constant)


def _ambiguous(code: types.CodeType) -> Iterator[tuple[Span | None, tuple[str, ...]]]:
    """Inlined comprehensions that set several variables aside which may be bound outside.

    They push the outer values of their variables on the stack, NULL for an unbound one. If that is
    one variable, the number of values tells; of two, nothing tells which one a value belongs to.
    """
    clear = dis.opmap.get("LOAD_FAST_AND_CLEAR")
    if clear is None or clear not in code.co_code[::2]:
        return
    steps = list(dis.get_instructions(code))
    aside: dict[Span | None, list[str]] = {}
    for step in steps:
        if step.opcode == clear:
            aside.setdefault(_span(step.positions), []).append(step.argval)
    outside = dict.fromkeys(_arguments(code))
    for step in steps:
        if step.opname.startswith("STORE_FAST"):
            span = _span(step.positions)
            for name in step.argval if isinstance(step.argval, tuple) else (step.argval,):
                if not any(name in aside[around] and _within(span, around) for around in aside):
                    outside[name] = None
    for span, names in aside.items():
        both = tuple([name for name in names if name in outside])
        if len(both) > 1:
            yield span, both


def _arguments(code: types.CodeType) -> tuple[str, ...]:
    stars = code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + stars.bit_count()]


def _span(positions: Sequence[int | None] | None) -> Span | None:
    """Start and end in the source; None where columns were left out (-X no_debug_ranges)."""
    match positions:
        case (int(line), int(end_line), int(column), int(end_column)):
            return (line, column), (end_line, end_column)
    return None


def _within(inner: Span | None, outer: Span | None) -> bool:
    return bool(inner and outer and outer[0] <= inner[0] and inner[1] <= outer[1])
