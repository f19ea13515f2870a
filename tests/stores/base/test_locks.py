import errno
import fcntl
from pathlib import Path

import pytest

from flowcpc.stores.base.locks import locked, locked_if_free, shared_by_last


@pytest.mark.parametrize("name", ["folder", "folder/file"])
def test_an_exclusive_lock_refuses_all_others(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    path = tmp_path / name
    with locked(path):
        for shared in (False, True):
            with pytest.raises(ValueError, match="wait"), locked(path, shared=shared, busy="wait"):
                pass
        with locked_if_free(path) as is_free:
            assert not is_free
        with shared_by_last(path) as is_last:
            assert not is_last
    with locked_if_free(path) as is_free:
        assert is_free


def test_a_shared_lock_admits_others_and_no_exclusive_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with locked(path, shared=True), locked(path, shared=True):
        with locked_if_free(path) as is_free:
            assert not is_free
        with shared_by_last(path) as is_last:
            assert not is_last
    with shared_by_last(path) as is_last, locked(path, shared=True):
        assert is_last


def test_a_disk_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path), locked(tmp_path, shared=True):
        pass
    with locked_if_free(tmp_path) as is_free, shared_by_last(tmp_path) as is_last:
        assert not is_free, "nobody knows, so nothing may be deleted"
        assert is_last


def test_errors_of_the_block_pass_through(tmp_path: Path) -> None:
    for lock in (locked, locked_if_free, shared_by_last):
        with pytest.raises(BlockingIOError, match="of the block"), lock(tmp_path):
            raise BlockingIOError("of the block")
