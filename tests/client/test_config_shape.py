from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from chorus_client.config_shape import CONFIG_FILE, read_model, shape_of
from chorus_client.safetensors import Tensor
from chorus_proto import catalogue
from chorus_proto.dialects.strict_json import JsonObject, JsonValue
from chorus_proto.errors import LoadFailed
from chorus_proto.values import ModelShape

DEMO = Path(__file__).parents[1] / "data" / "demo-tiny-hf"

# Numbers as the published config.json files have them; what their configuration classes fill in is left out as there.
LLAMA_8B: JsonObject = {
    "model_type": "llama",
    "hidden_size": 4096,
    "max_position_embeddings": 131_072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
}
MISTRAL_7B: JsonObject = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "max_position_embeddings": 32_768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "sliding_window": None,
    "vocab_size": 32_768,
}
QWEN3_8B: JsonObject = {
    "model_type": "qwen3",
    "head_dim": 128,
    "hidden_size": 4096,
    "max_position_embeddings": 40_960,
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "sliding_window": None,
    "vocab_size": 151_936,
}
GEMMA3_4B: JsonObject = {
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    },
    "vision_config": {"num_hidden_layers": 27, "hidden_size": 1152},
}
GPT_OSS_20B: JsonObject = {
    "model_type": "gpt_oss",
    "head_dim": 64,
    "hidden_size": 2880,
    "layer_types": [("sliding_attention", "full_attention")[layer % 2] for layer in range(24)],
    "max_position_embeddings": 131_072,
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "sliding_window": 128,
    "vocab_size": 201_088,
}


def weights(shape: ModelShape, *, rows: int | None = None, prefix: str = "model.") -> dict[str, Tensor]:
    """The tensors that the reader looks at."""
    tensors = {f"{prefix}embed_tokens.weight": tensor(rows or shape.vocabulary, shape.embedding_length)}
    for layer in range(shape.layers):
        name = f"{prefix}layers.{layer}.self_attn.k_proj.weight"
        tensors[name] = tensor(shape.kv_heads * shape.key_length, shape.embedding_length)
    return tensors


def tensor(*shape: int, dtype: str = "BF16") -> Tensor:
    return Tensor(dtype=dtype, shape=shape, size_bytes=0)


def known(name: str) -> ModelShape:
    entry = catalogue.entry(name)
    assert entry is not None
    return entry.shape


def test_the_demo_folder_has_the_shape_of_the_same_model_in_gguf() -> None:
    model = read_model(DEMO)
    assert model.shape == known("demo-tiny")
    assert model.file_bytes == (DEMO / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("name", "config", "rows"),
    [
        ("llama3.1:8b", LLAMA_8B, None),
        ("mistral:7b", MISTRAL_7B, None),
        ("qwen3:8b", QWEN3_8B, None),
        ("gemma3:4b", GEMMA3_4B, 262_208),
        ("gpt-oss:20b", GPT_OSS_20B, None),
    ],
)
def test_published_configurations_give_the_shapes_of_the_catalogue(
    name: str, config: JsonObject, rows: int | None
) -> None:
    expected = known(name)
    found = shape_of(config, weights(expected, rows=rows))
    for field in ("architecture", "layers", "embedding_length", "heads", "kv_heads", "key_length", "value_length"):
        assert getattr(found, field) == getattr(expected, field), field
    assert found.vocabulary == (rows or expected.vocabulary)
    assert found.trained_context_tokens == expected.trained_context_tokens
    assert (found.sliding_window_tokens, found.sliding_layers) == (
        expected.sliding_window_tokens,
        expected.sliding_layers,
    )


def test_without_layer_types_gpt_oss_alternates_and_gemma_has_every_sixth() -> None:
    config = {key: value for key, value in GPT_OSS_20B.items() if key != "layer_types"}
    assert shape_of(config, weights(known("gpt-oss:20b"))).sliding_layers == 12
    assert shape_of(GEMMA3_4B, weights(known("gemma3:4b"), rows=262_208)).sliding_layers == 29


def test_layers_listed_by_kind_come_first() -> None:
    kinds: list[JsonValue] = ["sliding_attention" if layer < 30 else "full_attention" for layer in range(32)]
    config: JsonObject = {**LLAMA_8B, "sliding_window": 64, "layer_types": kinds}
    found = shape_of(config, weights(known("llama3.1:8b")))
    assert (found.sliding_window_tokens, found.sliding_layers) == (64, 30)


def test_a_window_that_a_loader_may_not_honour_is_not_believed() -> None:
    found = shape_of({**MISTRAL_7B, "sliding_window": 4096}, weights(known("mistral:7b")))
    assert found.sliding_window_tokens is None


def test_layers_of_a_picture_encoder_do_not_count() -> None:
    expected = known("gemma3:4b")
    tensors = weights(expected, rows=262_208, prefix="language_model.model.")
    tensors |= {f"vision_tower.encoder.layers.{layer}.mlp.fc1.weight": tensor(4, 4) for layer in range(40)}
    assert shape_of(GEMMA3_4B, tensors).layers == 34


def test_experts_count_by_their_share_and_packed_parameters_by_their_number() -> None:
    shape = known("gpt-oss:20b")
    tensors = weights(shape)
    shared = sum(one.elements for one in tensors.values())
    tensors["model.layers.0.mlp.experts.gate_up_proj_blocks"] = tensor(32, 100, 16, dtype="U8")
    tensors["model.layers.0.mlp.experts.gate_up_proj_scales"] = tensor(32, 100, dtype="U8")
    found = shape_of(GPT_OSS_20B, tensors)
    assert found.parameters == shared + 2 * 32 * 100 * 16
    assert found.active_parameters == shared + 2 * 4 * 100 * 16
    assert shape_of(LLAMA_8B, weights(known("llama3.1:8b"))).active_parameters is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "mamba"}, "'mamba' is not known"),
        ({"model_type": None}, "not known"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "program code of its own"),
        ({"num_hidden_layers": None}, "num_hidden_layers is missing"),
        ({"num_hidden_layers": 33}, "33 layers and the weights hold 32"),
        ({"num_hidden_layers": 1 << 31}, "layers and the weights"),
        ({"num_hidden_layers": True}, "not a positive whole number"),
        ({"hidden_size": 4096.0}, "not a positive whole number"),
        ({"hidden_size": -1}, "not a positive whole number"),
        ({"hidden_size": 2048}, "no token table of width 2048"),
        ({"num_key_value_heads": 2}, "keys of a token"),
        ({"head_dim": 64}, "keys of a token"),
        ({"vocab_size": 1 << 30}, "tokens and the weights hold"),
        ({"max_position_embeddings": 1 << 32}, "max_position_embeddings"),
    ],
)
def test_a_configuration_that_its_tensors_deny_is_refused(change: JsonObject, words: str) -> None:
    with pytest.raises(LoadFailed) as caught:
        shape_of({**LLAMA_8B, **change}, weights(known("llama3.1:8b")))
    assert words in caught.value.message


def test_keys_packed_by_a_quantiser_are_not_measured() -> None:
    tensors = weights(known("llama3.1:8b"))
    tensors["model.layers.0.self_attn.k_proj.weight"] = tensor(2_097_152, 1, dtype="U8")
    assert shape_of(LLAMA_8B, tensors).kv_heads == 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(DEMO, copy)
    return copy


def test_a_folder_without_a_sound_configuration_is_refused(folder: Path) -> None:
    for raw in (b"", b"[]", b'{"a":1,"a":2}', b'{"model_type":"llama"}', b"{" + b" " * (1 << 20) + b"}"):
        (folder / CONFIG_FILE).write_bytes(raw)
        with pytest.raises(LoadFailed):
            read_model(folder)
    (folder / CONFIG_FILE).unlink()
    with pytest.raises(LoadFailed, match="cannot be read"):
        read_model(folder)


def test_flipped_bits_and_changed_values_in_the_configuration_never_do_more_than_refuse(folder: Path) -> None:
    sound = (folder / CONFIG_FILE).read_bytes()
    rng = random.Random(9)
    refused = 0
    for _ in range(400):
        content = bytearray(sound)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (folder / CONFIG_FILE).write_bytes(bytes(content))
        try:
            read_model(folder)
        except LoadFailed:
            refused += 1
    assert refused > 50
    values: list[object] = [None, -1, 0, 1 << 52, 1.5, "4", [], {}, [4], True]
    for key in json.loads(sound):
        for value in values:
            (folder / CONFIG_FILE).write_text(json.dumps({**json.loads(sound), key: value}), "utf-8")
            try:
                assert read_model(folder).shape.layers == 4
            except LoadFailed:
                continue
