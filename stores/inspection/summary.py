"""What is in a store, for `flowcpc info`."""

import dataclasses
from collections import Counter
from typing import Any

import pandas as pd

from flowcpc.stores.base.plurals import counted
from flowcpc.stores.flow_store import FlowStore

_NAMED_SIZES = 4


@dataclasses.dataclass(frozen=True)
class StoreSummary:
    """Counts over one store.

    `bytes` are those of all files of its videos, `frame_bytes` what their frames are of these; `sizes` has the number of videos of each size, the
    most frequent first, `by_class` a row per label and a column per split of each fold.
    """

    path: str
    array_format: str
    numerics: dict[str, Any]
    videos: int
    flows: int
    bytes: int
    frame_bytes: int
    failures: int
    miscounted: int
    sizes: dict[str, int]
    by_class: pd.DataFrame
    embeddings: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**values, "by_class": self.by_class.reset_index().to_dict("records")}

    def to_text(self) -> str:
        """Return the summary as lines for a person."""
        per_flow = (
            f" ({(self.bytes - self.frame_bytes) / self.flows / 1e3:.3g} KB per flow)"
            if self.flows
            else ""
        )
        if "imported" in self.numerics:
            computed = "imported from {layout} (bound {bound:g} px)".format(
                **self.numerics["imported"]
            )
        else:
            computed = f"profile {self.numerics.get('tvl1', {}).get('profile')}"
        lines = [
            f"store      {self.path}",
            f"flow       {self._size_text()}, {self.numerics['encoding']['name']}, {self.array_format}, {computed}",
            f"videos     {self.videos} with {counted(self.flows, 'flow')} in {(self.bytes - self.frame_bytes) / 1e6:.3g} MB{per_flow}",
            *self._frame_lines(),
            f"failures   {counted(self.failures, 'video of the data set')} without flow",
            f"miscounted {counted(self.miscounted, 'video')} decoded to another number of frames than the header says",
            f"embeddings {', '.join(self.embeddings) or 'none'}",
        ]
        if len(self.by_class):
            lines += ["", self.by_class.to_string()]
        return "\n".join(lines)

    def _frame_lines(self) -> list[str]:
        if "frames" not in self.numerics:
            return []
        frames = self.flows + self.videos
        per_frame = f" ({self.frame_bytes / frames / 1e3:.3g} KB per frame)" if frames else ""
        codec = "{codec}, quality {quality}, {subsampling}".format(**self.numerics["frames"])
        return [
            f"frames     {counted(frames, 'frame')} ({codec}) in {self.frame_bytes / 1e6:.3g} MB{per_frame}"
        ]

    def _size_text(self) -> str:
        """Return how large flow is: one size, or the shorter side and the most frequent sizes."""
        if "short_side" not in self.numerics:
            return f"{self.numerics['height']}x{self.numerics['width']} px"
        named = [f"{size} ({count})" for size, count in self.sizes.items()][:_NAMED_SIZES]
        more = [f"{len(self.sizes) - _NAMED_SIZES} more"] if len(self.sizes) > _NAMED_SIZES else []
        return f"shorter side {self.numerics['short_side']} px: {', '.join([*named, *more]) or 'no video'}"


def summarise(store: FlowStore) -> StoreSummary:
    """Return counts over `store`."""
    tables = store.tables("videos", "failures")
    videos = tables["videos"]
    folds = [name for name in videos.columns if name.startswith("fold")]
    columns = {"videos": videos.groupby("label", dropna=False).size()} if len(videos) else {}
    for fold in folds:
        for split, count in (
            videos.groupby(fold)["label"].value_counts().unstack(0, fill_value=0).items()
        ):
            columns[f"{fold} {split}"] = count
    by_class = pd.DataFrame(columns).fillna(0).astype(int)
    by_class.index.name = "label"
    folder = store.path / "embeddings"
    sizes = (
        [
            f"{height}x{width}"
            for height, width in zip(videos["height"], videos["width"], strict=True)
        ]
        if len(videos)
        else []
    )
    return StoreSummary(
        path=str(store.path),
        array_format=store.array_format,
        numerics=store.numerics,
        videos=len(videos),
        flows=int(videos["flows"].sum()),
        bytes=int(videos["bytes"].sum()) if "bytes" in videos else 0,
        frame_bytes=int(videos["frame_bytes"].sum()) if "frame_bytes" in videos else 0,
        failures=len(tables["failures"]),
        miscounted=int((~videos["decoded_is_header"].astype(bool)).sum())
        if "decoded_is_header" in videos
        else 0,
        sizes=dict(Counter(sizes).most_common()),
        by_class=by_class,
        embeddings=sorted(path.name for path in folder.iterdir()) if folder.is_dir() else [],
    )
