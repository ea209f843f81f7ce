from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest

import chorus_cli
import chorus_client
import chorus_http
import chorus_server
from chorus_cli.settings import FAMILY
from chorus_proto.settings import SettingsError, load

PACKAGES = {"coordinator": chorus_server, "http": chorus_http, "agent": chorus_client, "cli": chorus_cli}
RECEIVERS = {"settings", "_settings", "coordinator", "http", "agent", "cli"}
"""What settings are called where they are read: `self._settings.slots`, `plan.cli.console`."""


def read_in(folder: Path) -> set[str]:
    """The settings that the source below `folder` reads; the modules that declare them do not count."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in folder.rglob("*.py") if file.name != "settings.py"]
    return {
        node.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and _name(node.value) in RECEIVERS
    }


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("section", FAMILY)
def test_every_setting_is_read_by_its_part_or_by_its_command(section: str) -> None:
    read = read_in(Path(PACKAGES[section].__path__[0])) | read_in(Path(chorus_cli.__path__[0]))
    assert [field.name for field in dataclasses.fields(FAMILY[section]) if field.name not in read] == []


@pytest.mark.parametrize(
    ("section", "given", "says"),
    [
        ("coordinator", {"heartbeat_s": 5}, "heartbeat_s = 5 must be less than suspect_after_s = 3"),
        ("coordinator", {"dead_after_s": 3}, "suspect_after_s = 3 must be less than dead_after_s = 3"),
        ("coordinator", {"dead_after_s": 90, "forget_after_s": 60}, "dead_after_s = 90 must be less than forget_after"),
        ("coordinator", {"medium_score": 81}, "medium_score = 81 must be at most large_score = 80"),
        ("http", {"request_within_s": 2}, "stream_open_after_s = 3 must be less than request_within_s = 2"),
        ("agent", {"load_within_s": 30_000}, "load_within_s = 30000 must be at most load_cap_s = 21600"),
        ("agent", {"reconnect_max_s": 40}, "reconnect_max_s = 40 must be less than fence_after_s = 30"),
        ("agent", {"fence_after_s": 2.5}, "connect_within_s = 3 must be less than fence_after_s = 2.5"),
    ],
)
def test_two_settings_that_contradict_each_other_are_refused_by_both_names(
    section: str, given: dict[str, object], says: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(FAMILY[section], section=section, file=None, environ={}, flags=given)
    assert says in str(caught.value)
    assert f"flag --{next(iter(given)).replace('_', '-')}" in str(caught.value)


@pytest.mark.parametrize("section", FAMILY)
def test_the_defaults_agree_with_each_other(section: str) -> None:
    load(FAMILY[section], section=section, file=None, environ={}, flags={})


def test_equal_scores_leave_no_medium_models_and_are_no_contradiction() -> None:
    load(FAMILY["coordinator"], section="coordinator", file=None, environ={}, flags={"medium_score": 80})
