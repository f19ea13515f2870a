"""What each encoding costs in bytes and in px, on real flow at 256x342, under the store's own codec
and chunks.

Run `python -m benchmarks.storage.bench_encodings`; `make bench` does. Writes
docs/benchmarks/storage/encodings.md.
"""

import functools
import statistics

import numcodecs.blosc
import numpy as np

from benchmarks.real_flow import middle_flows, spread
from benchmarks.record import make_parser, table, write_record
from benchmarks.timing import seconds_for_each
from flowcpc.stores.codec.blosc import compress, decompress
from flowcpc.stores.encoding import DEFAULT, ENCODINGS, Encoding

FLOWS, EVERY, SLOW_PX = 40, 5, 1.0


def measure(encoding: Encoding, flows: list[np.ndarray]) -> dict[str, float]:
    """Bytes and errors over `flows`, a list of float32 (n, 2, H, W)."""
    errors, slow_errors, sizes, clipped, ratios = [], [], [], [], []
    for flow in flows:
        codes = encoding.encode(flow)
        error = np.abs(encoding.decode(codes) - flow)
        slow = np.hypot(flow[:, 0], flow[:, 1]) < SLOW_PX
        errors.append(error.ravel()[::3])
        slow_errors.append(error.transpose(0, 2, 3, 1)[slow].ravel()[::3])
        frames = [compress(np.ascontiguousarray(one)) for one in codes]
        sizes += [len(frame) for frame in frames]
        clipped.append(float((np.abs(flow) > encoding.bound).mean()))
        unpack = functools.partial(decompress, length=codes[0].nbytes)
        decoding = seconds_for_each(unpack, frames)
        ratios.append(decoding / seconds_for_each(np.ndarray.tobytes, codes))
    every, slow_ones = np.concatenate(errors), np.concatenate(slow_errors)
    return {
        "KB per flow": statistics.fmean(sizes) / 1e3,
        "mean error, px": float(every.mean()),
        "p99": float(np.quantile(every, 0.99)),
        "mean, slow": float(slow_ones.mean()),
        "p99, slow": float(np.quantile(slow_ones, 0.99)),
        "zero becomes, px": abs(
            float(encoding.decode(encoding.encode(np.zeros(1, np.float32)))[0])
        ),
        "clip rate": statistics.fmean(clipped),
        "decoding / copying": statistics.median(ratios),
    }


def against_the_library(flows: list[np.ndarray]) -> tuple[float, float]:
    """Return bytes and time of compressing the default's codes relative to the LZ4 library.

    The library's HC compressor runs at Blosc's level 4.
    """
    chunks = [chunk for flow in flows for chunk in DEFAULT.encode(flow)]

    def library(chunk: np.ndarray) -> bytes:
        return bytes(
            numcodecs.blosc.compress(
                chunk, b"lz4hc", 4, numcodecs.blosc.NOSHUFFLE, chunk.nbytes, typesize=1
            )
        )

    numcodecs.blosc.use_threads = False
    sizes = [sum(len(work(chunk)) for chunk in chunks) for work in (compress, library)]
    ratios = []
    for _ in range(5):
        ours, theirs = (seconds_for_each(work, chunks) for work in (compress, library))
        ratios.append(ours / theirs)
    return sizes[0] / sizes[1], statistics.median(ratios)


def main() -> None:
    """Measure, print and record."""
    arguments = make_parser(__doc__, "storage", clips=24).parse_args()
    flows = [flow[::EVERY] for flow in middle_flows(spread(arguments.clips), FLOWS)]
    measured = {name: measure(encoding, flows) for name, encoding in ENCODINGS.items()}
    columns = list(next(iter(measured.values())))
    of_bytes, of_time = against_the_library(flows)
    error, size = (
        measured["companded8"][column] / measured["uint8-bound20"][column]
        for column in ("mean error, px", "KB per flow")
    )
    write_record(
        arguments.out / "encodings.md",
        "Encodings",
        f"`python -m benchmarks.storage.bench_encodings`: TV-L1 flow of {arguments.clips} UCF-101 "
        f"clips at 256x342 ({sum(map(len, flows))} flows), each compressed as a store compresses "
        f"it. Slow: pixels below {SLOW_PX:g} px. Decoding is the time that the compressed codes "
        "take against copying the codes.",
        table(
            ["encoding", *columns],
            [
                [name, *(f"{values[column]:.3g}" for column in columns)]
                for name, values in measured.items()
            ],
        ),
        f"companded8 against uint8-bound20: {error:.2f} of the error at {size:.2f} of the bytes. "
        f"Its compression against LZ4 HC (level 4 of Blosc): {of_bytes:.2f} of the bytes in "
        f"{of_time:.2f} of the time.",
    )


if __name__ == "__main__":
    main()
