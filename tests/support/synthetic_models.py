"""The tensors of well-known models, each at its real shape and quantisation, without their contents.

Shapes come from the model cards, types from llama.cpp's Q4_K_M recipe (src/llama-quant.cpp): the output table in Q6_K,
values and down projections in Q6_K in the first and last eighth of the layers and every third between, Q4_K elsewhere;
Q5_0 and Q8_0 where a row is no multiple of 256. Models that Ollama ships otherwise say so in `FACTS`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chorus_proto.catalogue import CatalogueEntry
from tests.support.gguf_writer import ARRAY, F32, Q8_0, STRING, Gguf, Raw

F16, Q5_0, Q4_K, Q5_K, Q6_K, BF16, MXFP4 = 1, 6, 12, 13, 14, 30, 39
BLOCKS = {
    F32: (1, 4),
    F16: (1, 2),
    BF16: (1, 2),
    Q5_0: (32, 22),
    Q8_0: (32, 34),
    MXFP4: (32, 17),
    Q4_K: (256, 144),
    Q5_K: (256, 176),
    Q6_K: (256, 210),
}
"""Tensor type -> (elements, bytes) of a block, written down apart from the reader's table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a catalogue entry does not say. `feed_forward` is per expert in a mixture of experts."""

    feed_forward: int
    tied: bool = False
    """One table for tokens in and out, in Q6_K."""
    twins: bool = False
    """Two tables, both in Q6_K: tied in training and written out twice."""
    experts: int = 0
    plain: int | None = None
    """One type for all matrices instead of the Q4_K_M recipe; the experts of gpt-oss are MXFP4 besides."""
    vision: bool = False
    every_full: int | None = None
    """One layer in so many sees everything: the last (`gemma3`) of each group."""
    more_value_bits: bool = False
    """Models of 70B share values so widely that the recipe gives them Q5_K at least."""


FACTS = {
    "qwen3:0.6b": Facts(feed_forward=3072, twins=True),
    "gemma3:1b": Facts(feed_forward=6912, tied=True, every_full=6),
    "deepseek-r1:1.5b": Facts(feed_forward=8960),
    "llama3.2:1b": Facts(feed_forward=8192, tied=True, plain=Q8_0),
    "qwen3:1.7b": Facts(feed_forward=6144, twins=True),
    "llama3.2:3b": Facts(feed_forward=8192, tied=True),
    "qwen3:4b": Facts(feed_forward=9728, tied=True),
    "gemma3:4b": Facts(feed_forward=10_240, tied=True, every_full=6, vision=True),
    "mistral:7b": Facts(feed_forward=14_336),
    "deepseek-r1:7b": Facts(feed_forward=18_944),
    "llama3.1:8b": Facts(feed_forward=14_336),
    "qwen3:8b": Facts(feed_forward=12_288),
    "deepseek-r1:8b": Facts(feed_forward=12_288),
    "gemma3:12b": Facts(feed_forward=15_360, tied=True, every_full=6, vision=True),
    "deepseek-r1:14b": Facts(feed_forward=13_824),
    "phi4:14b": Facts(feed_forward=17_920),
    "qwen3:14b": Facts(feed_forward=17_408),
    "gpt-oss:20b": Facts(feed_forward=2880, experts=32, plain=BF16, every_full=2),
    "mistral-small:24b": Facts(feed_forward=32_768),
    "gemma3:27b": Facts(feed_forward=21_504, tied=True, every_full=6, vision=True),
    "qwen3:30b-a3b": Facts(feed_forward=768, experts=128),
    "qwen3:32b": Facts(feed_forward=25_600),
    "deepseek-r1:32b": Facts(feed_forward=27_648),
    "llama3.3:70b": Facts(feed_forward=28_672, more_value_bits=True),
    "deepseek-r1:70b": Facts(feed_forward=28_672, more_value_bits=True),
    "gpt-oss:120b": Facts(feed_forward=2880, experts=128, plain=BF16, every_full=2),
    "nomic-embed-text": Facts(feed_forward=3072, tied=True, plain=F16),
}

Row = tuple[str, tuple[int, ...], int]


def size_of(dimensions: tuple[int, ...], type_id: int) -> int:
    elements = 1
    for dimension in dimensions:
        elements *= dimension
    block_elements, block_bytes = BLOCKS[type_id]
    assert dimensions[0] % block_elements == 0
    return elements // block_elements * block_bytes


def tensors(entry: CatalogueEntry, facts: Facts) -> list[Row]:
    """Every tensor of the model: name, dimensions, type."""
    shape = entry.shape
    rows: list[Row] = [*_tables(entry, facts), ("output_norm.weight", (shape.embedding_length,), F32)]
    for layer in range(shape.layers):
        prefix = f"blk.{layer}."
        rows += [(prefix + name, size, kind) for name, size, kind in _layer(entry, facts, layer)]
    if facts.vision:
        rows += _vision(shape.embedding_length)
    return rows


def _typed(dimensions: tuple[int, ...], wanted: int, facts: Facts) -> int:
    if facts.plain is not None:
        return facts.plain
    if dimensions[0] % 256 == 0:
        return wanted
    return Q8_0 if wanted == Q6_K else Q5_0


def _tables(entry: CatalogueEntry, facts: Facts) -> Iterator[Row]:
    table = (entry.shape.embedding_length, entry.shape.vocabulary)
    yield "token_embd.weight", table, _typed(table, Q6_K if facts.tied or facts.twins else Q4_K, facts)
    if not facts.tied:
        yield "output.weight", table, _typed(table, Q6_K, facts)
    if entry.embedding:
        yield "token_types.weight", (entry.shape.embedding_length, 2), F32
        for name in ("token_embd_norm.weight", "token_embd_norm.bias"):
            yield name, (entry.shape.embedding_length,), F32


def _layer(entry: CatalogueEntry, facts: Facts, layer: int) -> Iterator[Row]:
    shape = entry.shape
    embedding = shape.embedding_length
    queries = shape.heads * shape.key_length
    keys = (shape.kv_heads or shape.heads) * shape.key_length
    eighth = shape.layers // 8
    more = layer < eighth or layer >= 7 * shape.layers // 8 or (layer - eighth) % 3 == 2
    value_type = Q6_K if more else Q5_K if facts.more_value_bits else Q4_K
    for name, size, wanted in (
        ("attn_q.weight", (embedding, queries), Q4_K),
        ("attn_k.weight", (embedding, keys), Q4_K),
        ("attn_v.weight", (embedding, keys), value_type),
        ("attn_output.weight", (queries, embedding), Q4_K),
    ):
        yield name, size, _typed(size, wanted, facts)
    yield from _norms_and_biases(entry, queries, keys)
    yield from _feed_forward(entry, facts, Q6_K if more else Q4_K)


def _norms_and_biases(entry: CatalogueEntry, queries: int, keys: int) -> Iterator[Row]:
    shape = entry.shape
    embedding = shape.embedding_length
    norms = ["attn_norm", "ffn_norm"]
    if shape.architecture == "gemma3":
        norms += ["post_attention_norm", "post_ffw_norm"]
    for name in norms:
        yield f"{name}.weight", (embedding,), F32
    if entry.embedding:
        for name in norms:
            yield f"{name}.bias", (embedding,), F32
    if shape.architecture in ("qwen3", "qwen3moe", "gemma3"):
        yield "attn_q_norm.weight", (shape.key_length,), F32
        yield "attn_k_norm.weight", (shape.key_length,), F32
    if shape.architecture in ("qwen2", "gpt-oss"):
        yield "attn_q.bias", (queries,), F32
        yield "attn_k.bias", (keys,), F32
        yield "attn_v.bias", (keys,), F32
    if shape.architecture == "gpt-oss":
        yield "attn_output.bias", (embedding,), F32
        yield "attn_sinks.weight", (shape.heads,), F32


def _feed_forward(entry: CatalogueEntry, facts: Facts, down_type: int) -> Iterator[Row]:
    embedding = entry.shape.embedding_length
    if not facts.experts:
        for name in ("ffn_gate.weight", "ffn_up.weight"):
            yield name, (embedding, facts.feed_forward), _typed((embedding,), Q4_K, facts)
        yield "ffn_down.weight", (facts.feed_forward, embedding), _typed((facts.feed_forward,), down_type, facts)
        return
    is_gpt_oss = entry.shape.architecture == "gpt-oss"
    yield "ffn_gate_inp.weight", (embedding, facts.experts), F32
    sizes = {
        "ffn_gate_exps": (embedding, facts.feed_forward, facts.experts),
        "ffn_up_exps": (embedding, facts.feed_forward, facts.experts),
        "ffn_down_exps": (facts.feed_forward, embedding, facts.experts),
    }
    for name, size in sizes.items():
        wanted = down_type if name == "ffn_down_exps" else Q4_K
        yield f"{name}.weight", size, MXFP4 if is_gpt_oss else wanted
        if is_gpt_oss:
            yield f"{name}.bias", size[1:], F32
    if is_gpt_oss:
        yield "ffn_gate_inp.bias", (facts.experts,), F32


def _vision(embedding: int) -> Iterator[Row]:
    """The picture encoder that Ollama keeps in the same file: SigLIP of 27 layers, width 1152, in F16."""
    width, feed_forward = 1152, 4304
    yield "v.patch_embedding.weight", (14 * 14 * 3, width), F16
    yield "v.position_embedding.weight", (width, 4096), F16
    yield "mm.mm_input_projection.weight", (embedding, width), F16
    for layer in range(27):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"v.blk.{layer}.{name}.weight", (width, width), F16
            yield f"v.blk.{layer}.{name}.bias", (width,), F32
        yield f"v.blk.{layer}.mlp.fc1.weight", (width, feed_forward), F16
        yield f"v.blk.{layer}.mlp.fc2.weight", (feed_forward, width), F16


def write(path: Path, entry: CatalogueEntry, rows: list[Row]) -> None:
    """A file of the model's full length with the header in front; the rest is a hole and takes no disk space."""
    shape = entry.shape
    name = shape.architecture
    numbers = {
        "block_count": shape.layers,
        "context_length": shape.trained_context_tokens,
        "embedding_length": shape.embedding_length,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads or shape.heads,
        "attention.key_length": shape.key_length,
        "attention.value_length": shape.value_length,
    }
    if shape.sliding_window_tokens is not None:
        numbers["attention.sliding_window"] = shape.sliding_window_tokens
    if shape.active_parameters is not None:
        numbers["expert_count"] = FACTS[entry.name].experts
        numbers["expert_used_count"] = 4 if name == "gpt-oss" else 8
    file = Gguf(
        keys=[
            ("general.architecture", name),
            *((f"{name}.{key}", value) for key, value in numbers.items()),
            ("tokenizer.ggml.tokens", _vocabulary(shape.vocabulary)),
        ],
        tensors=[(tensor, size, kind, size_of(size, kind)) for tensor, size, kind in rows],
    )
    head, data_bytes = file.header()
    with path.open("wb") as target:
        target.write(head)
        target.truncate(len(head) + data_bytes)


def _vocabulary(count: int) -> Raw:
    """`count` tokens of six letters."""
    return Raw(struct.pack("<IIQ", ARRAY, STRING, count) + (struct.pack("<Q", 6) + b"tokens") * count)
