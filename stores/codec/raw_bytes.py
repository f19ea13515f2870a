"""Bytes at addresses inside Numba kernels: loads and copies at any offset, as a codec needs them.

Addresses are int64, from `address_of` an array that the kernel was given: its caller keeps it alive. Plain integers cost nothing when one kernel
calls another, where arrays would be counted in and out at every step of a loop.

Nothing here checks bounds: callers do, and give their buffers SLACK bytes behind the end, because a copy of 5 bytes moves up to 128.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cpu, types
from numba.core.extending import intrinsic
from numba.core.registry import cpu_target

SLACK = 128  # bytes that a buffer must have behind its last used one
_LONG = ir.IntType(64)


@intrinsic
def address_of(typingctx, array):
    """Return the address of the first byte of a C-contiguous array that the caller of the kernel holds, int64."""

    def codegen(
        context: cpu.CPUContext, builder: ir.IRBuilder, signature: Any, args: Any
    ) -> ir.Value:
        data = context.make_array(signature.args[0])(context, builder, value=args[0]).data
        return builder.ptrtoint(data, _LONG)

    return types.int64(array), codegen


def _at(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _load(bits: int) -> Callable[..., Any]:
    kind = ir.IntType(bits)

    def load(typingctx, address):
        def codegen(
            context: cpu.CPUContext, builder: ir.IRBuilder, signature: Any, args: Any
        ) -> ir.Value:
            value = builder.load(_at(builder, args[0], kind), align=1)
            return builder.zext(value, _LONG) if bits < 64 else value

        return types.int64(types.int64), codegen

    return intrinsic(load)


def _store(bits: int) -> Callable[..., Any]:
    kind = ir.IntType(bits)

    def store(typingctx, address, value):
        def codegen(
            context: cpu.CPUContext, builder: ir.IRBuilder, signature: Any, args: Any
        ) -> ir.Value:
            builder.store(builder.trunc(args[1], kind), _at(builder, args[0], kind), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    return intrinsic(store)


def _copy(count: int) -> Callable[..., Any]:
    kind = ir.VectorType(ir.IntType(8), count)

    def copy(typingctx, target, source):
        def codegen(
            context: cpu.CPUContext, builder: ir.IRBuilder, signature: Any, args: Any
        ) -> ir.Value:
            value = builder.load(_at(builder, args[1], kind), align=1)
            builder.store(value, _at(builder, args[0], kind), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    return intrinsic(copy)


# load_*(address): the little-endian unsigned integer of 1, 2, 4 bytes there as int64; load_long: the bits of 8.
load_byte, load_pair, load_word, load_long = _load(8), _load(16), _load(32), _load(64)
# store_*(address, value): the lowest bytes of an int64.
store_byte, store_pair, store_word = _store(8), _store(16), _store(32)
# copy_*(target, source): move so many bytes; all are read before the first is written.
copy_1, copy_16, copy_32 = _copy(1), _copy(16), _copy(32)


@intrinsic
def equal_bytes_of_64(typingctx, one, other):
    """Return how many of the 64 bytes at two addresses are equal before the first that is not, int64."""
    kind = ir.VectorType(ir.IntType(8), 64)

    def codegen(
        context: cpu.CPUContext, builder: ir.IRBuilder, signature: Any, args: Any
    ) -> ir.Value:
        left, right = (builder.load(_at(builder, address, kind), align=1) for address in args)
        differing = builder.bitcast(builder.icmp_unsigned("!=", left, right), _LONG)
        return builder.cttz(differing, ir.Constant(ir.IntType(1), 0))

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def select(typingctx, condition, one, other):
    """Return `one` (int64) where `condition` holds, else `other`, without a branch."""

    def codegen(
        context: cpu.CPUContext, builder: ir.IRBuilder, signature: Any, args: Any
    ) -> ir.Value:
        return builder.select(*args)

    return types.int64(types.boolean, types.int64, types.int64), codegen


def has_crc32c_instruction() -> bool:
    """Return whether the processor that kernels are compiled for (NUMBA_CPU_NAME may say another) computes CRC32C itself."""
    return any(
        "+sse4.2" in str(part).split(",")
        for part in cpu_target.target_context.codegen().magic_tuple()
    )


@intrinsic
def crc32c_of_long(typingctx, checksum, value):
    """Return the CRC32C register `checksum` (int64) after the eight bytes of `value`; only where has_crc32c_instruction()."""

    def codegen(
        context: cpu.CPUContext, builder: ir.IRBuilder, signature: Any, args: Any
    ) -> ir.Value:
        instruction = builder.module.declare_intrinsic(
            "llvm.x86.sse42.crc32.64.64", (), ir.FunctionType(_LONG, [_LONG, _LONG])
        )
        return builder.call(instruction, args)

    return types.int64(types.int64, types.int64), codegen
