"""What the parameters of an engine change in the memory that a load needs: from checked parameters to `sizing`."""

from __future__ import annotations

from collections.abc import Mapping

from chorus_client.engine_parameters import RawParameter
from chorus_client.engines.base import CHILD_ENGINES, DEFAULT_CONTEXT_TOKENS, DEFAULT_SLOTS, LoadOptions
from chorus_proto.sizing import CacheType, LoadShape
from chorus_proto.values import ModelFile

_CACHE_TYPES = {"f16": CacheType.F16, "bf16": CacheType.F16, "q4_0": CacheType.Q4_0}
"""The others are counted as q8_0, which none of them exceeds."""
_SIZES = (CacheType.Q4_0, CacheType.Q8_0, CacheType.F16)
_UBATCH_TOKENS = 512
_BATCH_TOKENS = 2048
"""llama-server's own defaults."""


def whole_options(options: LoadOptions, file: ModelFile) -> LoadOptions:
    """`options` with what the engines of ours take where nothing is said (0), so that prediction and load agree.

    And with no more context than the model was trained for: memory for it would be wasted.
    """
    slots, context_tokens = options.slots, options.context_tokens
    if file.engine in CHILD_ENGINES:
        slots, context_tokens = slots or DEFAULT_SLOTS, context_tokens or DEFAULT_CONTEXT_TOKENS
    trained = None if file.shape is None else file.shape.trained_context_tokens
    return LoadOptions(slots=slots, context_tokens=min(context_tokens, trained) if trained else context_tokens)


def load_shape(parameters: Mapping[str, RawParameter], *, context_tokens: int, slots: int) -> LoadShape:
    """A load with these engine parameters. Keys and values of different types count as the wider one of the two."""
    ends = [_CACHE_TYPES.get(str(parameters.get(f"cache-type-{end}", "f16")), CacheType.Q8_0) for end in "kv"]
    batch_tokens = int(parameters.get("batch-size", _BATCH_TOKENS))
    return LoadShape(
        context_tokens=context_tokens,
        slots=slots,
        cache_type=max(ends, key=_SIZES.index),
        # A batch is the most that is computed at once, so llama.cpp cuts the other to it.
        ubatch_tokens=min(batch_tokens, int(parameters.get("ubatch-size", _UBATCH_TOKENS))),
        flash_attention=parameters.get("flash-attn") != "off",
        full_sliding_cache=parameters.get("swa-full") is True,
    )


def gpu_share(parameters: Mapping[str, RawParameter], layers: int) -> float:
    """The part (0-1) of weights and cache that a GPU takes: 0 keeps a model in the host's memory.

    llama.cpp counts the output table as one layer more (`n_layer + 1` offloads all of them). 1 where nothing is set.
    """
    wanted = int(parameters.get("n-gpu-layers", -1))
    return 1.0 if wanted < 0 else min(1.0, wanted / (layers + 1))
