from collections.abc import Callable
from pathlib import Path

import pytest
from train_cases import CONFIG, StopAfter, small_store

from train.loop import pretrain
from train.report import draw_curve


def test_a_curve_is_drawn(tmp_path: Path, make_store: Callable[..., Path]) -> None:
    store = small_store(tmp_path, make_store)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        draw_curve(tmp_path / "run")
    pretrain(store, tmp_path / "run", CONFIG, should_stop=StopAfter(1))
    with pytest.raises(ValueError, match="has no metrics yet"):
        draw_curve(tmp_path / "run")
    pretrain(store, tmp_path / "run", CONFIG)
    path = draw_curve(tmp_path / "run")
    assert path == tmp_path / "run" / "curve.png"
    assert path.read_bytes().startswith(b"\x89PNG")
