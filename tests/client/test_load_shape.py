from __future__ import annotations

import pytest

from chorus_client.engine_parameters import RawParameter
from chorus_client.load_shape import gpu_share, load_shape
from chorus_proto.catalogue import entry
from chorus_proto.sizing import CacheType, LoadShape, kv_bytes


def shaped(**parameters: RawParameter) -> LoadShape:
    named = {name.replace("_", "-"): value for name, value in parameters.items()}
    return load_shape(named, context_tokens=4096, slots=2)


def test_without_parameters_a_load_is_what_the_engine_does_by_itself() -> None:
    assert shaped() == LoadShape(context_tokens=4096, slots=2)


@pytest.mark.parametrize(
    ("keys", "values", "counted"),
    [
        ("q8_0", "q8_0", CacheType.Q8_0),
        ("q4_0", "q4_0", CacheType.Q4_0),
        ("q4_0", "f16", CacheType.F16),
        ("q5_1", "q4_0", CacheType.Q8_0),
        ("bf16", "q8_0", CacheType.F16),
    ],
)
def test_a_cache_counts_as_the_wider_of_its_types(keys: str, values: str, counted: CacheType) -> None:
    assert shaped(cache_type_k=keys, cache_type_v=values).cache_type is counted


def test_batches_and_attention_reach_the_estimate() -> None:
    assert shaped(ubatch_size=1024).ubatch_tokens == 1024
    assert shaped(ubatch_size=1024, batch_size=256).ubatch_tokens == 256
    assert shaped(flash_attn="off").flash_attention is False
    assert shaped(flash_attn="auto").flash_attention is True


def test_a_full_cache_for_sliding_layers_takes_more_memory() -> None:
    known = entry("gemma3:12b")
    assert known is not None
    shape = known.shape
    full, cut = (
        kv_bytes(shape, load_shape(params, context_tokens=16_384, slots=1)) for params in ({"swa-full": True}, {})
    )
    assert full == 2 * shape.layers * 16_384 * shape.kv_heads * (shape.key_length + shape.value_length)
    assert cut < full / 3


@pytest.mark.parametrize(("layers", "share"), [(None, 1.0), (-1, 1.0), (0, 0.0), (9, 0.25), (36, 1.0), (999, 1.0)])
def test_layers_on_the_gpu_are_a_share_of_all_and_the_output_table(layers: int | None, share: float) -> None:
    parameters: dict[str, RawParameter] = {} if layers is None else {"n-gpu-layers": layers}
    assert gpu_share(parameters, 35) == share
