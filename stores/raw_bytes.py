"""Bytes of NumPy arrays inside Numba kernels: loads and copies at any offset, as a decompressor needs them.

Nothing here checks bounds: callers do, and give their buffers SLACK bytes behind the end, because a copy of 5 bytes moves up to 64.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cpu, types
from numba.core.extending import intrinsic
from numba.core.registry import cpu_target

SLACK = 128  # bytes that a buffer must have behind its last used one


def _pointer(
    context: Any, builder: ir.IRBuilder, array_type: Any, array: ir.Value, index: ir.Value, to: ir.Type
) -> Any:
    data = context.make_array(array_type)(context, builder, value=array).data
    return builder.bitcast(builder.gep(data, [index]), to.as_pointer())


def _load(bits: int) -> Callable[..., Any]:
    kind = ir.IntType(bits)

    def load(typingctx, array, index):
        def codegen(context: cpu.CPUContext, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            value = builder.load(_pointer(context, builder, signature.args[0], args[0], args[1], kind), align=1)
            return builder.zext(value, ir.IntType(64)) if bits < 64 else value

        return types.int64(array, types.intp), codegen

    return intrinsic(load)


def _copy(count: int) -> Callable[..., Any]:
    kind = ir.VectorType(ir.IntType(8), count)

    def copy(typingctx, target, to, source, begin):
        def codegen(context: cpu.CPUContext, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            value = builder.load(_pointer(context, builder, signature.args[2], args[2], args[3], kind), align=1)
            builder.store(value, _pointer(context, builder, signature.args[0], args[0], args[1], kind), align=1)
            return context.get_dummy_value()

        return types.void(target, types.intp, source, types.intp), codegen

    return intrinsic(copy)


# load_*(array, index): the little-endian unsigned integer at byte `index` of a uint8 array, as int64 (load_long: its bits).
load_byte, load_pair, load_word, load_long = _load(8), _load(16), _load(32), _load(64)
# copy_*(target, to, source, begin): move so many bytes; all are read before the first is written.
copy_1, copy_16, copy_32, copy_64 = _copy(1), _copy(16), _copy(32), _copy(64)


@intrinsic
def select(typingctx, condition, one, other):
    """Return `one` (int64) where `condition` holds, else `other`, without a branch."""

    def codegen(context: cpu.CPUContext, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return builder.select(*args)

    return types.int64(types.boolean, types.int64, types.int64), codegen


def has_crc32c_instruction() -> bool:
    """Return whether the processor that kernels are compiled for (NUMBA_CPU_NAME may say another) computes CRC32C itself."""
    return any("+sse4.2" in str(part).split(",") for part in cpu_target.target_context.codegen().magic_tuple())


@intrinsic
def crc32c_of_long(typingctx, checksum, value):
    """Return the CRC32C register `checksum` (int64) after the eight bytes of `value`; only where has_crc32c_instruction()."""

    def codegen(context: cpu.CPUContext, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        long = ir.IntType(64)
        instruction = builder.module.declare_intrinsic(
            "llvm.x86.sse42.crc32.64.64", (), ir.FunctionType(long, [long, long])
        )
        return builder.call(instruction, args)

    return types.int64(types.int64, types.int64), codegen
