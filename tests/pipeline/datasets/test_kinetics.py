"""Kinetics' official CSV files, and the usual places of its clips."""

from pathlib import Path

import pytest
from builders import touch, write_video
from hypothesis import given
from hypothesis import strategies as st
from textures import moving_texture

from flowcpc.pipeline.datasets.kinetics import find_clips, list_kinetics
from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.datasets.sources import read_dataset

HEADER = "label,youtube_id,time_start,time_end,split\n"
ROWS = [
    ("tap dancing", "-3B32lodo2M", 59, 69, "train"),
    ("archery", "a_b-c_d-e_f", 0, 10, "validate"),
]
NAMES = ("-3B32lodo2M_000059_000069", "a_b-c_d-e_f_000000_000010")


def write_csv(path: Path, rows: list[tuple[object, ...]] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEADER + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "places",
    [
        (f"tap dancing/{NAMES[0]}.mp4", f"archery/{NAMES[1]}.mp4"),
        (f"train/tap_dancing/{NAMES[0]}.mkv", f"val/archery/{NAMES[1]}.webm"),
        (f"train/{NAMES[0]}.mp4", f"val/{NAMES[1]}.MP4"),
        (f"train_256/tap_dancing/{NAMES[0]}.mp4", f"{NAMES[1]}.avi"),
        ("tap dancing/-3B32lodo2M_59_69.mp4", "archery/a_b-c_d-e_f_0_10.mp4"),
        ("tap_dancing/-3B32lodo2M.mp4", "a_b-c_d-e_f.mp4"),
    ],
    ids=["spaces", "splits and underscores", "splits alone", "mixed", "no zeros", "ids alone"],
)
def test_clips_are_found_in_the_usual_places(tmp_path: Path, places: tuple[str, str]) -> None:
    root = touch(tmp_path / "videos", *places, "train/notes.txt")
    found = read_dataset(root, "kinetics", write_csv(tmp_path / "list.csv"))
    assert found.videos == [
        Video(NAMES[0], places[0], "tap dancing", "-3B32lodo2M", {"fold1": "train"}),
        Video(NAMES[1], places[1], "archery", "a_b-c_d-e_f", {"fold1": "val"}),
    ]
    assert found.remarks == []


def test_an_absent_clip_is_a_row_and_a_stranger_a_remark(tmp_path: Path) -> None:
    root = touch(
        tmp_path / "videos",
        f"archery/{NAMES[1]}.mp4",
        "archery/stranger.mp4",
        f"archery/{NAMES[1]}x.mp4",
    )
    found = read_dataset(root, "kinetics", write_csv(tmp_path / "list.csv"))
    assert [video.path for video in found.videos] == [
        f"tap dancing/{NAMES[0]}.mp4",
        f"archery/{NAMES[1]}.mp4",
    ]
    assert found.remarks == [f"video files in no list are left out (2 under {root})"]


def test_several_lists_are_one_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "annotations"
    write_csv(folder / "train.csv", ROWS[:1])
    write_csv(folder / "validate.csv", ROWS[1:])
    write_csv(folder / "kinetics400.csv")  # the same rows again
    (folder / "kinetics_400_labels.csv").write_text("id,name\n0,abseiling\n")
    (folder / "test.csv").write_text(
        "youtube_id,time_start,time_end,split\nxyz,1,11,test\n"
    )  # labels kept back
    clips = list_kinetics(folder)
    assert [(clip.video_id, clip.label, clip.folds) for clip in clips] == [
        (NAMES[0], "tap dancing", {"fold1": "train"}),
        (NAMES[1], "archery", {"fold1": "val"}),
        ("xyz_000001_000011", None, {"fold1": "test"}),
    ]
    assert clips[2].path == "xyz_000001_000011.mp4"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [*ROWS, ("archery", "-3B32lodo2M", 59, 69, "train")],
            r"line 4: .* is 'archery' in train here, and 'tap dancing'",
        ),
        (
            [*ROWS, ("tap dancing", "-3B32lodo2M", 59, 69, "test")],
            r"in test here, and 'tap dancing' in train before",
        ),
        ([("archery", "#NAME?", 0, 10, "train")], r"line 2: youtube_id '#NAME\?' must be letters"),
        ([("archery", "abc", "0:10", 10, "train")], "time_start '0:10' is not a number of whole"),
        ([("archery", "abc", 1.5, 10, "train")], "time_start '1.5' is not a number of whole"),
        ([("archery", "abc", 0, "nan", "train")], "time_end 'nan' is not a number of whole"),
        ([("archery", "abc", 0, "", "train")], "time_end '' is not a number of whole"),
        ([("archery", "abc", 0, 10, "hold-out")], "split 'hold-out' is unknown"),
        ([], "lists no clip"),
    ],
)
def test_lists_that_are_wrong(tmp_path: Path, rows: list[tuple[object, ...]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        list_kinetics(write_csv(tmp_path / "list.csv", rows))


def test_lists_that_are_absent_or_something_else(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"annotations .* do not exist; give the official CSV, or a folder"
    ):
        list_kinetics(tmp_path / "nowhere.csv")
    with pytest.raises(
        ValueError, match="has no CSV with the columns youtube_id, time_start, time_end"
    ):
        list_kinetics(tmp_path)
    (tmp_path / "list.csv").write_text("id,name\n")
    with pytest.raises(ValueError, match=r"list\.csv has no CSV with the columns youtube_id"):
        list_kinetics(tmp_path / "list.csv")


def test_two_files_of_one_clip_are_named(tmp_path: Path) -> None:
    root = touch(tmp_path / "videos", f"train/{NAMES[0]}.mp4", f"tap dancing/{NAMES[0]}.mkv")
    with pytest.raises(
        ValueError, match=r"are both the clip -3B32lodo2M_000059_000069; remove one"
    ):
        read_dataset(root, "kinetics", write_csv(tmp_path / "list.csv"))


def test_a_bare_id_is_no_clip_where_it_could_be_two(tmp_path: Path) -> None:
    clips = list_kinetics(
        write_csv(
            tmp_path / "list.csv", [ROWS[0], ("tap dancing", "-3B32lodo2M", 100, 110, "train")]
        )
    )
    assert find_clips(clips, ["x/-3B32lodo2M.mp4"]) == clips


ids = st.text(st.sampled_from("abcXYZ019-_"), min_size=11, max_size=11)


@given(
    st.lists(st.tuples(ids, st.integers(0, 9999)), unique=True, min_size=1, max_size=20), st.data()
)
def test_every_clip_that_is_there_is_found_and_no_other(
    clips: list[tuple[str, int]], data: st.DataObject
) -> None:
    videos = [
        Video(f"{i}_{s:06d}_{s + 10:06d}", f"L/{i}_{s:06d}_{s + 10:06d}.mp4", "L", i, {})
        for i, s in clips
    ]
    present = data.draw(st.sets(st.sampled_from(range(len(videos)))))
    places = {k: f"train/some label/{videos[k].video_id}.mkv" for k in present}
    found = find_clips(videos, sorted(places.values()))
    assert [clip.video_id for clip in found] == [video.video_id for video in videos]
    assert [clip.path for clip in found] == [places.get(k, v.path) for k, v in enumerate(videos)]


def test_an_extraction_records_the_absent_one(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from flowcpc.commands import main
    from flowcpc.stores.flow_store import open_store

    write_video(
        tmp_path / "videos" / "tap_dancing" / "clip.avi", moving_texture(3, 24, 32, step=(1, 0))
    ).rename(tmp_path / "videos" / "tap_dancing" / f"{NAMES[0]}.avi")
    words = ["extract-flow", tmp_path / "videos", tmp_path / "s", "--size", "24x32", "--workers", 0]
    words += ["--dataset", "kinetics", "--annotations", write_csv(tmp_path / "list.csv")]
    result = CliRunner().invoke(main.main, [str(word) for word in words])
    assert (result.exit_code, result.stdout) == (3, f"{NAMES[1]}\tthe file does not exist\n")
    store = open_store(tmp_path / "s")
    assert store.videos()[["video_id", "path", "label", "group", "fold1"]].values.tolist() == [
        [NAMES[0], f"tap_dancing/{NAMES[0]}.avi", "tap dancing", "-3B32lodo2M", "train"]
    ]
    assert store.failures()[["video_id", "kind", "fold1"]].values.tolist() == [
        [NAMES[1], "missing", "val"]
    ]


def test_real_clips_are_found_by_their_ids(real_data: Path, tmp_path: Path) -> None:
    rows = [
        ("tap dancing", "R6llTwEh07w", 1, 11, "train"),
        ("archery", "SOX5yA1l24A", 2, 12, "val"),
    ]
    found = read_dataset(
        real_data / "clips" / "kinetics", "kinetics", write_csv(tmp_path / "list.csv", rows)
    )
    assert [video.path for video in found.videos] == ["R6llTwEh07w.mp4", "SOX5yA1l24A.mp4"]
    assert "left out (1 under" in found.remarks[0]
