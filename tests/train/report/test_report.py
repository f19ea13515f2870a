import html.parser
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import browser_page, find_browser
from click.testing import CliRunner
from recorder import Recorder
from train_cases import CONFIG, StopAfter, small_store

from flowcpc.commands import main
from flowcpc.stores.flow_store import open_store
from flowcpc.train.evaluation.config import EvaluationConfig
from flowcpc.train.evaluation.evaluate import evaluate
from flowcpc.train.pretraining.loop import pretrain
from flowcpc.train.report.report import draw_curve, write_report
from flowcpc.train.runs.embed import embed_store

HOSTILE = ("<script>alert('a')</script>", 'Down" onload="alert(1)')


class Elements(html.parser.HTMLParser):
    """The names and attributes of all elements, and the text, as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile_store(tmp_path: Path, make_store: Callable[..., Path]) -> Path:
    """A store of 14 videos with HTML as ids and labels; one video failed, for a reason in HTML."""
    rng = np.random.default_rng(0)
    names = [f"v{n:02d}<b>&\"'" for n in range(14)]
    videos = {
        name: rng.normal(0, 1, (4 + 2 * n, 2, 18, 20)).astype(np.float32)
        for n, name in enumerate(names)
    }
    labels = {name: HOSTILE[n % 2] for n, name in enumerate(names)}
    folds = {name: {"fold1": "train" if n < 8 else "test"} for n, name in enumerate(names)}
    path = make_store(
        tmp_path, videos, labels=labels, groups={name: name for name in names}, folds=folds
    )
    broken = {
        "video_id": "x<i>",
        "path": "x.avi",
        "label": HOSTILE[0],
        "group": None,
        "folds": {"fold1": "train"},
    }
    reason = "<img src=x onerror=alert(2)> is empty"
    open_store(path).record_failure({**broken, "kind": "file", "reason": reason, "attempts": 1})
    return path


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, make_store: Callable[..., Path]
) -> tuple[Path, Path]:
    """A store of hostile names and a run that was pretrained, evaluated and embedded."""
    folder = tmp_path_factory.mktemp("whole")
    store, run = hostile_store(folder, make_store), folder / "run"
    pretrain(store, run, CONFIG)
    for mode in ("linear", "retrieval"):
        evaluate(store, run, mode=mode, seeds=(0, 1), evaluation=EvaluationConfig(linear_steps=4))
    embed_store(store, run)
    return store, run


def test_a_curve_is_drawn(tmp_path: Path, make_store: Callable[..., Path]) -> None:
    store = small_store(tmp_path, make_store)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        draw_curve(tmp_path / "run")
    pretrain(store, tmp_path / "run", CONFIG, listener=Recorder(stop=StopAfter(1)))
    with pytest.raises(ValueError, match="has no metrics yet"):
        draw_curve(tmp_path / "run")
    pretrain(store, tmp_path / "run", CONFIG)
    path = draw_curve(tmp_path / "run")
    assert path == tmp_path / "run" / "curve.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_page_shows_everything_and_escapes_what_is_untrusted(
    whole: tuple[Path, Path], tmp_path: Path
) -> None:
    store, run = whole
    path = write_report([run], tmp_path / "page.html", store_path=store)
    page = path.read_text()
    seen = Elements(page)
    names = {tag for tag, _ in seen.tags}
    assert not names & {"script", "iframe", "object", "embed", "base", "form"}
    assert "i" not in names  # of the failed video's id
    assert all(not key.startswith("on") for _, attributes in seen.tags for key in attributes)
    for tag, attributes in seen.tags:
        addresses = (attributes.get(key) for key in ("src", "href", "xlink:href"))
        address = next(filter(None, addresses), "")
        assert address == "" or address.startswith(("data:", "#")), (tag, address)
    assert "url(" not in page
    assert "@import" not in page
    for text in (*HOSTILE, "v00<b>&\"'", "<img src=x onerror=alert(2)> is empty", "x<i>"):
        assert text in seen.text, text
    results = pd.concat(
        pd.read_parquet(file) for file in run.glob("evaluate/linear-*/results.parquet")
    )
    uniform = results[results["protocol"] == "uniform8"].groupby("encoder")["top1"]
    for encoder in ("pretrained", "random"):
        mean, deviation = 100 * uniform.mean()[encoder], 100 * uniform.std()[encoder]
        assert f"{mean:.1f} ± {deviation:.1f}" in seen.text
    assert "points relative to the untrained encoder, on 6 videos of the test split" in seen.text
    for title in (
        "Training curves",
        "Action recognition",
        "Retrieval",
        "Map of the embeddings",
        "Nearest neighbours",
        "Short videos",
    ):
        assert title in seen.text
    assert "chance" in seen.text
    assert len(identifiers := [a["id"] for _, a in seen.tags if "id" in a]) == len(set(identifiers))
    assert len([1 for tag, attributes in seen.tags if tag == "img" and attributes.get("alt")]) >= 13


def test_every_picture_says_what_it_is_and_every_table_too(
    whole: tuple[Path, Path], tmp_path: Path
) -> None:
    store, run = whole
    page = write_report([run], tmp_path / "page.html", store_path=store).read_text()
    assert len(re.findall(r"<table", page)) == len(re.findall(r"<caption>", page))
    for tag, attributes in Elements(page).tags:
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or (
                attributes.get("role") == "img" and attributes["aria-label"]
            )


def test_the_same_runs_give_the_same_page(whole: tuple[Path, Path], tmp_path: Path) -> None:
    store, run = whole
    pages = [
        write_report([run], tmp_path / name, store_path=store).read_bytes()
        for name in ("a.html", "b.html")
    ]
    assert pages[0] == pages[1]


def test_what_is_absent_is_named_with_its_command(
    tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    store, run = small_store(tmp_path, make_store), tmp_path / "run"
    pretrain(store, run, CONFIG)
    text = Elements(write_report([run], tmp_path / "page.html").read_text()).text
    assert f"flowcpc evaluate STORE {run} --mode linear" in text
    assert f"flowcpc report {run} --store STORE" in text
    text = Elements(write_report([run], tmp_path / "page.html", store_path=store).read_text()).text
    assert f"flowcpc embed {store} {run}" in text
    assert f"flowcpc evaluate {store} {run} --mode retrieval" in text


def test_runs_side_by_side(tmp_path: Path, make_store: Callable[..., Path]) -> None:
    store = small_store(tmp_path, make_store)
    for name in ("a/run", "b/run"):
        pretrain(store, tmp_path / name, CONFIG)
    text = Elements(
        write_report([tmp_path / "a/run", tmp_path / "b/run"], tmp_path / "page.html").read_text()
    ).text
    assert "Runs side by side" in text
    assert "a/run" in text
    assert "b/run" in text
    with pytest.raises(ValueError, match="named twice"):
        write_report([tmp_path / "a/run", tmp_path / "a/../a/run"], tmp_path / "page.html")


def test_a_run_of_a_preset_stands_beside_the_paper(
    tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    store, run = small_store(tmp_path, make_store), tmp_path / "run"
    words = ["pretrain", store, run, "--preset", "table1-flow", "--steps", 2]
    for setting in ("num_flows=1", "spacing=1", "size=16x16", "width=2", "batch_size=4"):
        words += ["--set", setting]
    assert CliRunner().invoke(main.main, [str(word) for word in words]).exit_code == 0
    evaluate(store, run, mode="linear", evaluation=EvaluationConfig(linear_steps=2))
    result = CliRunner().invoke(
        main.main, ["report", str(run), "--store", str(store), "--out", str(tmp_path / "r.html")]
    )
    assert result.exit_code == 0, result.output
    text = Elements((tmp_path / "r.html").read_text()).text
    assert "55.4" in text
    assert "paper 81.7" in text
    assert "differs from the paper's table1-flow: flows per segment 1 instead of 10" in text
    assert "The paper's numbers are for UCF-101" in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere"], "holds neither a checkpoint nor results"),
        (["run", "--out", "page.txt"], "does not end in .html"),
        (["run", "--store", "nowhere", "--out", "page.html"], "is not a flowcpc store"),
    ],
)
def test_what_cannot_be_reported_is_one_sentence(
    tmp_path: Path,
    make_store: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    sentence: str,
) -> None:
    pretrain(
        small_store(tmp_path, make_store),
        tmp_path / "run",
        CONFIG,
        listener=Recorder(stop=StopAfter(1)),
    )
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main.main, ["report", *words])
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert not list(tmp_path.glob("*.html"))


def test_a_browser_finds_nothing_to_complain_about(
    whole: tuple[Path, Path], tmp_path: Path
) -> None:
    """Laptop and phone, light and dark, with and without JavaScript: no request, no overflow."""
    if find_browser() is None:
        pytest.skip(
            "no Chromium or Chrome to open the page in; on Debian: apt-get install chromium"
        )
    store, run = whole
    path = write_report([run], tmp_path / "page.html", store_path=store)
    with browser_page() as page:
        for width, dark in ((1280, False), (390, False), (390, True)):
            page.open(path, width=width, dark=dark, scripts=not dark)
            assert page.requests() == [path.resolve().as_uri()]
            assert page.complaints() == []
            size = page.call("Page.getLayoutMetrics")["cssContentSize"]
            assert size["width"] == width
            assert size["height"] > 1000
        page.open(path, width=390)
        assert page.value("document.querySelectorAll('script').length") == 0
        assert (
            page.value(
                "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
            )
            is True
        )
        colours = [page.value("getComputedStyle(document.body).backgroundColor")]
        page.open(path, width=390, dark=True)
        colours.append(page.value("getComputedStyle(document.body).backgroundColor"))
        assert len(set(colours)) == 2
