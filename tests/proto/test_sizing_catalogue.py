"""The estimate against a count of every tensor, every cache row and the largest buffer of the models people use.

The files are synthetic: every tensor at its real shape and type, and no contents.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from chorus_client.gguf import read_header
from chorus_client.model_shape import shape_of
from chorus_proto import catalogue
from chorus_proto.catalogue import CatalogueEntry
from chorus_proto.sizing import DeviceKind, LoadShape, estimate
from tests.support.synthetic_models import FACTS, Facts, Row, size_of, tensors, write

LOADS = [LoadShape(context_tokens=context, slots=slots) for context in (4096, 32_768) for slots in (1, 4)]
LARGEST_ERROR = 0.05
LARGEST_UNDER_ESTIMATE = 0.03
UBATCH_TOKENS = 512


def known(name: str) -> tuple[CatalogueEntry, Facts]:
    entry = catalogue.entry(name)
    assert entry is not None
    return entry, FACTS[name]


def cache_bytes(entry: CatalogueEntry, facts: Facts, load: LoadShape) -> int:
    """f16 keys and values, layer by layer, slot by slot."""
    shape = entry.shape
    total = 0
    for layer in range(0 if entry.embedding else shape.layers):
        cells = 256 * math.ceil(min(load.context_tokens, shape.trained_context_tokens) / 256)
        if facts.every_full is not None:
            # gpt-oss begins each pair with the window, gemma3 ends each six with the layer that sees everything.
            slides = layer % facts.every_full < facts.every_full - 1
            window = shape.sliding_window_tokens
            assert window is not None
            if slides:
                cells = min(cells, 256 * math.ceil((window + UBATCH_TOKENS) / 256))
        total += load.slots * cells * shape.kv_heads * (shape.key_length + shape.value_length) * 2
    return total


def buffer_bytes(entry: CatalogueEntry, facts: Facts, load: LoadShape) -> int:
    """What one batch needs: the logits or the inside of a layer, as the engine's log says for known lengths."""
    shape = entry.shape
    logits = shape.embedding_length + shape.vocabulary
    if entry.embedding:
        return 4 * UBATCH_TOKENS * (shape.vocabulary + 2 * facts.feed_forward + 2 * shape.embedding_length)
    mask = min(load.context_tokens, shape.trained_context_tokens) // 2
    used = 0 if facts.experts else 3 * facts.feed_forward
    return 4 * UBATCH_TOKENS * max(logits, used + 5 * shape.embedding_length + mask)


def counted_bytes(entry: CatalogueEntry, facts: Facts, rows: list[Row], load: LoadShape) -> int:
    weights = sum(size_of(size, kind) for _, size, kind in rows)
    return weights + cache_bytes(entry, facts, load) + buffer_bytes(entry, facts, load)


def assert_close(predicted: int, counted: int) -> None:
    error = predicted / counted - 1
    assert -LARGEST_UNDER_ESTIMATE <= error <= LARGEST_ERROR


def test_every_real_model_of_the_catalogue_has_its_facts() -> None:
    assert {name for name, entry in catalogue.entries().items() if entry.file is None} == set(FACTS)
    assert len(FACTS) >= 25


@pytest.mark.parametrize("name", FACTS)
def test_the_synthetic_tensors_are_those_of_the_real_model(name: str) -> None:
    entry, facts = known(name)
    rows = tensors(entry, facts)
    assert sum(math.prod(size) for _, size, _ in rows) == pytest.approx(entry.shape.parameters, rel=0.005)
    assert sum(size_of(size, kind) for _, size, kind in rows) == pytest.approx(entry.file_bytes, rel=0.05)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: a file of 65 GB that is a hole and takes no disk")
@pytest.mark.parametrize("name", FACTS)
def test_the_estimate_from_the_header_is_within_a_twentieth_of_the_count(tmp_path: Path, name: str) -> None:
    entry, facts = known(name)
    rows = tensors(entry, facts)
    path = tmp_path / "model.gguf"
    write(path, entry, rows)
    header = read_header(path)
    shape = shape_of(header)
    for load in LOADS:
        found = estimate(shape, header.file_bytes, load, DeviceKind.CPU)
        assert_close(found.total_bytes - found.overhead_bytes, counted_bytes(entry, facts, rows, load))


@pytest.mark.parametrize("name", FACTS)
def test_the_estimate_from_the_name_alone_is_as_close(name: str) -> None:
    entry, facts = known(name)
    rows = tensors(entry, facts)
    for load in LOADS:
        found = estimate(entry.shape, entry.file_bytes, load, DeviceKind.CPU)
        assert_close(found.total_bytes - found.overhead_bytes, counted_bytes(entry, facts, rows, load))
