from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from chorus_client.local_servers.config import LEGACY_NAME, Form, ServersConfig, load
from chorus_proto.settings import SettingsError

SEED = """{
  "local_llm_servers": [
    {
      "name": "qwen-coder",
      "llama_server_path": "../llama.cpp/build/bin/llama-server",
      "server_host": "127.0.0.1",
      "server_port": 8000,
      "healthcheck_interval": 2.0,
      "model_dir": "Qwen--Qwen3-Coder-30B-A3B-Instruct-GGUF",
      "gguf_file": "qwen3-coder.gguf",
      "auto_start": true,
      "server_params": {
        "ctx-size": "4096",
        "n-gpu-layers": "35"
      }
    },
    {
      "name": "llama-3",
      "llama_server_path": "../llama.cpp/build/bin/llama-server",
      "server_host": "127.0.0.1",
      "server_port": 8001,
      "healthcheck_interval": 2.0,
      "model_dir": "Llama-3-8B-Instruct-GGUF",
      "gguf_file": "llama-3-8b.gguf",
      "auto_start": false
    }
  ],
  "llm_endpoint": {
    "default_local_server": "qwen-coder",
    "api_base_url": "http://127.0.0.1:8000/v1",
    "api_key": "EMPTY",
    "model_name": "Qwen/Qwen3-Coder-30B-A3B-Instruct-GGUF",
    "tool_execution_mode": "dual_pass_write_only"
  }
}
"""
LEGACY = """{
  "local_llm_server": {
    "llama_server_path": "../llama.cpp/build/bin/llama-server",
    "server_host": "127.0.0.1",
    "server_port": 8000,
    "gguf_file": "model.gguf"
  },
  "llm_endpoint": {
    "api_base_url": "http://127.0.0.1:8000/v1"
  }
}"""
ODD = '{"theme" :"dark","local_llm_servers":[ {"color": [1,\t2], "name":"a","llama_server_path":"bundled"} ],\r\n"z":1}'


def loaded(folder: Path, text: str) -> ServersConfig:
    path = folder / "config.json"
    path.write_bytes(text.encode())
    return load(path)


def test_the_older_form_with_one_server_loads(tmp_path: Path) -> None:
    config = loaded(tmp_path, LEGACY)
    assert config.form is Form.ONE
    assert config.list_servers() == [LEGACY_NAME]
    server = config.get_active_server()
    assert (server.server_port, server.gguf_file, server.auto_start) == (8000, "model.gguf", False)


def test_the_form_with_several_servers_loads(tmp_path: Path) -> None:
    config = loaded(tmp_path, SEED)
    first, second = config.servers
    assert (first.name, first.server_port, first.auto_start) == ("qwen-coder", 8000, True)
    assert first.server_params == {"ctx-size": "4096", "n-gpu-layers": "35"}
    assert (second.name, second.server_params) == ("llama-3", {})
    assert first.healthcheck_interval_s == 2.0


def test_a_server_is_found_by_its_name(tmp_path: Path) -> None:
    config = loaded(tmp_path, SEED)
    assert config.get_server_by_name("llama-3").server_port == 8001
    with pytest.raises(SettingsError, match="did you mean 'llama-3'"):
        config.get_server_by_name("lama-3")


def test_a_server_is_found_by_its_port(tmp_path: Path) -> None:
    config = loaded(tmp_path, SEED)
    found = config.get_server_by_port(8001)
    assert found is not None
    assert found.name == "llama-3"
    assert config.get_server_by_port(9) is None


def test_the_active_server_is_the_default_one(tmp_path: Path) -> None:
    assert loaded(tmp_path, SEED).get_active_server().name == "qwen-coder"


def test_without_a_default_the_active_server_is_the_one_that_clients_use_else_the_first(tmp_path: Path) -> None:
    text = SEED.replace('"default_local_server": "qwen-coder",', "")
    assert loaded(tmp_path, text.replace("8000/v1", "8001/v1")).get_active_server().name == "llama-3"
    assert loaded(tmp_path, text.replace("8000/v1", "1/v1")).get_active_server().name == "qwen-coder"


def test_the_names_are_listed_in_the_order_of_the_file(tmp_path: Path) -> None:
    assert loaded(tmp_path, SEED).list_servers() == ["qwen-coder", "llama-3"]


def test_a_new_default_is_written_with_its_address_and_nothing_else_changes(tmp_path: Path) -> None:
    config = loaded(tmp_path, SEED)
    config.path.chmod(0o640)
    changed = config.update_default_server("llama-3")
    assert changed.get_active_server().name == "llama-3"
    expected = SEED.replace('server": "qwen-coder"', 'server": "llama-3"').replace("8000/v1", "8001/v1")
    assert config.path.read_text() == expected
    assert list(tmp_path.iterdir()) == [config.path]
    if os.name == "posix":
        assert stat.S_IMODE(config.path.stat().st_mode) == 0o640


def test_what_somebody_changed_since_the_file_was_read_survives_a_new_default(tmp_path: Path) -> None:
    config = loaded(tmp_path, SEED)
    config.path.write_text(SEED.replace('"gguf_file": "llama-3-8b.gguf"', '"gguf_file": "other.gguf"'))
    assert config.update_default_server("llama-3").get_server_by_name("llama-3").gguf_file == "other.gguf"
    assert '"other.gguf"' in config.path.read_text()


def test_a_default_that_is_no_server_is_refused_and_the_file_stays(tmp_path: Path) -> None:
    config = loaded(tmp_path, SEED)
    with pytest.raises(SettingsError, match="no server 'nobody'"):
        config.update_default_server("nobody")
    assert config.path.read_text() == SEED


def test_a_default_is_added_where_there_was_none(tmp_path: Path) -> None:
    config = loaded(tmp_path, ODD)
    config.update_default_server("a")
    document = json.loads(config.path.read_text())
    assert document["llm_endpoint"] == {"default_local_server": "a", "api_base_url": "http://127.0.0.1:8000/v1"}
    assert config.path.read_bytes().startswith(ODD.encode()[:-1])


@pytest.mark.parametrize("text", [SEED, LEGACY, ODD, "\ufeff" + SEED, SEED.replace("\n", "\r\n")])
def test_what_is_loaded_is_saved_byte_for_byte(tmp_path: Path, text: str) -> None:
    config = loaded(tmp_path, text)
    config.save()
    assert config.path.read_bytes() == text.encode()
    copy = config.save(tmp_path / "copy.json")
    assert copy.path.read_bytes() == text.encode()
    assert load(copy.path).servers == config.servers


@pytest.mark.parametrize(("text", "name"), [(SEED, "qwen-coder"), (LEGACY, LEGACY_NAME)])
def test_direct_changes_to_the_active_server_are_kept_on_save_in_the_files_own_form(
    tmp_path: Path, text: str, name: str
) -> None:
    config = loaded(tmp_path, text).with_active(server_port=8888, server_params={"threads": 2}).save()
    again = load(config.path)
    assert again.form is config.form
    assert again.get_active_server().name == name
    assert again.get_active_server().server_port == 8888
    assert again.get_active_server().server_params == {"threads": 2}
    assert again.endpoint.api_base_url == "http://127.0.0.1:8888/v1"
    assert again.servers[1:] == loaded(tmp_path, text).servers[1:]


def test_a_direct_change_that_the_file_could_not_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="same server_port"):
        loaded(tmp_path, SEED).with_active(server_port=8001)
    with pytest.raises(SettingsError, match="server_port = 0"):
        loaded(tmp_path, SEED).with_active(server_port=0)


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    config = loaded(tmp_path, SEED)
    link = tmp_path / "link.json"
    try:
        link.symlink_to(config.path)
    except OSError:
        pytest.skip("needs POSIX: this user may not make links")
    load(link).update_default_server("llama-3")
    assert link.is_symlink()
    assert load(config.path).get_active_server().name == "llama-3"


ONE = '{"local_llm_servers": [{"name": "a", "llama_server_path": "bundled", %s}]}'
TWO = '{"local_llm_servers": [{"name": "a", "llama_server_path": "x", "server_port": 1}, {%s}]}'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"local_llm_servers": [{"llama_server_path": "x"}]}', "local_llm_servers[0]: name is missing"),
        ('{"local_llm_servers": [{"name": "a"}]}', "llama_server_path is missing"),
        ('{"local_llm_server": {"server_port": 1}}', "local_llm_server: llama_server_path is missing"),
        ('{"local_llm_servers": {"name": "a"}}', "must be an array"),
        ('{"local_llm_servers": "a"}', "must be an array"),
        ('{"local_llm_servers": ["a"]}', "local_llm_servers[0] must be an object"),
        ("{}", "add local_llm_servers"),
        ("[]", "must be a JSON object"),
        ('{"a": 1, "a": 2}', "stands twice"),
        ('{"local_llm_servers": [], "local_llm_server": {}}', "keep one"),
        (TWO % '"name": "A", "llama_server_path": "x", "server_port": 2', "two servers with the name"),
        (TWO % '"name": "b", "llama_server_path": "x", "server_port": 1', "same server_port 1"),
        (ONE % '"server_port": 0', "from 1 to 65535"),
        (ONE % '"server_port": 65536', "from 1 to 65535"),
        (ONE % '"server_port": "8000"', "server_port = '8000': write a whole number"),
        (ONE % '"server_port": true', "write a whole number"),
        (ONE % '"auto_start": 1', "write true or false"),
        (ONE % '"healthcheck_interval": 0', "healthcheck_interval = 0"),
        (ONE % '"gguf_file": 3', "write text"),
        (ONE % '"gguf_file": "../x.gguf"', "gguf_file"),
        (ONE % '"model_dir": "../x"', "model_dir"),
        (ONE % '"server_params": ["a"]', "server_params must be an object"),
        (ONE % '"server_params": {"host": "0.0.0.0"}', "server_params.host"),
        (ONE % '"server_host": "0.0.0.0"', "without a key"),
        (ONE % '"server_host": "--path"', "server_host"),
        ('{"local_llm_servers": [{"name": "a b", "llama_server_path": "x"}]}', "name = 'a b'"),
        ('{"local_llm_servers": [{"name": "--x", "llama_server_path": "x"}]}', "name = '--x'"),
        ('{"local_llm_servers": [{"name": "a", "llama_server_path": "x\\u0000"}]}', "llama_server_path"),
        (SEED.replace('server": "qwen-coder"', 'server": "gone"'), "default_local_server = 'gone'"),
        ('{"local_llm_servers": [], "llm_endpoint": 1}', "llm_endpoint must be an object"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_key_at_fault(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        loaded(tmp_path, text)
    assert said in str(refused.value)
    assert "config.json" in str(refused.value)


def test_a_file_that_is_not_there_not_text_or_huge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--config"):
        load(tmp_path / "none.json")
    path = tmp_path / "odd.json"
    path.write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="UTF-8"):
        load(path)
    path.write_bytes(b" " * (1 << 21))
    with pytest.raises(SettingsError, match="larger"):
        load(path)


def test_a_key_of_ones_own_lets_a_server_listen_for_others_and_is_never_shown(tmp_path: Path) -> None:
    text = ONE % '"server_host": "0.0.0.0"'
    config = loaded(tmp_path, text[:-1] + ', "llm_endpoint": {"api_key": "sk-quite-secret"}}')
    assert config.endpoint.secret == "sk-quite-secret"
    assert "sk-quite-secret" not in repr(config)
