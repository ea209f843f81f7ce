from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from chorus_cli.ready_file import ready_file
from chorus_proto.settings import SettingsError


def test_what_an_earlier_process_left_is_gone_before_this_one_is_ready(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ready.json"
    path.parent.mkdir()
    path.write_text("{}")
    with ready_file(path) as told:
        assert not path.exists()
        told.write({"http_url": "http://127.0.0.1:1"})
        assert json.loads(path.read_text()) == {"http_url": "http://127.0.0.1:1", "pid": os.getpid()}
        assert list(path.parent.iterdir()) == [path]
    assert not path.exists()


def test_without_a_file_nothing_is_written(tmp_path: Path) -> None:
    with ready_file(None) as told:
        assert not told.wanted
        told.write({"join": "x:1"})
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="--ready-file"), ready_file(tmp_path / "file" / "ready.json"):
        pass
