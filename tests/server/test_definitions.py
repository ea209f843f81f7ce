"""Councils out of their file."""

from __future__ import annotations

from pathlib import Path

import pytest

from chorus_proto.errors import ModelNotFound
from chorus_proto.settings import SettingsError
from chorus_proto.values import AggregateStrategy
from chorus_server.definitions import Selector, read_councils

GOOD = """
[tags]
fast = ["Attic-PC", "cellar-pc"]

[council.fast3]
members = [{ tag = "fast" }, { node = "garage", model = "qwen3:8b" }, { tag = "large" }]
panel = 3
quorum = 2
within_s = 20
tiers_apart = -1
wait_factor = 0

[council.quick]
strategy = "first"

[council.deep]
strategy = "synthesise"
layers = 2
judge = "qwen3:8b"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "councils.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_council_of_all_always_exists() -> None:
    councils = read_councils(None)
    everybody = councils.find("council/all")
    assert (everybody.members, everybody.panel, everybody.tiers_apart) == ((), None, None)
    (summary,) = councils.summaries()
    assert (summary.name, summary.members) == ("council/all", "every PC")


def test_a_file_defines_councils(tmp_path: Path) -> None:
    councils = read_councils(written(tmp_path, GOOD))
    fast = councils.find("Council/FAST3")
    assert councils.find("council/fast3:latest") is fast, "as clients of Ollama call it"
    assert fast.members == (Selector(tag="fast"), Selector(node="garage", model="qwen3:8b"), Selector(tag="large"))
    assert (fast.panel, fast.quorum, fast.within_s) == (3, 2, 20)
    assert (fast.tiers_apart, fast.wait_factor) == (None, None)
    assert councils.find("council/quick").quorum == 1
    assert councils.find("council/deep").strategy is AggregateStrategy.SYNTHESISE
    assert councils.tags["fast"] == {"attic-pc", "cellar-pc"}
    words = {str(summary.name): summary.members for summary in councils.summaries()}
    assert words["council/fast3"] == "at most 3 of tag fast, node garage model qwen3:8b, tag large"


def test_an_unknown_council_is_answered_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="council/fast3"):
        read_councils(written(tmp_path, GOOD)).find("council/fast")
    with pytest.raises(ModelNotFound, match="council/all"):
        read_councils(None).find("council/xyzzy")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[council.x]\nmember = []", "member"),
        ("[council.x]\nstrategy = 'shout'", "shout"),
        ("[council.x]\npanel = 0", "panel"),
        ("[council.x]\nmembers = [{}]", "needs a node"),
        ("[council.x]\nmembers = [{ tag = 'nowhere' }]", "nowhere"),
        ("[council.x]\npanel = 2\nquorum = 3", "quorum 3"),
        ("[council.x]\nlayers = 2", "layers"),
        ("[council.'a b']\npanel = 2", "a b"),
        ("[council.'']\npanel = 2", "name"),
        ("[councils.x]\npanel = 2", "councils"),
        ("council = 7", "council"),
        ("[council.x", "not TOML"),
        ("x = " + "[" * 5000, "not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_councils(written(tmp_path, text))
    assert named in str(caught.value)
    assert "councils.toml" in str(caught.value)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        read_councils(tmp_path / "nothing.toml")
    with pytest.raises(SettingsError, match="regular file"):
        read_councils(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    with pytest.raises(SettingsError, match="UTF-8"):
        read_councils(tmp_path / "latin.toml")
