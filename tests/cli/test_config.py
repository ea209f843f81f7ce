from __future__ import annotations

import json
from pathlib import Path

import pytest

from chorus_cli.main import main


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[tuple[str, str], tuple[str, str]]:
    assert main(["config", "show", "--json", *arguments]) == 0
    rows: list[dict[str, str]] = json.loads(capsys.readouterr().out)
    return {(row["section"], row["name"]): (row["value"], row["origin"]) for row in rows}


def test_the_effective_value_and_its_origin_are_shown_for_every_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "chorus.toml"
    file.write_text('state_dir = "here"\n[http]\nhttp_port = 7000\n[agent]\nmodels_dirs = ["mine", "yours"]\n')
    monkeypatch.setenv("CHORUS_SLOTS", "2")
    rows = shown(capsys, "--config", str(file), "--threads", "3")
    for section in ("coordinator", "http", "agent"):
        assert rows[section, "state_dir"] == (str(tmp_path / "here"), f"file {file}")
    assert rows["http", "http_port"] == ("7000", f"file {file}")
    assert rows["coordinator", "slots"] == ("2", "environment CHORUS_SLOTS")
    assert rows["agent", "threads"] == ("3", "flag --threads")
    assert rows["agent", "models_dirs"] == (f"{tmp_path / 'mine'}, {tmp_path / 'yours'}", f"file {file}")
    assert rows["coordinator", "grpc_port"] == ("50051", "default")


def test_a_secret_is_never_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHORUS_REMOTE_API_KEY", "hunter2hunter2")
    assert shown(capsys)["agent", "remote_api_key"] == ("***", "environment CHORUS_REMOTE_API_KEY")


def test_a_wrong_key_is_refused_with_the_closest_right_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "chorus.toml"
    file.write_text("[agent]\nmodel_dirs = []\n")
    assert main(["config", "show", "--config", str(file)]) == 2
    assert "did you mean 'models_dirs'?" in capsys.readouterr().err


def test_a_variable_that_is_no_setting_is_named_but_harmless(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHORUS_HTPP_PORT", "1")
    assert main(["config", "show"]) == 0
    assert "CHORUS_HTPP_PORT is not a setting; did you mean 'CHORUS_HTTP_PORT'?" in capsys.readouterr().err
