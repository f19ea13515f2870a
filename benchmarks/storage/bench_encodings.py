"""What each encoding costs in bytes and in px, on real flow at 256x342, under the store's own codec
and chunks.

Run `python -m benchmarks.storage.bench_encodings`; `make bench` does. Writes
docs/benchmarks/storage/encodings.md.
"""

import statistics
import time

import numcodecs.blosc
import numpy as np
from real_flow import middle_flows, spread
from records import ROOT, machine_record

from flowcpc.stores.codec.blosc import compress, decompress
from flowcpc.stores.encoding import DEFAULT, ENCODINGS, Encoding

CLIPS, FLOWS, EVERY, SLOW_PX = 24, 40, 5, 1.0


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
        began = time.perf_counter()
        for frame in frames:
            decompress(frame, codes[0].nbytes)
        seconds = time.perf_counter() - began
        began = time.perf_counter()
        for one in codes:
            one.tobytes()
        ratios.append(seconds / (time.perf_counter() - began))
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
        seconds = []
        for work in (compress, library):
            began = time.perf_counter()
            for chunk in chunks:
                work(chunk)
            seconds.append(time.perf_counter() - began)
        ratios.append(seconds[0] / seconds[1])
    return sizes[0] / sizes[1], statistics.median(ratios)


def main() -> None:
    """Measure, print and record."""
    flows = [flow[::EVERY] for flow in middle_flows(spread(CLIPS), FLOWS)]
    measured = {name: measure(encoding, flows) for name, encoding in ENCODINGS.items()}
    columns = list(next(iter(measured.values())))
    lines = ["| encoding | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, values in measured.items():
        lines.append(
            f"| {name} | " + " | ".join(f"{values[column]:.3g}" for column in columns) + " |"
        )
    of_bytes, of_time = against_the_library(flows)
    ours, convention = measured["companded8"], measured["uint8-bound20"]
    text = (
        f"# Encodings\n\n`python -m benchmarks.storage.bench_encodings`: TV-L1 flow of {CLIPS} "
        f"UCF-101 clips at 256x342 ({sum(map(len, flows))} flows), "
        f"each compressed as a store compresses it. Slow: pixels below {SLOW_PX:g} px. Decoding is "
        "the time that the compressed codes take "
        "against copying the codes.\n\n"
        + "\n".join(lines)
        + "\n\ncompanded8 against uint8-bound20: "
        f"{ours['mean error, px'] / convention['mean error, px']:.2f} of the error at "
        f"{ours['KB per flow'] / convention['KB per flow']:.2f} of the bytes. "
        f"Its compression against LZ4 HC (level 4 of Blosc): {of_bytes:.2f} of the bytes in "
        f"{of_time:.2f} of the time.\n\n{machine_record()}\n"
    )
    print(text)
    (ROOT / "docs" / "benchmarks" / "storage" / "encodings.md").write_text(text)


if __name__ == "__main__":
    main()
