from __future__ import annotations

import pytest

from chorus_proto import catalogue
from chorus_proto.errors import InvalidRequest
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ModelFile, ModelShape, Tier

ENTRY = """
[[model]]
name = "a:1b"
file_bytes = 1000
parameters = 1_000_000_000
architecture = "llama"
layers = 16
embedding_length = 2048
heads = 32
kv_heads = 8
head_length = 64
vocabulary = 128_256
context_tokens = 4096
quality = 0.4
"""


def file(name: str, shape: ModelShape | None = None) -> ModelFile:
    return ModelFile(name=ModelName(name), file_bytes=1, engine=EngineKind.OLLAMA, shape=shape)


def shape_with(parameters: int) -> ModelShape:
    known = catalogue.entry("llama3.1:8b")
    assert known is not None
    return ModelShape(
        architecture="llama",
        layers=1,
        embedding_length=1,
        heads=1,
        kv_heads=1,
        key_length=1,
        value_length=1,
        vocabulary=1,
        trained_context_tokens=1,
        parameters=parameters,
    )


def test_the_demo_models_play_small_medium_and_large() -> None:
    tiers = [catalogue.tier_of(file(f"demo-{size}")) for size in ("tiny", "small", "medium")]
    assert tiers == [Tier.SMALL, Tier.MEDIUM, Tier.LARGE]


@pytest.mark.parametrize(
    ("name", "tier"),
    [
        ("qwen3:1.7b", Tier.SMALL),
        ("llama3.2:1b", Tier.SMALL),
        ("llama3.2:3b", Tier.MEDIUM),
        ("gemma3:4b", Tier.MEDIUM),
        ("mistral:7b", Tier.LARGE),
        ("llama3.1:8b", Tier.LARGE),
        ("gpt-oss:20b", Tier.LARGE),
    ],
)
def test_models_fall_into_the_tier_they_are_named_after(name: str, tier: Tier) -> None:
    assert catalogue.tier_of(file(name)) is tier


def test_a_model_not_in_the_catalogue_is_placed_by_its_parameters_and_small_without_them() -> None:
    assert catalogue.tier_of(file("mine", shape_with(catalogue.LARGE_FROM_PARAMETERS))) is Tier.LARGE
    assert catalogue.tier_of(file("mine", shape_with(catalogue.LARGE_FROM_PARAMETERS - 1))) is Tier.MEDIUM
    assert catalogue.tier_of(file("mine", shape_with(catalogue.MEDIUM_FROM_PARAMETERS - 1))) is Tier.SMALL
    assert catalogue.tier_of(file("mine")) is Tier.SMALL


def test_the_header_of_a_file_is_believed_before_the_catalogue() -> None:
    own = shape_with(5)
    assert catalogue.shape_of(file("llama3.1:8b", own)) is own
    known = catalogue.entry("llama3.1:8b")
    assert known is not None
    assert catalogue.shape_of(file("llama3.1:8b")) == known.shape
    assert catalogue.shape_of(file("mine")) is None


def test_names_compare_without_case_and_without_the_default_tag() -> None:
    assert catalogue.normalised(" Llama3:latest ") == catalogue.normalised("llama3")
    assert catalogue.entry("Nomic-Embed-Text:latest") == catalogue.entry("nomic-embed-text")
    assert catalogue.entry("no-such-model") is None


def test_embedding_models_are_marked() -> None:
    marked = {entry.name for entry in catalogue.entries().values() if entry.embedding}
    assert marked == {"all-minilm-l6-v2", "nomic-embed-text"}


def test_about_thirty_models_are_known_and_their_facts_agree() -> None:
    assert len(catalogue.entries()) >= 29
    for entry in catalogue.entries().values():
        bits = 8 * entry.file_bytes / entry.shape.parameters
        assert 3.8 < bits < 16.5, entry.name


def test_the_closest_names_come_best_first_and_no_more_than_asked_for() -> None:
    known = ["demo-tiny", "demo-small", "demo-medium", "llama3.2:3b"]
    assert catalogue.closest("demo-tinny", known)[0] == "demo-tiny"
    assert catalogue.closest("llama3", known) == ["llama3.2:3b"]
    assert len(catalogue.closest("demo", known, limit=2)) == 2
    assert catalogue.closest("zzzz", known) == []
    assert catalogue.closest("", known) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("layers = 16", "layers = 0"), "a:1b: layers"),
        (("layers = 16", 'layers = "many"'), "layers"),
        (("layers = 16", ""), "layers"),
        (("kv_heads = 8", "kv_heads = 0"), "a:1b: kv_heads"),
        (("quality = 0.4", "quality = 40"), "a:1b: quality"),
        (("quality = 0.4", "quality = 0.4\nsliding_layers = 3"), "a:1b: sliding_layers"),
        (("quality = 0.4", "quality = 0.4\nactive_parameters = 2_000_000_000"), "a:1b: active_parameters"),
        (("quality = 0.4", "quality = 0.4\ncolour = 3"), "colour"),
        (("[[model]]", "[[model"), "wrong"),
    ],
)
def test_a_wrong_catalogue_is_refused_with_the_entry_and_the_field(change: tuple[str, str], words: str) -> None:
    assert list(catalogue.parsed(ENTRY)) == ["a:1b"]
    with pytest.raises(InvalidRequest) as caught:
        catalogue.parsed(ENTRY.replace(*change))
    assert words in caught.value.message


def test_a_model_that_stands_twice_in_the_catalogue_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="twice"):
        catalogue.parsed(ENTRY + ENTRY)


@pytest.mark.parametrize(
    "lines",
    [
        'file = "a.gguf"',
        f'sha256 = "{"0" * 64}"',
        *(f'file = "a.gguf"\nsha256 = "{one}"' for one in ("0" * 63, "A" * 64, "../../x")),
    ],
)
def test_a_bundled_file_must_have_its_digest(lines: str) -> None:
    with pytest.raises(InvalidRequest, match="sha256 is out of range"):
        catalogue.parsed(f"{ENTRY}{lines}\n")


def test_a_bundled_file_with_its_digest_is_taken() -> None:
    (entry,) = catalogue.parsed(f'{ENTRY}file = "a.gguf"\nsha256 = "{"0a" * 32}"\n').values()
    assert (entry.file, entry.sha256) == ("a.gguf", "0a" * 32)
