"""What becomes of broken and odd files.

Prints docs/extraction/bad_media.md, by the command named there.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import pandas as pd
from checkout import ROOT, real_data_folder

from flowcpc.stores.flow_store import open_store

HEADER = """# Broken and odd media

What `flowcpc extract-flow` does with each file of a folder of broken and odd media, at 64x86;
printed by `PYTHONPATH=tests/support/helpers .venv/bin/python tests/support/cases/bad_media.py`
and tested by `tests/scenarios/test_bad_media.py`. A file is stored with what it decodes to, or it
is a row in `failures` with a reason; none is silently absent or silently short. *Marked* means
that the header claims another number of frames (`decoded_is_header` is false in `videos`);
`--strict` refuses such a video where the difference is above one frame and 1 %.
"""

FOOTER = """
By hand: the script above prints this page. These commands extract one file and query its row:

```
mkdir one && cp FILE one/
flowcpc extract-flow one one.flow --size 64x86        # exit code 3 where the file is refused
flowcpc query one.flow "SELECT video_id, decoded_frames, header_frames, flows FROM videos"
flowcpc query one.flow "SELECT video_id, kind, reason FROM failures"
```

FILE needs an extension of a video, or a line in a CSV (`--dataset csv`), as the script writes for
all of them. The files are those of the folder `bad` in the test data, which `FLOWCPC_TEST_DATA`
names.
"""


def extract_all(folder: Path, work: Path, *words: str) -> "tuple[int, pd.DataFrame, pd.DataFrame]":
    """Extract every file of `folder` by the real command into a store under `work`.

    Returns the exit code, and the videos and the failures with a column `file`.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file())
    videos = work / "videos"
    for file in files:  # by suffix: two files that differ in that alone would have one name
        place = videos / (file.suffix.lower().removeprefix(".") or "none") / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(file)
    paths = sorted(
        path.relative_to(videos).as_posix() for path in videos.rglob("*") if path.is_symlink()
    )
    pd.DataFrame({"path": paths, "label": "bad"}).to_csv(work / "list.csv", index=False)
    command = [
        sys.executable,
        str(ROOT / "cli.py"),
        "extract-flow",
        str(videos),
        str(work / "store"),
        "--dataset",
        "csv",
    ]
    command += [
        "--annotations",
        str(work / "list.csv"),
        "--size",
        "64x86",
        "--workers",
        "2",
        *words,
    ]
    code = subprocess.run(command, capture_output=True, timeout=280, check=False).returncode
    store = open_store(work / "store")
    tables = [
        table.assign(file=[Path(path).name for path in table["path"]])
        for table in (store.videos(), store.failures())
    ]
    return code, *tables


def to_markdown(videos: pd.DataFrame, failures: pd.DataFrame) -> str:
    """Return the page."""
    rows = {}
    for row in videos.to_dict("records"):
        claim = "" if pd.isna(row["header_frames"]) else f", header {row['header_frames']}"
        marked = "" if row["decoded_is_header"] else " (*marked*)"
        rows[row["file"]] = (
            f"stored: {row['decoded_frames']} frames, {row['flows']} "
            f"flow{'s' * (row['flows'] > 1)}{claim}{marked}"
        )
    for row in failures.to_dict("records"):
        rows[row["file"]] = f"failed ({row['kind']}): {row['reason']}"
    lines = [f"| {re.sub('[|]', '&#124;', name)} | {rows[name]} |" for name in sorted(rows)]
    counts = f"{len(videos)} stored, {len(failures)} failed, with OpenCV {cv2.__version__}."
    return "\n".join([HEADER, counts, "", "| file | outcome |", "|---|---|", *lines, FOOTER])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        print(to_markdown(*extract_all(real_data_folder() / "bad", Path(place))[1:]), end="")
