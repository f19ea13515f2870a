"""flowcpc: optical-flow feature stores for video, and contrastive predictive coding.

The names below are what a notebook needs. Each is loaded on first use.

- open_store(path): a store. `.videos()`, `.segments()`, `.failures()` are DataFrames;
  `.read_flow(video_id, start, stop)` returns flow in px.
- query(store, sql): the rows of a SELECT over a store's tables, as a DataFrame.
- read_embeddings(store, run, split=, level=): (DataFrame, float32 (n, D)).
- read_predictions(folder): (DataFrame, logits float32 (n, classes)) of an evaluation.
- compute_flow(frames): TV-L1 flow of gray frames.
- load_encoder(run): the trained encoder of a run; needs `flowcpc[train]`.
- embed_videos(paths, run, out): embeddings of video files as Parquet; needs `flowcpc[train]`.
- read_results(runs): all results of `flowcpc evaluate`, as one DataFrame.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowcpc.pipeline.tvl1.solver import compute_flow as compute_flow
    from flowcpc.stores.embeddings import read_embeddings as read_embeddings
    from flowcpc.stores.embeddings import read_predictions as read_predictions
    from flowcpc.stores.flow_store import open_store as open_store
    from flowcpc.stores.inspection.query import query as query
    from flowcpc.train.evaluation.results import read_results as read_results
    from flowcpc.train.runs.checkpoint import load_encoder as load_encoder
    from flowcpc.video_embedding import embed_videos as embed_videos

_HOMES = {
    "compute_flow": "flowcpc.pipeline.tvl1.solver",
    "embed_videos": "flowcpc.video_embedding",
    "load_encoder": "flowcpc.train.runs.checkpoint",
    "open_store": "flowcpc.stores.flow_store",
    "query": "flowcpc.stores.inspection.query",
    "read_embeddings": "flowcpc.stores.embeddings",
    "read_predictions": "flowcpc.stores.embeddings",
    "read_results": "flowcpc.train.evaluation.results",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("flowcpc")
    if name not in _HOMES:
        names = ", ".join(_HOMES)
        raise AttributeError(f"module 'flowcpc' has no attribute {name!r}; it has {names}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        from flowcpc.extras import missing_extra

        if sentence := missing_extra(error):
            raise ModuleNotFoundError(f"flowcpc.{name}: {sentence}", name=error.name) from None
        raise


def __dir__() -> list[str]:
    return [*_HOMES, "__version__"]
