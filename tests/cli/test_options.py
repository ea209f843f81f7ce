from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from chorus_cli.main import chorus
from chorus_cli.options import as_flags, described, settings_options
from chorus_cli.settings import FAMILY
from chorus_client.settings import AgentSettings
from chorus_proto.settings import describe, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Kettle:
    """A settings class of nobody's."""

    watts: int = setting(2000, "how strong", minimum=1)
    names: tuple[str, ...] = setting((), "what it is called")
    whistle: bool = setting(False, "whether it whistles")


def given(*arguments: str) -> dict[str, object]:
    """What a command with a kettle's options gets."""
    seen: dict[str, object] = {}

    @click.command()
    @settings_options(Kettle)
    def command(**flags: object) -> None:
        seen.update(flags)

    result = CliRunner().invoke(command, list(arguments), standalone_mode=False)
    assert result.exception is None, result.exception
    return seen


def test_each_field_of_a_settings_class_is_an_option_that_is_none_until_given() -> None:
    assert given() == {"config": None, "watts": None, "names": (), "whistle": None}
    assert given("--watts", "7", "--names", "a", "--names", "b", "--no-whistle") == {
        "config": None,
        "watts": "7",
        "names": ("a", "b"),
        "whistle": False,
    }


@pytest.mark.parametrize(("command", "section"), [("coordinator", "coordinator"), ("http", "http"), ("agent", "agent")])
def test_a_process_command_has_a_flag_for_every_one_of_its_settings(command: str, section: str) -> None:
    shown = CliRunner().invoke(chorus, [command, "--help"]).output
    missing = [one.flag for one in describe(FAMILY[section]) if not one.secret and one.flag not in shown]
    assert missing == []
    assert "--config" in shown
    assert "--log-level" in shown
    assert "--ready-file" in shown


def test_up_takes_the_flags_of_all_three_parts_except_whom_to_join() -> None:
    shown = CliRunner().invoke(chorus, ["up", "--help"]).output
    for section in ("coordinator", "http", "agent"):
        missing = [one.flag for one in describe(FAMILY[section]) if not one.secret and one.flag not in shown]
        assert missing == (["--join"] if section == "agent" else [])


def test_a_name_that_several_parts_share_means_the_same_type_everywhere() -> None:
    for name, one in described(*FAMILY.values()).items():
        for kind in FAMILY.values():
            for other in describe(kind):
                if other.name == name:
                    assert (other.type, other.multiple, other.flag) == (one.type, one.multiple, one.flag), name


def test_the_flags_of_a_parent_reach_its_child_as_given() -> None:
    flags: dict[str, object] = {
        "join": "elsewhere:1",
        "threads": "1",
        "name": "-odd",
        "engines": ("scripted", "llama_server"),
        "microbench": False,
        "host": "0.0.0.0",
        "models_dirs": (),
    }
    line = as_flags(AgentSettings, flags, leave_out=("join",))
    assert line == ["--name=-odd", "--engines=scripted,llama_server", "--threads=1", "--no-microbench"]


def test_lists_mean_the_same_with_commas_and_repeated(tmp_path: Path) -> None:
    runner = CliRunner()
    outputs = [
        runner.invoke(chorus, ["config", "show", "--json", *arguments]).output
        for arguments in (["--engines", "scripted,ollama"], ["--engines", "scripted", "--engines", "ollama"])
    ]
    assert outputs[0] == outputs[1]
    assert '"value":"scripted, ollama","origin":"flag --engines"' in outputs[0]


def test_no_command_takes_a_secret_on_its_command_line() -> None:
    secrets = [one.flag for kind in FAMILY.values() for one in describe(kind) if one.secret]
    assert secrets
    for command in ("up", "agent", "coordinator", "http"):
        shown = CliRunner().invoke(chorus, [command, "--help"]).output
        assert not [flag for flag in secrets if f"{flag} " in shown]
