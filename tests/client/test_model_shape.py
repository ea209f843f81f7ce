from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from chorus_client.gguf import GgufHeader, read_header
from chorus_client.inventory import bundled_folder
from chorus_client.model_shape import is_embedding, shape_of
from chorus_proto import catalogue
from chorus_proto.errors import LoadFailed
from tests.support.gguf_writer import BOOL, STRING, U32, U64, Array, Raw, llama


def header(folder: Path, metadata: Mapping[str, object]) -> GgufHeader:
    path = folder / "model.gguf"
    path.write_bytes(llama(metadata).encoded())
    return read_header(path)


def as_architecture(name: str, extra: Mapping[str, object]) -> dict[str, object]:
    """The writer's llama under another name."""
    numbers = {
        "block_count": 12,
        "context_length": 512,
        "embedding_length": 64,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
    }
    return {"general.architecture": name, **{f"{name}.{key}": value for key, value in numbers.items()}} | {
        f"{name}.{key}": value for key, value in extra.items()
    }


def test_the_shape_of_each_bundled_model_is_the_one_in_the_catalogue() -> None:
    folder = bundled_folder()
    assert folder is not None
    for entry in catalogue.bundled():
        assert entry.file is not None
        found = read_header(folder / entry.file)
        assert shape_of(found) == entry.shape
        assert found.file_bytes == entry.file_bytes
        assert is_embedding(found) == entry.embedding


def test_key_and_value_lengths_default_to_the_share_of_a_head(tmp_path: Path) -> None:
    shape = shape_of(header(tmp_path, {}))
    assert (shape.key_length, shape.value_length) == (16, 16)
    assert shape.parameters == 64 * 64 + 64 + 64 * 128
    shape = shape_of(header(tmp_path, {"llama.attention.key_length": 128, "llama.attention.value_length": 96}))
    assert (shape.key_length, shape.value_length) == (128, 96)


def test_heads_given_for_each_layer_are_never_undercounted(tmp_path: Path) -> None:
    heads = {"llama.attention.head_count": Array(U32, [4, 8]), "llama.attention.head_count_kv": Array(U32, [0, 3])}
    shape = shape_of(header(tmp_path, heads))
    assert shape.heads == 8
    assert shape.kv_heads * shape.layers >= 3


@pytest.mark.parametrize(("architecture", "sliding"), [("gemma3", 10), ("gpt-oss", 6), ("cohere2", 9)])
def test_the_window_counts_in_the_layers_that_the_architecture_says(
    tmp_path: Path, architecture: str, sliding: int
) -> None:
    shape = shape_of(header(tmp_path, as_architecture(architecture, {"attention.sliding_window": 128})))
    assert (shape.sliding_window_tokens, shape.sliding_layers) == (128, sliding)


def test_a_window_in_an_unknown_architecture_is_not_believed(tmp_path: Path) -> None:
    shape = shape_of(header(tmp_path, as_architecture("phi3", {"attention.sliding_window": 128})))
    assert (shape.sliding_window_tokens, shape.sliding_layers) == (None, None)


def test_a_pattern_in_the_file_comes_first(tmp_path: Path) -> None:
    pattern = {"attention.sliding_window": 128, "attention.sliding_window_pattern": Array(BOOL, [1, 1, 0] * 4)}
    assert shape_of(header(tmp_path, as_architecture("gemma3", pattern))).sliding_layers == 8


def test_a_mixture_of_experts_touches_only_its_used_experts(tmp_path: Path) -> None:
    file = llama({"llama.expert_count": 8, "llama.expert_used_count": 2})
    file.tensors.append(("blk.0.ffn_up_exps.weight", (64, 16, 8), 0, 64 * 16 * 8 * 4))
    (tmp_path / "model.gguf").write_bytes(file.encoded())
    shape = shape_of(read_header(tmp_path / "model.gguf"))
    assert shape.active_parameters == shape.parameters - 64 * 16 * 8 * 6 // 8


def test_an_embedding_model_is_told_by_architecture_or_pooling(tmp_path: Path) -> None:
    assert not is_embedding(header(tmp_path, {}))
    assert not is_embedding(header(tmp_path, {"llama.pooling_type": 0}))
    assert is_embedding(header(tmp_path, {"llama.pooling_type": 3}))
    bert = header(tmp_path, as_architecture("bert", {}))
    assert is_embedding(bert)
    assert shape_of(bert).kv_heads == 0


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"general.architecture": None}, "general.architecture"),
        ({"llama.block_count": None}, "llama.block_count is missing"),
        ({"llama.block_count": 0}, "llama.block_count is 0"),
        ({"llama.block_count": Raw(struct.pack("<IQ", U64, 1 << 33))}, "llama.block_count is 8589934592"),
        ({"llama.context_length": Raw(struct.pack("<IQ", U64, 1 << 32))}, "llama.context_length is 4294967296"),
        ({"llama.embedding_length": "many"}, "llama.embedding_length"),
        ({"llama.attention.head_count": 0}, "head_count"),
        ({"llama.attention.head_count": Array(STRING, ["a"])}, "head_count"),
        ({"llama.attention.head_count": Array(U32, [])}, "head_count"),
    ],
)
def test_a_header_without_a_needed_number_is_refused_with_its_key(
    tmp_path: Path, metadata: dict[str, object], words: str
) -> None:
    with pytest.raises(LoadFailed, match=words):
        shape_of(header(tmp_path, metadata))


def test_the_vocabulary_comes_from_the_tokens_else_the_number_else_the_table(tmp_path: Path) -> None:
    assert shape_of(header(tmp_path, {})).vocabulary == 64
    without = {"tokenizer.ggml.tokens": None}
    assert shape_of(header(tmp_path, {**without, "llama.vocab_size": 99})).vocabulary == 99
    assert shape_of(header(tmp_path, without)).vocabulary == 64
