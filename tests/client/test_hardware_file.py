from __future__ import annotations

import json
from pathlib import Path

import pytest

from chorus_client.hardware import fingerprint, read_hardware_file
from chorus_proto.errors import InvalidRequest

DOCS = Path(__file__).parents[2] / "docs" / "hardware"


def refusal(path: Path) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read_hardware_file(path)
    assert str(path) in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("name", ["weak", "middle", "strong"])
def test_the_samples_in_the_documentation_are_sound(name: str) -> None:
    found = read_hardware_file(DOCS / f"{name}.toml")
    assert found.ram_bytes is not None
    assert found.memory_bandwidth_bytes_per_s is not None
    assert found.cpu_flops_per_s is not None
    assert found.bench_tokens_per_s is not None
    assert found.fingerprint == fingerprint(found)


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    toml, other = tmp_path / "pc.toml", tmp_path / "pc.json"
    toml.write_text('os = "Linux"\narch = "x"\nram_bytes = 5\n[[gpus]]\nname = "card"\nmemory_bytes = 7\n')
    other.write_text(
        json.dumps({"os": "Linux", "arch": "x", "ram_bytes": 5, "gpus": [{"name": "card", "memory_bytes": 7}]})
    )
    assert read_hardware_file(toml) == read_hardware_file(other)
    assert read_hardware_file(toml).gpus[0].memory_bytes == 7


def test_an_empty_file_is_a_pc_of_which_nothing_is_known(tmp_path: Path) -> None:
    path = tmp_path / "pc.toml"
    path.write_text("")
    found = read_hardware_file(path)
    assert found.ram_bytes is None
    assert found.os


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ram = 5", "unknown field ram"),
        ("[[gpus]]\nname = 'x'\nvram = 5", "unknown field gpus[0].vram"),
        ("ram_bytes = -1", "ram_bytes is -1"),
        ("cpu_flops_per_s = nan", "cpu_flops_per_s is nan"),
        ("[[gpus]]\nname = 'x'\n[[gpus]]\nname = 'y'\nmemory_bytes = -2", "gpus[1].memory_bytes is -2"),
        ("ram_bytes = 'much'", "$.ram_bytes"),
        ("ram_bytes = true", "$.ram_bytes"),
        ("gpus = 3", "$.gpus"),
        ("gpus = [3]", "$.gpus[0]"),
        ("[[gpus]]\nmemory_bytes = 3", "name"),
        ("os = ", "cannot be parsed"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_the_field(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "pc.toml"
    path.write_text(text)
    assert words in refusal(path)


def test_files_that_are_missing_not_text_or_no_table_are_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.toml")
    binary = tmp_path / "pc.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "cannot be parsed" in refusal(binary)
    listed = tmp_path / "pc.json"
    listed.write_text("[1]")
    assert "no table" in refusal(listed)
    listed.write_text("[" * 100_000)
    assert "cannot be parsed" in refusal(listed)
