"""Sixteen float32 values as one Numba value, so that a kernel's speed does not hang on a compiler's guess.

LLVM turns the vector operations below into whatever the processor has: one AVX-512 instruction, two of AVX, four of SSE. None of them may
be reordered, contracted or approximated, so the bits of a result are the same on every processor.
"""

import operator
from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.extending import intrinsic, models, overload, register_model

from flowcpc.pipeline.tvl1.constants import LARGEST_COUNT

LANES = 16
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_LONGS = ir.VectorType(ir.IntType(64), LANES)
_FOUR = ir.VectorType(ir.FloatType(), 4)
_INTS = ir.VectorType(ir.IntType(32), LANES)


class VectorType(types.Type):
    """Numba's type of LANES numbers."""

    def __init__(self, name: str, llvm: ir.VectorType) -> None:
        self.llvm = llvm
        super().__init__(name=name)


floats = VectorType(f"float32x{LANES}", _FLOATS)
longs = VectorType(f"int64x{LANES}", _LONGS)


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: VectorType) -> None:
        super().__init__(manager, fe_type, fe_type.llvm)


def _pointer(
    context: Any, builder: ir.IRBuilder, array_type: Any, array: ir.Value, index: ir.Value
) -> ir.Value:
    data = context.make_array(array_type)(context, builder, value=array).data
    return builder.bitcast(builder.gep(data, [index]), _FLOATS.as_pointer())


@intrinsic
def load(typingctx, array, index):
    """Return the LANES values of a C-contiguous float32 array from flat `index` on; nothing checks the bounds."""

    def codegen(context, builder, signature, args):
        return builder.load(_pointer(context, builder, signature.args[0], *args), align=4)

    return floats(array, types.intp), codegen


@intrinsic
def store(typingctx, array, index, value):
    """Write LANES values to a C-contiguous float32 array from flat `index` on; nothing checks the bounds."""

    def codegen(context, builder, signature, args):
        builder.store(args[2], _pointer(context, builder, signature.args[0], *args[:2]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, floats), codegen


def _shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, lanes: Iterable[int]) -> ir.Value:
    chosen = list(lanes)
    return builder.shuffle_vector(
        a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(chosen)), chosen)
    )


def _broadcast(builder: ir.IRBuilder, scalar: ir.Value, vector: ir.VectorType) -> ir.Value:
    single = builder.insert_element(
        ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0)
    )
    return _shuffle(builder, single, single, [0] * LANES)


@intrinsic
def splat(typingctx, scalar):
    """Return a vector whose lanes are all `scalar`."""

    def codegen(context, builder, signature, args):
        return _broadcast(builder, args[0], _FLOATS)

    return floats(types.float32), codegen


def _binary(build: Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]) -> Any:
    def operation(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return build(builder, *args)

        if a == floats and b == floats:
            return floats(floats, floats), codegen
        return None

    return intrinsic(operation)


_OPERATORS = {
    operator.add: _binary(lambda builder, a, b: builder.fadd(a, b)),
    operator.sub: _binary(lambda builder, a, b: builder.fsub(a, b)),
    operator.mul: _binary(lambda builder, a, b: builder.fmul(a, b)),
    operator.truediv: _binary(lambda builder, a, b: builder.fdiv(a, b)),
}
minimum = _binary(lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), a, b))
maximum = _binary(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


def _overload(symbol: Any, function: Any) -> None:
    @overload(symbol)
    def typed(a, b):
        if a == floats and b == floats:
            return lambda a, b: function(a, b)
        return None


for _symbol, _function in _OPERATORS.items():
    _overload(_symbol, _function)


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, args: Any) -> ir.Value:
    function = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), args)


def _unary(name: str) -> Any:
    def operation(typingctx, value):
        def codegen(context, builder, signature, args):
            return _call(builder, f"llvm.{name}.v{LANES}f32", _FLOATS, args)

        return floats(floats), codegen

    return intrinsic(operation)


sqrt = _unary("sqrt")
floor = _unary("floor")


@intrinsic
def ramp(typingctx):
    """Return 0, 1, 2 and so on."""

    def codegen(context, builder, signature, args):
        return ir.Constant(_FLOATS, [float(lane) for lane in range(LANES)])

    return floats(), codegen


@intrinsic
def inverse_above(typingctx, value, limit):
    """Return 1 / value where value > limit, else 0."""

    def codegen(context, builder, signature, args):
        above = builder.fcmp_ordered(">", *args)
        inverse = builder.fdiv(ir.Constant(_FLOATS, [1.0] * LANES), args[0])
        return builder.select(above, inverse, ir.Constant(_FLOATS, [0.0] * LANES))

    return floats(floats, floats), codegen


@intrinsic
def store_addresses(typingctx, array, index, rows, columns, row_step, column_step):
    """Write rows * row_step + columns * column_step, of whole numbers in float lanes, to an int32 array."""

    def codegen(context, builder, signature, args):
        array, index, rows, columns, *steps = args
        row_step, column_step = (_broadcast(builder, step, _INTS) for step in steps)
        down = builder.mul(builder.fptosi(rows, _INTS), row_step)
        addresses = builder.add(down, builder.mul(builder.fptosi(columns, _INTS), column_step))
        pointer = builder.bitcast(
            _pointer(context, builder, signature.args[0], array, index), _INTS.as_pointer()
        )
        builder.store(addresses, pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, floats, floats, types.int32, types.int32), codegen


@intrinsic
def no_count(typingctx):
    """Return zero lanes of int64, to add to with `count`."""

    def codegen(context, builder, signature, args):
        return ir.Constant(_LONGS, [0] * LANES)

    return longs(), codegen


@intrinsic
def count(typingctx, total, value):
    """Return total + value, int64 lanes; `value` >= 0 is truncated to an integer and capped just below 2^31."""

    def codegen(context, builder, signature, args):
        total, value = args
        cap = ir.Constant(_FLOATS, [LARGEST_COUNT] * LANES)
        capped = builder.select(builder.fcmp_ordered("<", value, cap), value, cap)
        return builder.add(total, builder.zext(builder.fptosi(capped, _INTS), _LONGS))

    return longs(longs, floats), codegen


@intrinsic
def counted(typingctx, total):
    """Return the sum of the lanes of a count, int64."""

    def codegen(context, builder, signature, args):
        return _call(builder, f"llvm.vector.reduce.add.v{LANES}i64", ir.IntType(64), args)

    return types.int64(longs), codegen


@intrinsic
def load_spread(typingctx, array, index):
    """Return four values of a float32 array, a b c d, each in four lanes: a a a a b b b b c c c c d d d d."""

    def codegen(context, builder, signature, args):
        pointer = builder.bitcast(
            _pointer(context, builder, signature.args[0], *args), _FOUR.as_pointer()
        )
        four = builder.load(pointer, align=4)
        return _shuffle(builder, four, four, (lane // 4 for lane in range(LANES)))

    return floats(array, types.intp), codegen


@intrinsic
def store_folded(typingctx, array, index, value):
    """Write four sums to a float32 array: of lanes 0 4 8 12, then 1 5 9 13 and so on, each as (0 + 8) + (4 + 12)."""

    def codegen(context, builder, signature, args):
        array, index, value = args
        for lanes in (8, 4):
            low = _shuffle(builder, value, value, range(lanes))
            value = builder.fadd(low, _shuffle(builder, value, value, range(lanes, 2 * lanes)))
        pointer = builder.bitcast(
            _pointer(context, builder, signature.args[0], array, index), _FOUR.as_pointer()
        )
        builder.store(value, pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, floats), codegen


@intrinsic
def store_interleaved(typingctx, array, index, a, b, c, d):
    """Write 4 * LANES values: a's first, b's first, c's first, d's first, a's second and so on."""

    def codegen(context, builder, signature, args):
        array, index, *four = args
        low = _shuffle(builder, four[0], four[1], range(2 * LANES))
        high = _shuffle(builder, four[2], four[3], range(2 * LANES))
        order = [which * LANES + lane for lane in range(LANES) for which in range(4)]
        mixed = _shuffle(builder, low, high, order)
        pointer = _pointer(context, builder, signature.args[0], array, index)
        builder.store(mixed, builder.bitcast(pointer, mixed.type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, floats, floats, floats, floats), codegen


@intrinsic
def load_interleaved(typingctx, array, index):
    """Return the four vectors that `store_interleaved` wrote."""
    four = types.UniTuple(floats, 4)

    def codegen(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], *args)
        mixed = builder.load(
            builder.bitcast(pointer, ir.VectorType(ir.FloatType(), 4 * LANES).as_pointer()), align=4
        )
        parts = [_shuffle(builder, mixed, mixed, range(which, 4 * LANES, 4)) for which in range(4)]
        return context.make_tuple(builder, four, parts)

    return four(array, types.intp), codegen
