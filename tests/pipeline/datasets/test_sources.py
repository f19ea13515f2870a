"""Data sets by name, parts of them, and their official names all the way through a store."""

import csv
import io
import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from builders import touch, write_video
from checkout import ROOT, real_data_folder
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from textures import moving_texture

from flowcpc.commands import main
from flowcpc.pipeline.datasets.hmdb51 import list_hmdb51
from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.datasets.sources import DATASETS, limit_videos, read_dataset
from flowcpc.pipeline.datasets.ucf101 import list_ucf101
from flowcpc.stores import layout
from flowcpc.stores.encoding import DEFAULT
from flowcpc.stores.flow_store import create_store, open_store
from flowcpc.stores.records.dataset_file import read_dataset as read_store_dataset


def test_missing_folder_and_file_instead_of_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_dataset(tmp_path / "nowhere", "folder")
    with pytest.raises(ValueError, match="is a file"):
        read_dataset(touch(tmp_path, "x.avi") / "x.avi", "folder")
    with pytest.raises(ValueError, match="holds no video file"):
        read_dataset(touch(tmp_path / "empty", "readme.txt"), "folder")


def test_two_files_of_one_name_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="would both be called 'A/x'"):
        read_dataset(touch(tmp_path, "A/x.avi", "A/x.mp4"), "folder")


videos_of = st.lists(
    st.tuples(st.sampled_from("ABC"), st.integers(1, 6), st.integers(1, 3)),
    unique=True,
    min_size=1,
    max_size=40,
).map(
    lambda rows: [
        Video(
            f"v_{c}_g{g:02d}_c{k:02d}",
            "",
            c,
            f"v_{c}_g{g:02d}",
            {"fold1": "test" if g < 3 else "train"},
        )
        for c, g, k in rows
    ]
)


@given(videos_of, st.integers(1, 45))
def test_a_limit_is_balanced_and_grows_without_forgetting(videos: list[Video], limit: int) -> None:
    chosen = limit_videos(videos, limit)
    assert len(chosen) == min(limit, len(videos))
    assert {v.video_id for v in chosen} <= {v.video_id for v in limit_videos(videos, limit + 1)}
    available, taken = Counter(v.label for v in videos), Counter(v.label for v in chosen)
    for label, count in available.items():
        assert taken[label] >= min(count, max(taken.values()) - 1)


def test_the_commands_offer_every_data_set() -> None:
    for command, left_out in (("extract-flow", set()), ("import", {"csv"})):
        (option,) = [
            option for option in main.main.commands[command].params if option.name == "dataset"
        ]
        assert set(option.type.choices) == set(DATASETS) - left_out


def test_an_unknown_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match="dataset='imagenet' is unknown; choose one of ucf101, hmdb51, kinetics, folder, csv",
    ):
        read_dataset(tmp_path, "imagenet")
    for dataset in ("ucf101", "hmdb51", "kinetics", "csv"):
        with pytest.raises(ValueError, match=f"--dataset {dataset} needs --annotations: the "):
            read_dataset(tmp_path, dataset)


# Every character that occurs in HMDB-51's names, and those that stand for something elsewhere.
CHARACTERS = "aZ09_-.()!+#[]&;~@ %'\"$*?\\{}^,=é動"
file_names = st.text(st.sampled_from(CHARACTERS), min_size=1, max_size=130).filter(
    lambda name: name.strip(". ") != ""
)


def official_names() -> list[str]:
    lists = real_data_folder() / "annotations"
    if not lists.is_dir():
        return []
    videos = itertools.chain(list_ucf101(lists / "ucf101"), list_hmdb51(lists / "hmdb51"))
    return [video.video_id for video in videos]


OFFICIAL = official_names()


@settings(max_examples=25)
@given(
    st.lists(
        st.one_of(file_names, st.sampled_from(OFFICIAL)) if OFFICIAL else file_names,
        min_size=1,
        max_size=8,
        unique=True,
    )
)
def test_names_go_through_records_and_tables(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    store = create_store(
        tmp_path_factory.mktemp("names") / "s",
        {"height": 24, "width": 32, "encoding": DEFAULT.to_json()},
    )
    videos = [Video(name, f"X/{name}.avi", "X", None, {"fold1": "test"}) for name in names]
    store.set_dataset([video.to_record() for video in videos], set(names))
    for video in videos[::2]:
        store.record_failure({**video.to_record(), "kind": "file", "reason": "test", "attempts": 1})
    assert {
        video["video_id"]: Video(**video) for video in read_store_dataset(store.path).values()
    } == {video.video_id: video for video in videos}
    assert store.failures()["video_id"].tolist() == sorted(names)
    assert [store.failure_of(name) is not None for name in names] == [
        k % 2 == 0 for k in range(len(names))
    ]
    answer = CliRunner().invoke(
        main.main, ["query", str(store.path), "SELECT video_id FROM failures", "--as", "csv"]
    )
    rows = list(csv.reader(io.StringIO(answer.stdout)))
    assert sorted(row[0] for row in rows[1:]) == sorted(names)


@given(file_names, st.sampled_from(["zarr", "hdf5"]))
def test_a_name_is_found_again_in_the_name_of_its_generation(name: str, array_format: str) -> None:
    path = layout.generation_path(name, "0123456789ab", array_format)
    assert layout.record_and_generation(path)[0] == layout.record_name(name)
    assert len(path.name.encode()) <= 255


def test_all_official_names_have_files_of_their_own(real_data: Path) -> None:
    assert len(OFFICIAL) == 13320 + 6766
    keys = {layout.video_key(name) for name in OFFICIAL}
    assert len(keys) == len(OFFICIAL)
    assert len({key.casefold() for key in keys}) == len(OFFICIAL)  # on disks that take a for A too
    assert (
        max(len(layout.generation_path(name, "0" * 12, "hdf5").name.encode()) for name in OFFICIAL)
        <= 255
    )


NASTY = (
    "shake_hands/Jay_Leno_@_David_Letterman_shake_hands_f_cm_np2_le_med_0",
    "cartwheel/jenny_~_rad_cartwheel_f_cm_np1_ri_med_0",
    "cartwheel/Geena_und_die_Radschl_ge___;-)_cartwheel_f_cm_np1_fr_med_2",
    "kick_ball/Goal_1_&_2_kick_ball_f_cm_np1_fr_goo_2",
    "brush_hair/Brushing_Her_Hair__[_NEW_AUDIO_]_UPDATED!!!!_brush_hair_h_cm_np1_fr_goo_0",
    "catch/Goalkeeper_Training_Day_#_2_catch_f_cm_np1_ba_bad_3",
    "golf/Golf_Tips_-_Hit_The_Driver_300+_Yards!!!_golf_f_nm_np1_fr_med_0",
    "hug/-_FREE_HUGS_-_Abrazos_Gratis_www_abrazosgratis_org_hug_u_cm_np2_ba_goo_10",
)


def flowcpc(*words: object, code: int = 0) -> str:
    """Run a command as a process of its own and return what it prints on stdout."""
    command = [sys.executable, str(ROOT / "cli.py"), *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == code, result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_nastiest_names_of_hmdb51_go_all_the_way(tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    for number, path in enumerate(NASTY):
        write_video(
            tmp_path / "videos" / "clip.avi", moving_texture(3, 24, 32, step=(1, 0), seed=number)
        )
        (tmp_path / "videos" / path).parent.mkdir(exist_ok=True)
        (tmp_path / "videos" / "clip.avi").rename(tmp_path / "videos" / f"{path}.avi")
        label, _, name = path.partition("/")
        with open(lists / f"{label}_test_split1.txt", "a") as file:
            file.write(f"{name}.avi {1 + number % 2} \n")
    names = sorted(path.partition("/")[2] for path in NASTY)
    extract = [
        "extract-flow",
        tmp_path / "videos",
        tmp_path / "s",
        "--size",
        "24x32",
        "--workers",
        0,
    ]
    assert flowcpc(*extract, "--dataset", "hmdb51", "--annotations", lists) == ""
    store = open_store(tmp_path / "s")
    assert store.videos()["video_id"].tolist() == names
    assert sorted(store.videos()["path"]) == sorted(f"{path}.avi" for path in NASTY)
    assert all(store.read_flow(name).shape == (2, 2, 24, 32) for name in names)
    listed = flowcpc(
        "query", tmp_path / "s", "SELECT video_id FROM videos ORDER BY video_id", "--as", "csv"
    )
    assert [row[0] for row in csv.reader(io.StringIO(listed))] == ["video_id", *names]
    flowcpc("show", tmp_path / "s", "--out", tmp_path / "sheet.png", "--", *names)
    flowcpc("export", tmp_path / "s", tmp_path / "out", "--layout", "tsn")
    flowcpc(
        "import",
        tmp_path / "out",
        tmp_path / "in",
        "--layout",
        "tsn",
        "--dataset",
        "hmdb51",
        "--annotations",
        lists,
    )
    for column in ("video_id", "label", "group", "fold1"):
        assert (
            open_store(tmp_path / "in").videos()[column].tolist() == store.videos()[column].tolist()
        )
    assert flowcpc("verify", tmp_path / "s") == ""
