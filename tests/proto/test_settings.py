from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pytest

from chorus_proto.settings import Loaded, SettingsError, describe, load, rising, setting


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


@dataclass(frozen=True)
class Hub:
    grpc_port: int = setting(50051, "Port for agents; 0 picks a free one.", minimum=0, maximum=65535)
    lease_s: float = setting(10.0, "Seconds without a heartbeat.", minimum=0.1)
    colour: Colour = setting(Colour.RED, "Of the prompt.")
    polite: bool = setting(False, "Yield to the owner.")
    state_dir: Path = setting(Path("state"), "Where everything lies.")
    log_file: Path | None = setting(None, "Also log there.")
    engines: tuple[str, ...] = setting((), "Engines to use.", choices=("ollama", "llama_server"))
    api_key: str | None = setting(None, "Of the hub.", secret=True)
    log_level: str = setting("info", "How much to say.", flag="--verbosity", choices=("info", "debug"))


@dataclass(frozen=True)
class Agent:
    join: str = setting("", "HOST:PORT of the coordinator.")
    lease_s: float = setting(10.0, "Seconds without a heartbeat.")


@dataclass(frozen=True)
class Range:
    least: int = setting(1, "The least.")
    most: int = setting(2, "The most.")
    limit: int = setting(9, "Of the most.")

    def check(self) -> None:
        rising(self, "least", "most")
        rising(self, "most", "limit", equal=True)


def ranged(file: Path | None = None, environ: dict[str, str] | None = None, **flags: object) -> Range:
    return load(Range, section="http", file=file, environ=environ or {}, flags=flags).values


def loaded(
    file: Path | None = None, environ: dict[str, str] | None = None, flags: dict[str, object] | None = None
) -> Loaded[Hub]:
    return load(
        Hub, section="coordinator", file=file, environ=environ or {}, flags=flags or {}, family={"agent": Agent}
    )


def refusal(file: Path | None = None, environ: dict[str, str] | None = None, **flags: object) -> str:
    with pytest.raises(SettingsError) as caught:
        loaded(file, environ, flags)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "chorus.toml"


def test_with_nothing_given_every_value_is_its_default() -> None:
    got = loaded()
    assert got.values == Hub()
    assert set(got.origins.values()) == {"default"}


def test_each_source_wins_over_the_one_before_and_is_named_as_the_origin(toml: Path) -> None:
    toml.write_text("grpc_port = 1\nlease_s = 2\ncolour = 'green'\npolite = true\n[coordinator]\nlease_s = 3\n")
    got = loaded(toml, {"CHORUS_COLOUR": "RED", "CHORUS_POLITE": "no"}, {"polite": True, "state_dir": None})
    assert got.values == Hub(grpc_port=1, lease_s=3.0, colour=Colour.RED, polite=True)
    assert got.origins["grpc_port"] == f"file {toml}"
    assert got.origins["colour"] == "environment CHORUS_COLOUR"
    assert got.origins["polite"] == "flag --polite"
    assert got.origins["state_dir"] == "default"


def test_every_type_can_be_given_as_text() -> None:
    got = loaded(
        environ={
            "CHORUS_GRPC_PORT": "0",
            "CHORUS_LEASE_S": "1.5",
            "CHORUS_POLITE": "on",
            "CHORUS_STATE_DIR": "x/y",
            "CHORUS_ENGINES": "ollama, llama_server",
            "CHORUS_LOG_FILE": "",
            "CHORUS_API_KEY": "k",
        }
    ).values
    assert got == Hub(
        grpc_port=0,
        lease_s=1.5,
        polite=True,
        state_dir=Path("x/y"),
        engines=("ollama", "llama_server"),
        api_key="k",
    )


def test_a_path_in_the_file_starts_at_the_files_folder(toml: Path) -> None:
    toml.write_text("state_dir = 'here'")
    assert loaded(toml).values.state_dir == toml.parent / "here"


def test_a_file_saved_by_windows_notepad_is_read(toml: Path) -> None:
    toml.write_bytes(b"\xef\xbb\xbfgrpc_port = 7\r\n")
    assert loaded(toml).values.grpc_port == 7


def test_keys_of_another_process_are_known_and_checked_but_not_taken(toml: Path) -> None:
    toml.write_text("join = 'a:1'\n[agent]\nlease_s = 99\n[http]\nwhatever = 1\n")
    assert loaded(toml).values == Hub()
    toml.write_text("[agent]\nlease = 99\n")
    assert "unknown key 'lease' in [agent]; did you mean 'lease_s'?" in refusal(toml)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("grpc_prot = 1", "unknown key 'grpc_prot'; did you mean 'grpc_port'?"),
        ("[cordinator]\ngrpc_port = 1", "unknown table [cordinator]; did you mean 'coordinator'?"),
        ("grpc_port = 'x'", "grpc_port = 'x' (file {}): not an integer; write integer 0-65535"),
        ("grpc_port = 65536", "too large; write integer 0-65535"),
        ("grpc_port = -1", "too small"),
        ("grpc_port = true", "not an integer"),
        ("grpc_port = 1.0", "not an integer"),
        ("lease_s = nan", "not a finite number; write number >= 0.1"),
        ("lease_s = false", "not a number"),
        ("colour = 'gren'", "not known; write one of red, green"),
        ("log_level = 'loud'", "write one of info, debug"),
        ("polite = 1", "not true or false"),
        ("state_dir = 3", "not a path"),
        ("engines = 3", "not a list"),
        ("engines = ['ollama', 3]", "not a list of text"),
        ("engines = ['ollana']", "'ollana' is not known"),
        ("grpc_port = ", "is not TOML: "),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_that_names_key_origin_and_fix(toml: Path, text: str, says: str) -> None:
    toml.write_text(text)
    assert says.format(toml) in refusal(toml)
    assert str(toml) in refusal(toml)


def test_a_file_that_cannot_be_read_is_refused(toml: Path) -> None:
    assert "does not exist" in refusal(toml)
    assert "cannot be read" in refusal(toml.parent)
    toml.write_bytes(b"join = '\xff'")
    assert "is not UTF-8 (byte 8)" in refusal(toml)


def test_a_wrong_variable_or_flag_is_named() -> None:
    assert "(environment CHORUS_GRPC_PORT)" in refusal(environ={"CHORUS_GRPC_PORT": "many"})
    assert "(flag --verbosity)" in refusal(log_level="loud")


def test_a_number_too_large_for_a_float_is_refused() -> None:
    assert "not a finite number" in refusal(environ={"CHORUS_LEASE_S": "1e999"})
    assert "not a number" in refusal(lease_s=10**400)


def test_an_unknown_variable_is_a_warning_with_the_closest_name() -> None:
    got = loaded(environ={"CHORUS_GRPC_PROT": "1", "CHORUS_JOIN": "a:1", "PATH": "x"})
    assert got.warnings == ("environment variable CHORUS_GRPC_PROT is not a setting; did you mean 'CHORUS_GRPC_PORT'?",)
    assert got.values == Hub()


def test_a_flag_that_no_process_has_is_a_bug_of_the_caller() -> None:
    assert loaded(flags={"join": "a:1"}).values == Hub()
    with pytest.raises(TypeError, match="nonsense"):
        loaded(flags={"nonsense": 1})


def test_settings_that_contradict_each_other_are_refused_by_both_names_with_their_origins(toml: Path) -> None:
    toml.write_text("least = 5\n")
    with pytest.raises(SettingsError) as caught:
        ranged(toml, {"CHORUS_MOST": "5"})
    said = f"least = 5 must be less than most = 5 (least: file {toml}, most: environment CHORUS_MOST)"
    assert str(caught.value) == said
    with pytest.raises(
        SettingsError, match=r"^most = 10 must be at most limit = 9 \(most: flag --most, limit: default"
    ):
        ranged(most=10)


def test_settings_are_checked_together_once_all_sources_are_read(toml: Path) -> None:
    toml.write_text("least = 5\n")
    assert ranged(toml, {"CHORUS_MOST": "9"}) == Range(least=5, most=9)


def test_a_secret_is_shown_nowhere() -> None:
    got = loaded(environ={"CHORUS_API_KEY": "ch_very_secret"})
    assert got.values.api_key == "ch_very_secret"
    assert ("api_key", "***", "environment CHORUS_API_KEY") in got.rows()
    assert "ch_very_secret" not in repr(got)
    assert "ch_very_secret" not in refusal(api_key=["ch_very_secret"])


def test_the_description_is_enough_to_build_flags_from() -> None:
    described = {one.name: one for one in describe(Hub)}
    assert list(described) == list(loaded().origins)
    assert described["grpc_port"].flag == "--grpc-port"
    assert described["log_level"].flag == "--verbosity"
    assert described["log_file"].optional
    assert described["log_file"].type is Path
    assert described["engines"].multiple
    assert described["colour"].choices == ("red", "green")
    assert described["engines"].type_name == "list of one of ollama, llama_server"
    assert described["log_file"].type_name == "path or nothing"


def test_a_field_of_a_type_that_cannot_be_loaded_is_a_bug() -> None:
    @dataclass(frozen=True)
    class Wrong:
        when: bytes = setting(b"", "Bytes are no setting.")

    with pytest.raises(TypeError, match="when: settings cannot be of type"):
        describe(Wrong)
