from __future__ import annotations

import pytest

from chorus_client.engine_parameters import ALLOWED, Kind, as_flags, check_together, checked
from chorus_client.llama_cpp_server import parser
from chorus_proto.settings import SettingsError

FORBIDDEN = [
    "host",
    "port",
    "path",
    "api-key",
    "api-key-file",
    "ssl-key-file",
    "ssl-cert-file",
    "cors-origins",
    "tools",
    "tools-all",
    "mcp-config",
    "agent",
    "ui-mcp-proxy",
    "rpc",
    "model-url",
    "mu",
    "mmproj-url",
    "hf-repo",
    "hf-file",
    "hf-token",
    "docker-repo",
    "lora",
    "lora-scaled",
    "log-file",
    "log-prompts-dir",
    "slot-save-path",
    "media-path",
    "models-dir",
    "models-preset",
    "override-kv",
    "chat-template-file",
    "video-ffmpeg-dir",
    "props",
    "reuse-port",
]


@pytest.mark.parametrize("name", [*FORBIDDEN, "--host", "HOST", "api_key"])
def test_what_opens_files_ports_or_a_shell_is_refused_by_name(name: str) -> None:
    with pytest.raises(SettingsError, match="never passed to an engine"):
        checked(name, "x", key="server_params")


def test_no_allowed_parameter_is_a_forbidden_one() -> None:
    assert not set(FORBIDDEN) & set(ALLOWED)


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("ctx-size", "4096", 4096),
        ("ctx-size", 4096, 4096),
        ("n-gpu-layers", "-1", -1),
        ("temp", "0.7", 0.7),
        ("temp", 1, 1.0),
        ("flash-attn", "auto", "auto"),
        ("flash-attn", True, "on"),
        ("mlock", "true", True),
        ("mlock", False, False),
        ("cache-type-k", "q8_0", "q8_0"),
    ],
)
def test_a_value_may_be_text_or_a_number(name: str, value: object, taken: object) -> None:
    assert checked(name, value, key="server_params") == taken
    assert type(checked(name, value, key="server_params")) is type(taken)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("ctx-size", one) for one in ("4096; touch x", "$(id)", "4096\n", "--host", " 4096", "٤٠٩٦", "1e3", "")),
        *(("ctx-size", one) for one in (-1, 1 << 40, 1.5, True, None, (4,), "9" * 30)),
        *(("temp", one) for one in ("nan", "inf", -1, 1e9, float("nan"), "0.7\0", "0x1")),
        *(("flash-attn", one) for one in ("On", "1", 1, "on\n")),
        *(("mlock", one) for one in (1, "yes please", None)),
        *(("cache-type-k", one) for one in ("f32", "q8_0 --host 0.0.0.0", "q8_0\n", "--host", "$(id)", "")),
    ],
)
def test_a_value_of_another_type_or_range_is_refused(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=f"server_params.{name}.*: write "):
        checked(name, value, key="server_params")


@pytest.mark.parametrize(
    ("name", "said"), [("ctx-sze", "did you mean 'ctx-size'"), ("ctx_size", "write it as 'ctx-size'")]
)
def test_an_unknown_name_is_refused_with_the_right_one(name: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        checked(name, "1", key="server_params")


def test_every_parameter_of_the_bundled_engine_is_one_of_its_flags() -> None:
    for name, parameter in ALLOWED.items():
        if parameter.bundled:
            value = parameter.choices[0] if parameter.kind is Kind.CHOICE else max(1, int(parameter.least))
            flags = as_flags({name: True if parameter.kind is Kind.FLAG else value}, bundled=True, key="k")
            parser().parse_args(["--model", "x", *flags])


def test_a_flag_is_one_word_and_only_when_it_is_on() -> None:
    assert as_flags({"mlock": True, "no-mmap": False, "temp": 0.5}, bundled=False, key="k") == [
        "--mlock",
        "--temp",
        "0.5",
    ]


def test_a_flag_that_is_on_by_itself_can_be_turned_off() -> None:
    assert as_flags({"jinja": False, "cont-batching": False}, bundled=False, key="k") == [
        "--no-jinja",
        "--no-cont-batching",
    ]
    assert parser().parse_args(["--model", "x"]).jinja is True
    assert parser().parse_args(["--model", "x", "--no-jinja"]).jinja is False


def test_a_number_is_written_with_all_its_digits() -> None:
    assert as_flags({"rope-freq-base": 1234567.25}, bundled=True, key="k")[1] == "1234567.25"


def test_what_the_bundled_engine_lacks_is_refused_with_the_fix() -> None:
    with pytest.raises(SettingsError, match="set llama_server_path"):
        as_flags({"split-mode": "row"}, bundled=True, key="server_params")


def test_a_small_cache_of_values_without_flash_attention_is_refused() -> None:
    check_together({"cache-type-v": "q8_0", "flash-attn": "auto"}, key="server_params")
    check_together({"cache-type-v": "f16", "flash-attn": "off"}, key="server_params")
    with pytest.raises(SettingsError, match=r"server_params\.cache-type-v = 'q8_0' needs flash attention"):
        check_together({"cache-type-v": "q8_0", "flash-attn": "off"}, key="server_params")
