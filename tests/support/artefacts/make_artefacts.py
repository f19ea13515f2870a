"""Make the artefacts of an earlier version that tests/scenarios/test_earlier_artefacts.py reads.

They were made with commit c816d8c, the last one before the folders of the project were renamed, by

    PYTHONPATH=CLONE:CLONE/tests unshare --uts sh -c 'hostname flowcpc-artefacts &&
        CLONE/.venv/bin/python make_artefacts.py CLONE/.venv/bin/flowcpc TEST'

where CLONE is a clone of that commit, and TEST is test_earlier_artefacts.py. The name of the host
is set because the records of a store keep it. Everything is made with the real command line, in
the folder /tmp/flowcpc-artefacts, with paths relative to it. Two files come out beside this one:

- earlier.tar.xz: the videos with their lists, a zarr store, an HDF5 store, and a run that was
  pretrained for a few steps, evaluated in five modes and embedded into the zarr store;
- expected.json: what that version read from them, by the functions of TEST, and what it made of
  the run when it went on.

Do not make them again with a later version: what they are for is that they are old. Names of
generations and times are in the records, so a second call does not give the same bytes.
"""

import csv
import importlib.util
import io
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

WORK = Path("/tmp/flowcpc-artefacts")
CLASSES = ("OscillateVertical", "RotateClockwise", "TranslateLeft", "ZoomIn")
BROKEN = "TranslateLeft/v_TranslateLeft_g04_c01.avi"
ABSENT = "ZoomIn/v_ZoomIn_g04_c01.avi"
MTIME = 1_700_000_000
FEW_STEPS = 4
# Sums in one order, and oneDNN's kernels without AVX: with AVX2 and one thread those of torch 2.13
# write beyond their memory where channels are fewer than 8. The test sets the same.
NUMERICS = {"OMP_NUM_THREADS": "1", "ONEDNN_MAX_CPU_ISA": "SSE41"}
# As small as the model can be: ten thousand weights.
SETTINGS = {
    "num_segments": 5,
    "num_observed": 3,
    "num_flows": 2,
    "spacing": 1,
    "size": "24x24",
    "width": 2,
    "batch_size": 4,
    "log_every": 3,
    "checkpoint_every": 4,
    "validate_every": 100,
}
MODES = {
    "linear": {"linear_steps": 6},
    "finetune": {"finetune_steps": 3},
    "probe": {},
    "knn": {"neighbours": 3},
    "retrieval": {},
}


def main(flowcpc: str, test: Path) -> None:
    """Make everything; `flowcpc` is the command of the earlier version."""
    here = Path(__file__).resolve().parent
    module = _load(test)
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    _make_videos(flowcpc)
    _run(flowcpc, *module.EXTRACT["zarr.flow"], allowed=3)
    _run(flowcpc, *module.EXTRACT["hdf5.flow"], allowed=3)
    settings = [word for item in SETTINGS.items() for word in ("--set", "{}={}".format(*item))]
    options = ("--preset", "tiny", "--steps", str(FEW_STEPS))
    _run(flowcpc, "pretrain", "zarr.flow", "run", *options, *settings)
    for mode, values in MODES.items():
        own = [word for item in values.items() for word in ("--set", "{}={}".format(*item))]
        _run(flowcpc, "evaluate", "zarr.flow", "run", "--mode", mode, *own)
    _run(flowcpc, "embed", "zarr.flow", "run")
    (WORK / "run" / "curve.png").unlink()  # a tenth of all bytes, and nothing reads it
    _pack(here / "earlier.tar.xz")
    expected = module.read_everything(WORK)
    # What changes the artefacts comes last; the archive is made already.
    _run(flowcpc, *module.RESUME)
    expected["resumed"] = module.read_resumed(WORK)
    (here / "expected.json").write_text(_to_text(expected) + "\n")
    shutil.rmtree(WORK)


def _load(test: Path) -> ModuleType:
    """Return the test module, whose functions read the artefacts now and later."""
    spec = importlib.util.spec_from_file_location("test_earlier_artefacts", test)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(flowcpc: str, *arguments: str, allowed: int = 0) -> None:
    """Run a command of the earlier version; it has to end with the code that is `allowed`."""
    environment = {**os.environ, **NUMERICS}
    done = subprocess.run([flowcpc, *arguments], cwd=WORK, env=environment, check=False)
    if done.returncode != allowed:
        raise SystemExit(f"{arguments} ended with {done.returncode} instead of {allowed}")


def _make_videos(flowcpc: str) -> None:
    """Make clips of four classes and their lists, which name a broken and an absent one too."""
    shape = ("--groups", "3", "--clips-per-group", "1", "--frames", "16", "--size", "32x48")
    _run(flowcpc, "synth", "synth", *shape)
    for name in CLASSES:
        shutil.copytree(WORK / "synth" / "videos" / name, WORK / "videos" / name)
    lists = WORK / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_text("".join(f"{n} {c}\n" for n, c in enumerate(CLASSES, 1)))
    for fold in ("01", "02"):
        for split in ("train", "test"):
            name = f"{split}list{fold}.txt"
            lines = (WORK / "synth" / "annotations" / name).read_text().splitlines()
            kept = [line.split()[0] for line in lines if line.split("/")[0] in CLASSES]
            kept += [BROKEN, ABSENT] if split == "train" else []
            (lists / name).write_text("".join(f"{path}\n" for path in kept))
    whole = (WORK / "videos" / "TranslateLeft" / "v_TranslateLeft_g02_c01.avi").read_bytes()
    (WORK / "videos" / BROKEN).write_bytes(whole[:1000])
    with open(WORK / "list.csv", "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["path", "label", "group", "split"])
        rows.writerow(["ZoomIn/v_ZoomIn_g01_c01.avi", "zoom", "one", "train"])
        rows.writerow(["RotateClockwise/v_RotateClockwise_g02_c01.avi", "turn", "two", "test"])
        rows.writerow([BROKEN, "slide", "three", "train"])
    shutil.rmtree(WORK / "synth")
    for path in (WORK / "videos").rglob("*.avi"):  # a store knows its sources by size and time
        os.utime(path, (MTIME, MTIME))


def _pack(archive: Path) -> None:
    """Pack the folder, always in the same order and as nobody's."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(WORK.rglob("*")):
            member = tar.gettarinfo(path, path.relative_to(WORK).as_posix())
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = MTIME
            member.mode = 0o755 if path.is_dir() else 0o644
            if path.is_dir():
                tar.addfile(member)
            else:
                with open(path, "rb") as file:
                    tar.addfile(member, file)
    archive.write_bytes(lzma.compress(data.getvalue(), preset=9 | lzma.PRESET_EXTREME))


def _to_text(value: object, indent: str = "") -> str:
    """Return JSON with a line for each row of numbers, so that a difference can be read."""
    parts = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(parts, list) or not any(isinstance(part, dict | list) for part in parts):
        return json.dumps(value)
    deeper = f"{indent} "
    lines = [_to_text(part, deeper) for part in parts]
    if isinstance(value, dict):
        names = map(json.dumps, value)
        lines = [f"{name}: {line}" for name, line in zip(names, lines, strict=True)]
    first, last = "{}" if isinstance(value, dict) else "[]"
    return f"{first}\n{deeper}" + f",\n{deeper}".join(lines) + f"\n{indent}{last}"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
