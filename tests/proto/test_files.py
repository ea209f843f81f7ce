from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from chorus_proto.files import only_one, state_folder, write_atomically
from chorus_proto.settings import SettingsError

HOLDER = """
import sys
from pathlib import Path
from chorus_proto.files import only_one
with only_one(Path(sys.argv[1]), "taken"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_new_content_replaces_the_old_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    path.write_bytes(b"old and longer")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions")
def test_what_is_written_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"old")
    path.chmod(0o644)
    write_atomically(path, b"secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_write_that_fails_leaves_the_old_content_and_no_draft(tmp_path: Path) -> None:
    folder = tmp_path / "in the way"
    folder.mkdir()
    (folder / "file").write_text("kept")
    with pytest.raises(OSError, match="in the way"):
        write_atomically(folder, b"new")
    assert (folder / "file").read_text() == "kept"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_state_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    folder = state_folder(tmp_path / "a" / "b")
    assert folder.is_dir()
    assert list(folder.iterdir()) == []


def test_a_place_that_cannot_be_a_folder_is_refused_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"file.* cannot be written .*--state-dir"):
        state_folder(tmp_path / "file" / "state")


def test_a_lock_is_held_by_one_block_and_free_after_it(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    with only_one(lock, "taken"):
        with pytest.raises(SettingsError, match=r"^taken$"), only_one(lock, "taken"):
            pass
        with pytest.raises(SettingsError, match=r"^taken$"), only_one(lock, "taken"):
            pass  # the refused block above must not have let go of it
    with only_one(lock, "taken"):
        pass


def test_a_lock_is_free_after_a_block_that_failed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), only_one(tmp_path / "x.lock", "taken"):
        raise RuntimeError
    with only_one(tmp_path / "x.lock", "taken"):
        pass


def test_another_process_is_refused_until_the_holder_dies(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(SettingsError), only_one(lock, "taken"):
            pass
        holder.kill()
        holder.wait(timeout=10)
    with only_one(lock, "taken"):
        pass
