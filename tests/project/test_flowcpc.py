import pytest

import flowcpc


def test_the_module_offers_what_notebooks_need() -> None:
    from flowcpc.pipeline.tvl1.solver import compute_flow
    from flowcpc.stores.embeddings import read_embeddings
    from flowcpc.stores.flow_store import open_store
    from flowcpc.train.evaluation.results import read_results
    from flowcpc.train.runs.checkpoint import load_encoder

    assert flowcpc.open_store is open_store
    assert flowcpc.read_embeddings is read_embeddings
    assert flowcpc.compute_flow is compute_flow
    assert flowcpc.load_encoder is load_encoder
    assert flowcpc.read_results is read_results
    assert set(flowcpc.__all__) <= set(dir(flowcpc))
    assert flowcpc.__version__


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match="it has compute_flow, embed_videos, load_encoder"):
        flowcpc.openstore  # noqa: B018
