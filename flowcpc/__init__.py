"""flowcpc: optical-flow feature stores for video, and contrastive predictive coding trained from them.

What a notebook needs, loaded when first used:

- open_store(path): a store, with `.videos()`, `.segments()`, `.failures()` as DataFrames and `.read_flow(video_id, start, stop)` in px;
- query(store, sql): rows of a SELECT over its tables as a DataFrame;
- read_embeddings(store, run, split=, level=): (DataFrame, float32 (n, D));
- read_predictions(folder): (DataFrame, logits float32 (n, classes)) of an evaluation;
- compute_flow(frames): TV-L1 flow of gray frames;
- load_encoder(run): the trained encoder of a run;
- read_results(runs): all results of `flowcpc evaluate` as one DataFrame.
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

__all__ = [
    "compute_flow",
    "load_encoder",
    "open_store",
    "query",
    "read_embeddings",
    "read_predictions",
    "read_results",
]

_HOMES = {
    "compute_flow": "flowcpc.pipeline.tvl1.solver",
    "load_encoder": "flowcpc.train.runs.checkpoint",
    "open_store": "flowcpc.stores.flow_store",
    "query": "flowcpc.stores.inspection.query",
    "read_embeddings": "flowcpc.stores.embeddings",
    "read_predictions": "flowcpc.stores.embeddings",
    "read_results": "flowcpc.train.evaluation.results",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("flowcpc")
    if name not in _HOMES:
        raise AttributeError(
            f"module 'flowcpc' has no attribute {name!r}; it offers {', '.join(__all__)}"
        )
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
