from __future__ import annotations

import random
import re
import string

import pytest

from chorus_proto.errors import InvalidRequest
from chorus_proto.model_source import FileUrl, RegistryName, checked_sha256, file_stem, parse_source, shown_source


@pytest.mark.parametrize(
    ("text", "host", "namespace", "model", "tag", "name"),
    [
        ("llama3.2", "", "library", "llama3.2", "latest", "llama3.2"),
        ("llama3.2:3b", "", "library", "llama3.2", "3b", "llama3.2:3b"),
        ("me/Model:Q4_K_M", "", "me", "Model", "Q4_K_M", "me/model:q4_k_m"),
        ("hf.co/org/repo:q8", "hf.co", "org", "repo", "q8", "hf.co/org/repo:q8"),
        ("mirror.lan:5000/a/b", "mirror.lan:5000", "a", "b", "latest", "mirror.lan:5000/a/b"),
    ],
)
def test_a_registry_name_is_read_as_ollama_reads_it(
    text: str, host: str, namespace: str, model: str, tag: str, name: str
) -> None:
    source = parse_source(text)
    assert source == RegistryName(host=host, namespace=namespace, model=model, tag=tag)
    assert source.name == name


def test_a_url_keeps_its_query_and_loses_its_fragment() -> None:
    source = parse_source("https://example.org/a/My%20Model.Q4.GGUF?x=1&y=2#here")
    assert source == FileUrl(url="https://example.org/a/My%20Model.Q4.GGUF?x=1&y=2", file_name="My Model.Q4.GGUF")
    assert source.name == "my-model.q4"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "..",
        "../x",
        "../../etc/passwd",
        "a/../b",
        "a..b",
        "x:..",
        "x:../y",
        "/etc/passwd",
        "~/x",
        ".hidden",
        "-flag",
        "--flag",
        "C:",
        "C:evil",
        "C:/x/y",
        "C:\\x",
        "c:x.gguf",
        "\\\\host\\share",
        "x:ads:y",
        "x\0y",
        "x\ny",
        "x y",
        "x\u200by",
        "a//b",
        "a/b/c/d",
        "/a",
        "a/",
        ":tag",
        "x:",
        "ho st/a/b",
        "host:99999999/a/b",
        "h..t/a/b",
        "@/a/b",
        "user@host/a/b",
        "x" * 3000,
        "m" * 81,
        "\uff4d\uff4f",
        "file:///etc/passwd.gguf",
        "ftp://a/x.gguf",
        "http:///x.gguf",
        "http://a:0/x.gguf",
        "http://a:99999/x.gguf",
        "http://[::1/x.gguf",
        "http://a/x.bin",
        "http://a/x.safetensors",
        "http://a/",
        "http://a/.gguf",
        "http://a/..%2f..%2fx.gguf",
        "http://a/x%00.gguf",
        "http://a/C%3Ax.gguf",
        "http://a/x.gguf%00.txt",
    ],
)
def test_what_is_neither_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"llama3\.2:3b") as refused:
        parse_source(text)
    assert refused.value.param == "model"
    assert len(refused.value.message) < 600


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidRequest, match="password") as refused:
        parse_source("https://me:hunter2@example.org/x.gguf")
    assert "hunter2" not in refused.value.message


def test_tokens_of_an_address_are_not_shown() -> None:
    assert shown_source("https://a/x.gguf?sig=secret") == "https://a/x.gguf"
    assert shown_source("llama3.2:3b") == "llama3.2:3b"
    with pytest.raises(InvalidRequest) as refused:
        parse_source("https://a/x.bin?sig=secret")
    assert "secret" not in refused.value.message


def test_whatever_passes_holds_nothing_that_a_path_or_a_url_could_trip_over() -> None:
    chance = random.Random(3)
    letters = string.ascii_letters[:6] + "0/:.\\-_~%@ \0\n"
    passed = 0
    for _ in range(30_000):
        text = "".join(chance.choice(letters) for _ in range(chance.randrange(1, 14)))
        try:
            source = parse_source(text)
        except InvalidRequest:
            continue
        passed += 1
        assert isinstance(source, RegistryName)
        for part in (source.namespace, source.model, source.tag):
            assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", part), text
            assert ".." not in part
    assert passed > 300


def test_a_digest_is_64_hex_digits_or_nothing() -> None:
    assert checked_sha256("") == ""
    assert checked_sha256("sha256:" + "AB" * 32) == "ab" * 32
    for bad in ("a" * 63, "a" * 65, "sha256-../../x", "g" * 64):
        with pytest.raises(InvalidRequest, match="64 hexadecimal digits"):
            checked_sha256(bad)


@pytest.mark.parametrize("seed", range(20))
def test_a_file_stem_is_a_plain_name_on_every_system(seed: int) -> None:
    chance = random.Random(seed)
    name = "".join(chr(chance.choice((chance.randrange(128), chance.randrange(0x3000)))) for _ in range(30))
    stem = file_stem(name)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?", stem)
    assert ".." not in stem
