"""Precision and recall of shot cuts: real clips joined at random places, and stretches of clips
that were not joined.

Run `python -m benchmarks.flow.bench_cuts`; `make bench` does. Writes
docs/benchmarks/flow/cuts.md. The thresholds of pipeline/extraction/cuts.py were chosen on the
clips of odd groups; those of even groups test them.
"""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.real_flow import clips, gray_frames
from benchmarks.record import make_parser, table, write_record
from benchmarks.timing import seconds
from flowcpc.pipeline.extraction.cuts import cut_scores, find_cuts
from flowcpc.pipeline.tvl1.solver import compute_flow

AROUND = 6  # frames on either side of a join
STRETCH = 40  # flows of a stretch without one
Case = tuple[list[Path], int, int, int]


def _group(clip: Path) -> str:
    return clip.stem.rpartition("_")[0]


def _cuts(frames: np.ndarray) -> np.ndarray:
    return find_cuts(cut_scores(frames, compute_flow(frames, threads=1)))


def joined(case: Case) -> tuple[bool, int]:
    """Join two clips of different groups; return (cut found, number of other flows flagged).

    Every other time both are of the same class.
    """
    found, number, height, width = case
    rng = np.random.default_rng((11, number))
    while True:
        first, second = (found[k] for k in rng.integers(0, len(found), 2))
        if _group(first) != _group(second) and (first.parent == second.parent) == (number % 2 == 0):
            break
    parts = []
    for clip in (first, second):
        frames = gray_frames(clip, height, width)
        start = int(rng.integers(0, len(frames) - AROUND))
        parts.append(frames[start : start + AROUND])
    cuts = _cuts(np.concatenate(parts))
    return bool(cuts[AROUND - 1]), int(cuts.sum() - cuts[AROUND - 1])


def unjoined(case: Case) -> tuple[int, list[str]]:
    """Return (number of flows, places that are flagged) of a stretch of one clip."""
    found, number, height, width = case
    clip = found[number]
    frames = gray_frames(clip, height, width)
    start = int(np.random.default_rng((12, number)).integers(0, max(1, len(frames) - STRETCH)))
    cuts = _cuts(frames[start : start + STRETCH + 1])
    return len(cuts), [f"{clip.stem} flow {start + int(t)}" for t in np.flatnonzero(cuts)]


def share_of_scores(height: int, width: int) -> float:
    """Return the time of the scores of a flow relative to that of the flow itself."""
    frames = gray_frames(clips()[0], height, width)[:9]
    flow = compute_flow(frames, threads=1)
    cut_scores(frames, flow)
    scores = seconds(lambda: cut_scores(frames, flow))
    return scores / seconds(lambda: compute_flow(frames, threads=1))


def main() -> None:
    """Measure, print and record."""
    arguments = make_parser(__doc__, "flow", joins=100, stretches=200).parse_args()
    rows = []
    flagged: list[str] = []
    with ProcessPoolExecutor() as pool:
        for height, width, joins in ((64, 86, 3 * arguments.joins), (256, 342, arguments.joins)):
            for parity, name in ((1, "odd (chosen on)"), (0, "even (held out)")):
                found = [clip for clip in clips() if int(_group(clip)[-2:]) % 2 == parity]
                cases = [(found, n, height, width) for n in range(max(joins, len(found)))]
                pairs = list(pool.map(joined, cases[:joins], chunksize=4))
                last, step = min(arguments.stretches, len(found)), 1 if height < 100 else 8
                alone = list(pool.map(unjoined, cases[:last:step], chunksize=2))
                hits, extra = sum(hit for hit, _ in pairs), sum(more for _, more in pairs)
                places = [place for _, marked in alone for place in marked]
                flagged += [f"{place} at {height}x{width}" for place in places]
                recall, precision = hits / joins, hits / max(1, hits + extra)
                flows = sum(count for count, _ in alone)
                size = f"{height}x{width}"
                numbers = f"{recall:.3f}", f"{precision:.3f}", flows, len(places)
                rows.append([size, name, joins, *numbers])
    columns = ["size", "groups", "joins", "recall", "precision"]
    columns += ["stretches without a join: flows", "flagged"]
    write_record(
        arguments.out / "cuts.md",
        "Cuts",
        "`python -m benchmarks.flow.bench_cuts`: six frames of one real clip and six of another, "
        "of different groups, every other time of the same class, joined; a hit is the flow across "
        "the join, what is flagged beside it counts against precision. Stretches of 40 flows of "
        "clips that were not joined show what is flagged there; some UCF-101 clips have real cuts.",
        table(columns, rows),
        f"Flagged without a join: {'; '.join(flagged) or 'nothing'}.",
        f"The scores take {share_of_scores(256, 342):.2%} of the time of the flow itself at "
        "256x342.",
    )


if __name__ == "__main__":
    main()
