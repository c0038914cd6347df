"""``kernels.prefetch`` for numba: an instruction that brings memory near and waits for nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic

READ, KEEP, DATA = 0, 3, 1
"""What LLVM is told: it will be read, several times, and is no code."""


def prefetch(table: Any, slot: Any) -> Callable[..., Any]:
    """What numba compiles a call of ``kernels.prefetch`` with these types to."""

    def called(table: Any, slot: Any) -> None:
        _prefetch(table, slot)  # type: ignore[call-arg]  # numba gives the first one

    return called


@intrinsic
def _prefetch(_: Any, table: Any, slot: Any) -> tuple[Any, Callable[..., Any]]:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        wanted = builder.bitcast(builder.gep(array.data, [args[1]]), pointer)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        builder.call(function, [wanted, number(READ), number(KEEP), number(DATA)])
        return context.get_dummy_value()

    return types.void(table, slot), generate
