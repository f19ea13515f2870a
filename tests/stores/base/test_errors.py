import hashlib
from pathlib import Path

from flowcpc.stores.base.atomic import sha256_of_file
from flowcpc.stores.base.errors import first_line, nearest_name


def test_first_line() -> None:
    assert first_line(ValueError("\n one\ntwo")) == "one"
    assert first_line(ValueError("  ")) == "ValueError"


def test_nearest_name() -> None:
    assert nearest_name("v_Run_g01", ["v_Walk_g02", "v_Run_g02"]) == "v_Run_g02"
    assert nearest_name("x", ["v_Walk_g02"]) == ""


def test_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"bytes")
    assert sha256_of_file(tmp_path / "file") == hashlib.sha256(b"bytes").hexdigest()
