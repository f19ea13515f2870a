"""Bytes at addresses inside Numba kernels: loads and copies at any offset, as a codec needs them.

Addresses are int64 and come from `address_of` an array that the caller of the kernel keeps alive.
Plain integers cost nothing; arrays would be reference-counted at every step of a loop. Nothing here
checks bounds. Callers do, and give their buffers SLACK bytes behind the end, because a copy of 5
bytes moves up to 128.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.extending import intrinsic
from numba.core.registry import cpu_target

SLACK = 128  # bytes that a buffer must have behind its last used one
_LONG = ir.IntType(64)
_LONG_OF_TWO = types.int64(types.int64, types.int64)
_NOTHING_OF_TWO = types.void(types.int64, types.int64)


@intrinsic
def address_of(typingctx, array):
    """Return the address, int64, of the first byte of a C-contiguous array."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        data = context.make_array(signature.args[0])(context, builder, value=args[0]).data
        return builder.ptrtoint(data, _LONG)

    return types.int64(array), generate


def _binary(signature: Any, emit: Callable[..., ir.Value | None]) -> Any:
    """Return a function of two arguments for kernels: `emit(builder, one, two)` adds its code."""
    return intrinsic(lambda typingctx, one, two: (signature, _generator(emit)))


def _generator(emit: Callable[..., ir.Value | None]) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        value = emit(builder, *args)
        return context.get_dummy_value() if value is None else value

    return generate


def _read(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


def _write(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=1)


def _load(bits: int) -> Any:
    def emit(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
        value = _read(builder, address, ir.IntType(bits))
        return builder.zext(value, _LONG) if bits < 64 else value

    return intrinsic(lambda typingctx, address: (types.int64(types.int64), _generator(emit)))


def _store(bits: int) -> Any:
    def emit(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
        _write(builder, address, builder.trunc(value, ir.IntType(bits)))

    return _binary(_NOTHING_OF_TWO, emit)


def _copy(count: int) -> Any:
    def emit(builder: ir.IRBuilder, target: ir.Value, source: ir.Value) -> None:
        _write(builder, target, _read(builder, source, ir.VectorType(ir.IntType(8), count)))

    return _binary(_NOTHING_OF_TWO, emit)


@intrinsic
def select(typingctx, condition, one, other):
    """Return `one` (int64) where `condition` holds, else `other`, without a branch."""
    signature = types.int64(types.boolean, types.int64, types.int64)
    return signature, _generator(ir.IRBuilder.select)


def _equal_bytes_of_64(builder: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    kind = ir.VectorType(ir.IntType(8), 64)
    differing = builder.icmp_unsigned("!=", _read(builder, one, kind), _read(builder, other, kind))
    return builder.cttz(builder.bitcast(differing, _LONG), ir.Constant(ir.IntType(1), 0))


def _crc32c_of_long(builder: ir.IRBuilder, checksum: ir.Value, value: ir.Value) -> ir.Value:
    crc32 = builder.module.declare_intrinsic(
        "llvm.x86.sse42.crc32.64.64", (), ir.FunctionType(_LONG, [_LONG, _LONG])
    )
    return builder.call(crc32, (checksum, value))


# load_*(address): the little-endian unsigned integer of 1, 2, 4 bytes there as int64; load_long:
# the bits of 8.
load_byte, load_pair, load_word, load_long = _load(8), _load(16), _load(32), _load(64)
# store_*(address, value): the lowest bytes of an int64.
store_byte, store_pair, store_word = _store(8), _store(16), _store(32)
# copy_*(target, source): move so many bytes; all are read before the first is written.
copy_1, copy_16, copy_32 = _copy(1), _copy(16), _copy(32)
# equal_bytes_of_64(one, other): how many of the 64 bytes at two addresses agree before the first
# that differs.
equal_bytes_of_64 = _binary(_LONG_OF_TWO, _equal_bytes_of_64)
# crc32c_of_long(checksum, value): the CRC32C register after the eight bytes of `value`. None if the
# processor that kernels are compiled for (NUMBA_CPU_NAME) lacks the instruction.
_target = cpu_target.target_context.codegen().magic_tuple()
_has_crc32c = any("+sse4.2" in str(option).split(",") for option in _target)
crc32c_of_long = _binary(_LONG_OF_TWO, _crc32c_of_long) if _has_crc32c else None
