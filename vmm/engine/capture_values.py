"""Plain values as hashable keys that are equal only if the values are interchangeable.

A key consists of ints, strings and None, which stand for themselves, and of tuples that begin with
a tag; so 1, True and 1.0 never meet, whatever ``==`` says of them. A value that can be told from an
equal one by identity is numbered when it is first met, and is a back-reference after that.

What has no such key is refused, with the reason.
"""

from __future__ import annotations

import enum
import functools
import gc
import itertools
import math
import operator
import struct
import sys
import types
import typing
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from vmm.engine.capture_code import CodeFacts

OpKey = Callable[[object], Hashable]
RECALLED = 1 << 16
"""Values whose keys are kept; then all of them are dropped."""
Handler = Callable[["Reader", Any], Hashable]

# Only to ask whether two names mean one object: whoever keeps such a number keeps the object too,
# because freed ones are reused, and no number of this kind ever enters a key.
_identity = id


class Registry:
    """Objects that stand by identity, and what captures remember of the code and classes they met.

    Registered objects must be frozen: a capture does not look inside.
    """

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._entries: list[tuple[object, str]] = []
        self._codes: dict[int, CodeFacts] = {}
        self._handlers: dict[type, Handler] = {}
        self.recalled: dict[int, tuple[object, Hashable]] = {}

    def add(self, obj: object, name: str) -> int:
        """Register ``obj``; its number is the same however often that is done."""
        number = self._numbers.setdefault(_identity(obj), len(self._entries))
        if number == len(self._entries):
            self._entries.append((obj, name))
            self.recalled.clear()
        return number

    def number_of(self, obj: object) -> int | None:
        return self._numbers.get(_identity(obj))

    def name_of(self, number: int) -> str:
        return self._entries[number][1]

    def recall(self, value: object, key: Hashable) -> None:
        """Keep the key of a value that cannot change, and the value: its identity stays its own.

        Ops are never among them, which have no key but the one that ``op_key`` gives.
        """
        if len(self.recalled) == RECALLED:
            self.recalled.clear()
        self.recalled[_identity(value)] = value, key

    def facts(self, code: types.CodeType) -> CodeFacts:
        """What captures need to know of ``code``."""
        facts = self._codes.get(_identity(code))
        if facts is None:
            facts = self._codes[_identity(code)] = CodeFacts.of(code)
        return facts

    def handler(self, kind: type) -> Handler:
        """What reads the instances of a class that is not built in."""
        handler = self._handlers.get(kind)
        if handler is None:
            handler = self._handlers[kind] = _classify(kind, self)
        return handler


class Unreadable(Exception):
    """A value without an exact key; the text says why."""


FAILURES = (Unreadable, RecursionError)


def reason_of(failure: Exception) -> str:
    """Why a value was refused, for one of FAILURES."""
    return str(failure) if isinstance(failure, Unreadable) else "it is nested too deeply"


class Reader:
    """One capture: numbers what it meets, so that aliases show.

    ``chain`` is what it has met already, each once: the coroutines that are being awaited.
    ``lasting`` stays true as long as nothing is read that can change, or whose key depends on what
    was met before.
    """

    __slots__ = ("_chain", "_met", "_op_key", "_recalled", "lasting", "registry")

    def __init__(
        self, registry: Registry, op_key: OpKey | None = None, chain: Sequence[object] = ()
    ) -> None:
        self.registry = registry
        self.lasting = True
        self._recalled = registry.recalled
        self._op_key = op_key
        self._chain = chain
        self._met = {_identity(link): (number, link) for number, link in enumerate(chain)}

    def _meet(self, value: object) -> None:
        # Temporaries are met too; holding them keeps their identity from being used again.
        self._met.setdefault(_identity(value), (len(self._met), value))

    def fresh(self) -> Reader:
        return Reader(self.registry, self._op_key, self._chain)

    def read(self, value: object) -> Hashable:
        kind = type(value)
        if kind is int or kind is str or value is None:
            return value
        known = self._recalled.get(_identity(value))
        if known is not None:
            return known[1]
        before, self.lasting = self.lasting, True
        key = self._key_of(value, kind)
        if self.lasting:
            self.registry.recall(value, key)
            self.lasting = before
        return key

    def _key_of(self, value: object, kind: type) -> Hashable:
        if (plain := _PLAIN.get(kind)) is not None:
            return plain(self, value)
        number = self.registry.number_of(value)
        if number is not None:
            return ("registered", number)
        met = self._met.get(_identity(value))
        if met is not None:
            self.lasting = False
            return ("met", met[0])
        if (shared := _SHARED.get(kind)) is not None:
            self.lasting = False
            self._meet(value)
            return shared(self, value)
        if self._op_key is not None:
            key = self._op_key(value)
            if key is not None and key is not NotImplemented:
                self.lasting = False
                return ("op", key)
        return self.registry.handler(kind)(self, value)


# --- plain values: immutable, so an equal one is as good ---


def _float(reader: Reader, value: float) -> Hashable:
    if math.isnan(value):
        raise Unreadable("nan is not equal to itself; use None")
    return ("float", value.hex())


def _complex(reader: Reader, value: complex) -> Hashable:
    return ("complex", _float(reader, value.real), _float(reader, value.imag))


def _tuple(reader: Reader, value: tuple[object, ...]) -> Hashable:
    return ("tuple", *map(reader.read, value))


_PLAIN: dict[type, Handler] = {
    bool: lambda _, value: ("bool", int(value)),
    float: _float,
    complex: _complex,
    bytes: lambda _, value: ("bytes", value),
    tuple: _tuple,
    range: lambda _, value: ("range", value.start, value.stop, value.step),
    slice: lambda reader, value: (
        "slice",
        *map(reader.read, (value.start, value.stop, value.step)),
    ),
    types.EllipsisType: lambda *_: ("Ellipsis",),
    types.NotImplementedType: lambda *_: ("NotImplemented",),
}


# --- shared values: mutable, or told apart by identity ---


def _list(reader: Reader, value: list[object]) -> Hashable:
    return ("list", *map(reader.read, value))


def _dict(reader: Reader, value: dict[object, object]) -> Hashable:
    return ("dict", *map(reader.read, itertools.chain.from_iterable(value.items())))


def _cell(reader: Reader, cell: types.CellType) -> Hashable:
    try:
        content = cell.cell_contents
    except ValueError:
        return ("cell",)
    return ("cell", reader.read(content))


def _function(reader: Reader, function: types.FunctionType) -> Hashable:
    parts = (
        function.__defaults__,
        function.__kwdefaults__,
        function.__dict__ or None,
        *(function.__closure__ or ()),
    )
    return ("function", reader.registry.facts(function.__code__).label, *map(reader.read, parts))


def _builtin(reader: Reader, function: types.BuiltinFunctionType) -> Hashable:
    owner = function.__self__
    if owner is None or isinstance(owner, types.ModuleType):
        return ("builtin", function.__module__, function.__qualname__)
    return ("builtin method", function.__qualname__, reader.read(owner))


def _descriptor(reader: Reader, method: types.MethodDescriptorType) -> Hashable:
    return ("descriptor", _class_key(method.__objclass__, reader.registry), method.__name__)


def _new_type(reader: Reader, new_type: typing.NewType) -> Hashable:
    # Called, it gives back its argument: ``Gfn(await cell)`` keeps it on the stack.
    del reader
    return ("new type", new_type.__module__, new_type.__name__)


def _partial(reader: Reader, value: functools.partial[object]) -> Hashable:
    parts = (value.func, value.args, value.keywords, value.__dict__ or None)
    return ("partial", *map(reader.read, parts))


def _iterator(reader: Reader, iterator: Any) -> Hashable:
    # These show all of their state in this way, and do not advance.
    return (type(iterator).__name__, *map(reader.read, iterator.__reduce__()[1:]))


def _dict_iterator(reader: Reader, iterator: Any) -> Hashable:
    # By its dict and what is left of it: an iterator over the values alone would lose the alias.
    # Where the dict changed at equal size, the two counts part as soon as the change moved it.
    name = type(iterator).__name__
    held = [value for value in gc.get_referents(iterator) if isinstance(value, dict)]
    if not held:
        return (name,)  # an exhausted one lets go of its dict
    left = operator.length_hint(iterator)
    try:
        seen = len(iterator.__reduce__()[1][0])  # walks a copy
    except RuntimeError:
        seen = -1
    if seen != left:
        raise Unreadable("a dict changed while it is iterated over; iterate over a list of it")
    return (name, reader.read(held[0]), left)


def _ended(reader: Reader, value: Any) -> Hashable:
    """A coroutine or generator that has ended can do nothing any more, whatever it was."""
    frame = value.cr_frame if isinstance(value, types.CoroutineType) else value.gi_frame
    if frame is not None:
        raise Unreadable(f"a {type(value).__name__} that is not awaited now; await it at once")
    return (type(value).__name__, value.__qualname__)


def _wrapper(reader: Reader, wrapper: object) -> Hashable:
    return ("wrapper", *map(reader.read, gc.get_referents(wrapper)))


async def _nothing() -> None:
    """Awaits nothing."""


def _wrapper_type() -> type:
    coro = _nothing()
    wrapper = coro.__await__()
    coro.close()
    return type(wrapper)


Wrapper = _wrapper_type()  # what coro.__await__() returns; Python has no other name for it


_ITERATORS = (
    *map(type, (iter(range(0)), iter(range(1 << 99)), iter(()), iter([]), reversed([]))),
    *map(type, (iter(""), iter("\xe9"), iter(b""))),
    *(enumerate, filter, map, reversed, zip),
)
_DICT_ITERATORS = tuple(map(type, (iter({}), iter({}.values()), iter({}.items()))))

_SHARED: dict[type, Handler] = {
    list: _list,
    dict: _dict,
    types.CellType: _cell,
    types.FunctionType: _function,
    types.MethodType: lambda reader, value: (
        "method",
        *map(reader.read, (value.__func__, value.__self__)),
    ),
    types.BuiltinFunctionType: _builtin,
    types.MethodDescriptorType: _descriptor,
    types.WrapperDescriptorType: _descriptor,
    types.CoroutineType: _ended,
    types.GeneratorType: _ended,
    Wrapper: _wrapper,
    functools.partial: _partial,
    typing.NewType: _new_type,
    **dict.fromkeys(_ITERATORS, _iterator),
    **dict.fromkeys(_DICT_ITERATORS, _dict_iterator),
}


# --- instances and classes ---

# Asked of a subclass, these give the value without running code of the subclass.
_EXACT: dict[type, Callable[[Any], object]] = {
    int: int.__index__,
    str: str.__str__,
    float: float.__float__,
    bytes: bytes.__bytes__,
    tuple: lambda value: tuple.__getitem__(value, slice(None)),
}


def _classify(kind: type, registry: Registry) -> Handler:
    """How to read the instances of ``kind``: classes, enum members, subclasses, frozen records."""
    if issubclass(kind, type):
        return lambda _, value: ("class", _class_key(value, registry))
    if issubclass(kind, enum.Enum):
        return functools.partial(_member, _class_key(kind, registry))
    base = next((base for base in _EXACT if issubclass(kind, base)), None)
    members = [
        member
        for owner in kind.__mro__
        for member in vars(owner).values()
        if isinstance(member, types.MemberDescriptorType)
    ]
    if base is not None and not members:
        return functools.partial(_subclass, _class_key(kind, registry), _EXACT[base])
    params = vars(kind).get("__dataclass_params__")
    if params and params.frozen and params.eq and _holds_nothing_else(kind, len(members)):
        return functools.partial(_record, _class_key(kind, registry), members)
    config = getattr(kind, "__struct_config__", None)
    if config is not None and config.frozen and config.eq:
        fields: tuple[str, ...] = kind.__struct_fields__  # type: ignore[attr-defined]
        return functools.partial(_struct, _class_key(kind, registry), fields)
    raise Unreadable(_REASONS.get(kind) or _reason_against(kind))


def _member(name: Hashable, reader: Reader, member: enum.Enum) -> Hashable:
    if type(member).__members__.get(member._name_) is member:
        return ("enum", name, member._name_)
    return ("flags", name, reader.read(member._value_))


def _subclass(
    name: Hashable, exact: Callable[[Any], object], reader: Reader, value: Any
) -> Hashable:
    if getattr(value, "__dict__", None):
        raise Unreadable(_reason_against(type(value)))
    return ("instance", name, reader.read(exact(value)))


def _record(
    name: Hashable, members: Sequence[types.MemberDescriptorType], reader: Reader, record: object
) -> Hashable:
    slots = [_slot(reader, member, record) for member in members]
    fields = sorted(getattr(record, "__dict__", {}).items())
    return ("record", name, *slots, *[(field, reader.read(value)) for field, value in fields])


def _struct(name: Hashable, fields: Sequence[str], reader: Reader, record: object) -> Hashable:
    """A frozen msgspec.Struct: all of it is in its fields."""
    return ("struct", name, *[reader.read(getattr(record, field)) for field in fields])


def _slot(reader: Reader, member: types.MemberDescriptorType, record: object) -> Hashable:
    try:
        value = member.__get__(record)
    except AttributeError:
        return ("unset",)
    return ("set", reader.read(value))


def _holds_nothing_else(kind: type, members: int) -> bool:
    """Whether slots and a dict are all there is: not so for a class that extends one of C's."""
    pointers = members + (kind.__weakrefoffset__ > 0) + (kind.__dictoffset__ > 0)
    size = object.__basicsize__ + pointers * struct.calcsize("P")
    return not kind.__itemsize__ and kind.__basicsize__ <= size


def _class_key(kind: type, registry: Registry) -> Hashable:
    """The name, if it leads back to the class; two local classes can share one."""
    number = registry.number_of(kind)
    if number is not None:
        return ("registered", number)
    found: object = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is kind:
        return f"{kind.__module__}.{kind.__qualname__}"
    raise Unreadable(
        f"class {kind.__qualname__} is not what its module has under that name; "
        "define it at the top level, or register it"
    )


_REASONS: dict[type, str] = {
    set: "a set has no stable order; keep a sorted tuple, or a dict",
    frozenset: "a frozenset has no stable order; keep a sorted tuple",
    types.AsyncGeneratorType: "an async generator cannot be read; write a coroutine that loops",
    types.ModuleType: "a module is not local state; import it at the top level",
}


def _reason_against(kind: type) -> str:
    name = kind.__qualname__
    if issubclass(kind, BaseException):
        return f"{name} is an exception, which keeps frames alive; keep what it says instead"
    return f"a {name} is neither plain (ints, tuples, lists, frozen records ...) nor registered"
