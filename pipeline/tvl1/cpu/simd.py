"""Sixteen float32 values as one Numba value, so that speed does not depend on auto-vectorisation.

LLVM turns these operations into what the processor has: one AVX-512 instruction, two of AVX, four
of SSE. None may be reordered, contracted or approximated, so every processor gives the same bits.
"""

import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.extending import intrinsic, models, overload, register_model

from flowcpc.pipeline.tvl1.constants import LARGEST_COUNT

LANES = 16
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_LONGS = ir.VectorType(ir.IntType(64), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)
_FOUR = ir.VectorType(ir.FloatType(), 4)
_INTERLEAVED = ir.VectorType(ir.FloatType(), 4 * LANES)


class VectorType(types.Type):
    """Numba's type of LANES numbers."""


floats, longs = VectorType("floats"), VectorType("longs")
_LLVM = {floats: _FLOATS, longs: _LONGS}
register_model(VectorType)(lambda manager, kind: models.PrimitiveModel(manager, kind, _LLVM[kind]))


def _typed(result: Any, *parameters: Any) -> Callable[[Callable[..., Any]], Any]:
    """Let kernels call a function that builds LLVM code from (builder, *values or addresses)."""

    def decorate(build: Callable[..., Any]) -> Any:
        @functools.wraps(build)
        def typed(typingctx, *given):
            def codegen(context, builder, signature, values):
                values = [
                    context.make_array(kind)(context, builder, value=value).data
                    if isinstance(kind, types.Array)
                    else value
                    for kind, value in zip(signature.args, values, strict=True)
                ]
                built = build(builder, *values)
                if built is None:
                    return context.get_dummy_value()
                return context.make_tuple(builder, result, built) if type(built) is list else built

            pairs = zip(parameters, given, strict=True)
            kinds = [own if kind is types.Array else kind for kind, own in pairs]
            return result(*kinds), codegen

        return intrinsic(typed)

    return decorate


def _address(builder: ir.IRBuilder, data: ir.Value, index: ir.Value, kind: ir.Type) -> ir.Value:
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


def _shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, lanes: Iterable[int]) -> ir.Value:
    order = list(lanes)
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order)
    return builder.shuffle_vector(a, b, mask)


def _broadcast(builder: ir.IRBuilder, scalar: ir.Value, vector: ir.VectorType) -> ir.Value:
    undefined, first = ir.Constant(vector, ir.Undefined), ir.Constant(ir.IntType(32), 0)
    single = builder.insert_element(undefined, scalar, first)
    return _shuffle(builder, single, single, [0] * LANES)


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, args: Any) -> ir.Value:
    function = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), args)


def _constant(value: float) -> ir.Constant:
    return ir.Constant(_FLOATS, [value] * LANES)


@_typed(floats, types.Array, types.intp)
def load(builder, data, index):
    """Return the LANES values of an array from flat `index` on."""
    return builder.load(_address(builder, data, index, _FLOATS), align=4)


@_typed(types.void, types.Array, types.intp, floats)
def store(builder, data, index, value):
    """Write LANES values to an array from flat `index` on."""
    builder.store(value, _address(builder, data, index, _FLOATS), align=4)


@_typed(floats, types.float32)
def splat(builder, scalar):
    """Return a vector whose lanes are all `scalar`."""
    return _broadcast(builder, scalar, _FLOATS)


_binary, _unary = _typed(floats, floats, floats), _typed(floats, floats)
add = _binary(lambda builder, a, b: builder.fadd(a, b))
subtract = _binary(lambda builder, a, b: builder.fsub(a, b))
multiply = _binary(lambda builder, a, b: builder.fmul(a, b))
divide = _binary(lambda builder, a, b: builder.fdiv(a, b))
minimum = _binary(lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), a, b))
maximum = _binary(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))
sqrt = _unary(lambda builder, value: _call(builder, f"llvm.sqrt.v{LANES}f32", _FLOATS, [value]))
floor = _unary(lambda builder, value: _call(builder, f"llvm.floor.v{LANES}f32", _FLOATS, [value]))


def _overload(symbol: Any, function: Any) -> None:
    @overload(symbol)
    def typed(a, b):
        return (lambda a, b: function(a, b)) if a == floats and b == floats else None


_overload(operator.add, add)
_overload(operator.sub, subtract)
_overload(operator.mul, multiply)
_overload(operator.truediv, divide)

# ramp(): 0, 1, 2 and so on. no_count(): zero lanes of int64, to add to with `count`.
ramp = _typed(floats)(lambda builder: ir.Constant(_FLOATS, [float(k) for k in range(LANES)]))
no_count = _typed(longs)(lambda builder: ir.Constant(_LONGS, [0] * LANES))


@_binary
def inverse_above(builder, value, limit):
    """Return 1 / value where value > limit, else 0."""
    inverse = builder.fdiv(_constant(1.0), value)
    return builder.select(builder.fcmp_ordered(">", value, limit), inverse, _constant(0.0))


@_typed(types.void, types.Array, types.intp, floats, floats, types.int32, types.int32)
def store_addresses(builder, data, index, rows, columns, row_step, column_step):
    """Write rows * row_step + columns * column_step, of whole numbers in floats, as int32."""
    row_steps, column_steps = (_broadcast(builder, step, _INTS) for step in (row_step, column_step))
    down = builder.mul(builder.fptosi(rows, _INTS), row_steps)
    addresses = builder.add(down, builder.mul(builder.fptosi(columns, _INTS), column_steps))
    builder.store(addresses, _address(builder, data, index, _INTS), align=4)


@_typed(longs, longs, floats)
def count(builder, total, value):
    """Return total + value, int64; `value` >= 0 is truncated, and capped just below 2^31."""
    cap = _constant(LARGEST_COUNT)
    capped = builder.select(builder.fcmp_ordered("<", value, cap), value, cap)
    return builder.add(total, builder.zext(builder.fptosi(capped, _INTS), _LONGS))


@_typed(types.int64, longs)
def counted(builder, total):
    """Return the sum of the lanes of a count, int64."""
    return _call(builder, f"llvm.vector.reduce.add.v{LANES}i64", ir.IntType(64), [total])


@_typed(floats, types.Array, types.intp)
def load_spread(builder, data, index):
    """Return four values of an array, a b c d, each in four lanes: a a a a b b b b ..."""
    four = builder.load(_address(builder, data, index, _FOUR), align=4)
    return _shuffle(builder, four, four, (lane // 4 for lane in range(LANES)))


@_typed(types.void, types.Array, types.intp, floats)
def store_folded(builder, data, index, value):
    """Write four sums: of lanes 0 4 8 12, then 1 5 9 13 and so on, each as (0 + 8) + (4 + 12)."""
    for lanes in (8, 4):
        low = _shuffle(builder, value, value, range(lanes))
        value = builder.fadd(low, _shuffle(builder, value, value, range(lanes, 2 * lanes)))
    builder.store(value, _address(builder, data, index, _FOUR), align=4)


@_typed(types.void, types.Array, types.intp, floats, floats, floats, floats)
def store_interleaved(builder, data, index, a, b, c, d):
    """Write 4 * LANES values: a's first, b's first, c's first, d's first, a's second and so on."""
    low = _shuffle(builder, a, b, range(2 * LANES))
    high = _shuffle(builder, c, d, range(2 * LANES))
    order = [vector * LANES + lane for lane in range(LANES) for vector in range(4)]
    mixed = _shuffle(builder, low, high, order)
    builder.store(mixed, _address(builder, data, index, _INTERLEAVED), align=4)


@_typed(types.UniTuple(floats, 4), types.Array, types.intp)
def load_interleaved(builder, data, index):
    """Return the four vectors that `store_interleaved` wrote."""
    mixed = builder.load(_address(builder, data, index, _INTERLEAVED), align=4)
    return [_shuffle(builder, mixed, mixed, range(first, 4 * LANES, 4)) for first in range(4)]
