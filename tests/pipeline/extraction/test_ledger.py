"""What is extracted, what is left as it is, and in which order."""

from pathlib import Path

import pytest
from builders import write_video
from extraction_cases import CLIP, clip_settings
from textures import moving_texture

from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.extraction import ledger
from flowcpc.pipeline.extraction.extract import ExtractionSettings, extract_video
from flowcpc.stores.flow_store import FlowStore, create_store


@pytest.fixture
def settings(tmp_path: Path) -> ExtractionSettings:
    return clip_settings(tmp_path)


@pytest.fixture
def store(settings: ExtractionSettings) -> FlowStore:
    return create_store(settings.store, settings.numerics())


def plan(
    store: FlowStore, settings: ExtractionSettings, *videos: Video, retry_failed: bool = False
) -> tuple[list[str], int, list[str]]:
    made = ledger.plan_extraction(store, settings, videos or (CLIP,), retry_failed=retry_failed)
    return [task.video.video_id for task in made.tasks], made.stored, made.skipped


def test_a_stored_video_is_not_done_again_unless_its_source_changed(
    settings: ExtractionSettings, store: FlowStore
) -> None:
    assert plan(store, settings) == (["clip"], 0, [])
    extract_video(settings, CLIP)
    assert plan(store, settings) == ([], 1, [])
    write_video(Path(settings.videos, CLIP.path), moving_texture(5, 24, 32, step=(1, 0)))
    assert plan(store, settings) == (["clip"], 0, [])


def test_a_source_that_went_away_keeps_its_flow(
    settings: ExtractionSettings, store: FlowStore
) -> None:
    extract_video(settings, CLIP)
    Path(settings.videos, CLIP.path).unlink()
    assert plan(store, settings) == ([], 1, [])


def test_failures_of_the_file_stand_and_those_of_the_machine_do_not(
    settings: ExtractionSettings, store: FlowStore
) -> None:
    path = Path(settings.videos, CLIP.path)
    path.write_bytes(b"junk")
    extract_video(settings, CLIP)
    assert plan(store, settings) == ([], 0, ["clip"])
    assert plan(store, settings, retry_failed=True) == (["clip"], 0, [])
    store.record_failure({**store.failure_of("clip"), "kind": "machine"})
    assert plan(store, settings) == (["clip"], 0, [])
    extract_video(settings, CLIP)
    write_video(path, moving_texture(5, 24, 32, step=(1, 0)))
    assert plan(store, settings) == (["clip"], 0, []), "the file was mended"


def test_an_absent_video_is_recorded_once_and_looked_for_again(
    settings: ExtractionSettings, store: FlowStore
) -> None:
    absent = Video("gone", "X/gone.avi", "X", None, {"fold1": "test"})
    for _ in range(2):
        assert plan(store, settings, absent) == ([], 0, ["gone"])
        assert store.failures()["attempts"].tolist() == [1]
    write_video(Path(settings.videos, absent.path), moving_texture(3, 24, 32, step=(0, 0)))
    assert plan(store, settings, absent) == (["gone"], 0, [])


def test_new_labels_and_folds_reach_the_record_without_new_flow(
    settings: ExtractionSettings, store: FlowStore
) -> None:
    extract_video(settings, CLIP)
    generation = store.videos()["generation"][0]
    renamed = Video("clip", "X/clip.avi", "Y", "g2", {"fold1": "test", "fold2": "train"})
    assert plan(store, settings, renamed) == ([], 1, [])
    (row,) = store.videos().to_dict("records")
    assert (row["label"], row["group"], row["fold1"], row["fold2"], row["generation"]) == (
        "Y",
        "g2",
        "test",
        "train",
        generation,
    )


def test_the_same_files_under_other_names_are_refused(
    settings: ExtractionSettings, store: FlowStore
) -> None:
    extract_video(settings, CLIP)
    with pytest.raises(
        ValueError, match=r"holds X/clip\.avi as 'clip' and this data set calls it 'X/clip'"
    ):
        ledger.refuse_other_names(
            store, [Video("X/clip", "X/clip.avi", "X", None, {"fold1": "test"})]
        )


def test_large_files_come_first(settings: ExtractionSettings, store: FlowStore) -> None:
    for name, frames in (("short", 3), ("long", 30)):
        write_video(
            Path(settings.videos, f"X/{name}.avi"), moving_texture(frames, 24, 32, step=(0, 0))
        )
    videos = [Video(name, f"X/{name}.avi", "X", None, {}) for name in ("short", "clip", "long")]
    assert plan(store, settings, *videos)[0] == ["long", "clip", "short"]
