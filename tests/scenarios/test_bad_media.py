"""Every broken or odd file becomes flow or a failure, as docs/extraction/bad_media.md says."""

import csv
from pathlib import Path

import pandas as pd
import pytest
from bad_media import extract_all, to_markdown
from checkout import ROOT

pytestmark = pytest.mark.slow  # all files are extracted once

Result = tuple[int, pd.DataFrame, pd.DataFrame]


@pytest.fixture(scope="module")
def result(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return extract_all(real_data / "bad", tmp_path_factory.mktemp("bad"))


def measured(real_data: Path) -> dict[str, dict[str, str]]:
    """What videos.csv says of each file, by name."""
    with open(real_data / "videos.csv", encoding="utf-8") as file:
        return {
            row["file"].removeprefix("bad/"): row
            for row in csv.DictReader(file)
            if row["file"].startswith("bad/")
        }


def test_every_file_is_stored_as_it_decodes_or_failed_with_a_reason(
    real_data: Path, result: Result
) -> None:
    code, videos, failures = result
    assert code == 3
    files = {path.name for path in (real_data / "bad").iterdir()}
    assert len(files) > 40
    stored, failed = set(videos["file"]), set(failures["file"])
    assert stored | failed == files
    assert not stored & failed
    assert (failures["reason"].str.len() > 10).all()
    assert set(failures["kind"]) == {"file"}
    for name, row in measured(real_data).items():
        assert (name in stored) == (int(row["decoded_frames"]) > 1), name
        if name in stored:
            (video,) = videos[videos["file"] == name].to_dict("records")
            assert video["decoded_frames"] == int(row["decoded_frames"]), name
            assert video["flows"] == video["decoded_frames"] - 1
            assert video["decoded_is_header"] == (
                video["header_frames"] in (None, video["decoded_frames"])
            ), name


def test_what_stops_short_is_marked(result: Result) -> None:
    marked = result[1].loc[~result[1]["decoded_is_header"], "file"]
    assert {"truncated_half.avi", "truncated_90.avi", "mp4parse_no_timescale.mp4"} <= set(marked)


def test_strict_refuses_what_stops_short(real_data: Path, result: Result, tmp_path: Path) -> None:
    _, loose, failed = result
    _, videos, failures = extract_all(real_data / "bad", tmp_path, "--strict")
    off = (loose["decoded_frames"] - loose["header_frames"]).abs()
    beyond = set(loose.loc[off > (0.01 * loose["header_frames"]).clip(lower=1), "file"])
    assert {"truncated_half.avi", "truncated_90.avi"} <= beyond
    assert set(videos["file"]) == set(loose["file"]) - beyond
    assert set(failures["file"]) == set(failed["file"]) | beyond
    reasons = failures.set_index("file")["reason"]
    assert "decodes to 65 frames and its header says 150" in reasons["truncated_half.avi"]


def test_the_page_is_what_happens(result: Result) -> None:
    assert (ROOT / "docs/extraction/bad_media.md").read_text() == to_markdown(*result[1:])
