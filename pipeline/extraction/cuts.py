"""Detection of cuts between shots, from the frames and their flow alone.

Within a shot, flow predicts the next frame from the last one; across a cut no flow does. The
residual of that prediction is high in fast or blurred motion too, but there it stays high for many
flows; at a cut it is a single peak. A flash has a second peak, its end, next to it.
"""

import numpy as np
from numpy.typing import NDArray

from flowcpc.stores.base.compiled import kernel

# Chosen on half of the clips and tested on the other half: docs/benchmarks/flow/cuts.md.
_RESIDUAL = 0.3
_PEAK = 2.0
_NEIGHBOURS = 3
_PIXELS = 3  # every third row and column is enough


@kernel
def cut_scores(frames: NDArray[np.uint8], flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the residual of every flow's prediction relative to the contrast, float32 (n,).

    0 is a perfect prediction, 1 an unrelated frame. `frames` are gray, uint8 (n + 1, H, W); `flow`
    leads from each frame to the next, float32 (n, 2, H, W), px.
    """
    scores = np.zeros(len(flow), np.float32)
    height, width = frames.shape[1:]
    for n in range(len(flow)):
        # Means are subtracted: a change of exposure is no cut.
        count, before, after = 0, 0.0, 0.0
        for y in range(0, height, _PIXELS):
            for x in range(0, width, _PIXELS):
                count += 1
                before += frames[n, y, x]
                after += frames[n + 1, y, x]
        before /= count
        after /= count
        moved, stayed, contrast = 0.0, 0.0, 0.0
        for y in range(0, height, _PIXELS):
            for x in range(0, width, _PIXELS):
                to_x = min(max(x + int(np.rint(flow[n, 0, y, x])), 0), width - 1)
                to_y = min(max(y + int(np.rint(flow[n, 1, y, x])), 0), height - 1)
                old = frames[n, y, x] - before
                new = frames[n + 1, y, x] - after
                moved += abs(frames[n + 1, to_y, to_x] - after - old)
                stayed += abs(new - old)
                contrast += abs(old) + abs(new)
        # Where the light changes, the flow is wrong but the image stays the same. The difference
        # of two unrelated images is about as large as the contrast of one.
        scores[n] = 2 * min(moved, stayed) / (contrast + 2 * count)
    return scores


def find_cuts(scores: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which flows span a cut, bool (n,), from the scores of all flows of a video."""
    cuts = np.zeros(len(scores), bool)
    for t in np.flatnonzero(scores > _RESIDUAL):
        around = np.r_[scores[max(0, t - _NEIGHBOURS) : t], scores[t + 1 : t + 1 + _NEIGHBOURS]]
        cuts[t] = scores[t] > _PEAK * around.max(initial=0)
    return cuts
