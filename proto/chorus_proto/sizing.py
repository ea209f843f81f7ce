"""The one estimate of the memory that a loaded model needs. Pure arithmetic; everybody who asks asks here.

Formulas as llama.cpp allocates (llama-kv-cache.cpp, the "compute buffer size" lines of its log): weights, KV cache,
compute buffers, and what the engine takes before the first byte of any model. The estimate holds within 10 % of the
resident memory measured for the bundled models (tests/proto/test_sizing.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from chorus_proto.values import EngineKind, ModelShape

_MIB = 1 << 20

PROCESS_BYTES = 15_000_000
SLOT_BYTES = 800_000
"""Footprint (anonymous pages, see `chorus_client.footprint`) of an engine process beside model, cache and buffers, and
of each slot on top: what `bench/footprint_prediction.py` left over on Linux x86-64 with the bundled engine, one thread
and prompts that fill the context (13.2-17.0 MB with one slot, 13.3-19.0 MB with four)."""

TORCH_PROCESS_BYTES = 300_000_000
"""The same of the SafeTensors server: its own process and the one that computes (torch's CPU build on Linux)."""

TORCH_WIDENED_BYTES = 2 << 30
"""Weights of 16 bits up to this size are computed with 32 bits on a CPU, which has no fast arithmetic for them."""

DISCRETE_GPU_BYTES = 457 * _MIB
"""A CUDA context and the backend's own buffers on each card, as Ollama reserves (its discover and sched packages)."""

METAL_BYTES = 512 * _MIB
"""Metal's share, as Ollama reserves."""

_LAYER_EMBEDDINGS = 3 * 3 + 5
_ENCODER_EMBEDDINGS = 10

_CELLS_STEP = 256
"""llama.cpp rounds the cells of a KV cache up to this."""


class CacheType(StrEnum):
    """How the KV cache keeps its numbers."""

    F16 = "f16"
    Q8_0 = "q8_0"
    Q4_0 = "q4_0"


_BYTES_PER_ELEMENT = {CacheType.F16: 2.0, CacheType.Q8_0: 34 / 32, CacheType.Q4_0: 18 / 32}


class DeviceKind(StrEnum):
    """Where the weights lie, as far as memory is concerned."""

    CPU = "cpu"
    DISCRETE_GPU = "discrete_gpu"
    SHARED_GPU = "shared_gpu"
    """A GPU in the host's memory: Apple silicon and integrated graphics."""


def host_bytes(slots: int, engine: EngineKind = EngineKind.LLAMA_SERVER) -> int:
    """What an engine process takes of the host's memory beside model, cache and buffers, wherever those lie."""
    process_bytes = TORCH_PROCESS_BYTES if engine is EngineKind.TRANSFORMERS else PROCESS_BYTES
    return process_bytes + slots * SLOT_BYTES


def _overhead_bytes(device: DeviceKind, slots: int, engine: EngineKind) -> int:
    match device:
        case DeviceKind.CPU:
            return host_bytes(slots, engine)
        case DeviceKind.DISCRETE_GPU:
            return DISCRETE_GPU_BYTES
        case DeviceKind.SHARED_GPU:
            return METAL_BYTES + host_bytes(slots, engine)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadShape:
    """How a model is loaded: `slots` generations at once with `context_tokens` each."""

    context_tokens: int
    slots: int = 1
    cache_type: CacheType = CacheType.F16
    ubatch_tokens: int = 512
    flash_attention: bool = True
    full_sliding_cache: bool = False
    """Layers with a sliding window keep every token all the same (llama.cpp's `--swa-full`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Bytes that a model needs on its device, by cause."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    overhead_bytes: int
    context_tokens: int
    slots: int = 1

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.compute_bytes + self.overhead_bytes

    def in_words(self, free_bytes: int | None = None) -> str:
        """The arithmetic for people: `needs 9.8 GB = 7.1 weights + 2.0 KV at 16k + 0.7 buffers; free 8.6`.

        Decimal units; megabytes while the total is below one gigabyte.
        """
        unit, size = ("GB", 1e9) if self.total_bytes >= 1e9 else ("MB", 1e6)
        slots = f"{self.slots} x " if self.slots > 1 else ""
        words = (
            f"needs {self.total_bytes / size:.1f} {unit} = {self.weights_bytes / size:.1f} weights"
            f" + {self.kv_bytes / size:.1f} KV at {slots}{tokens_in_words(self.context_tokens)}"
            f" + {(self.compute_bytes + self.overhead_bytes) / size:.1f} buffers"
        )
        if free_bytes is None:
            return words
        free = f"{free_bytes / 1e9:.1f} GB" if unit == "MB" and free_bytes >= 1e9 else f"{free_bytes / size:.1f}"
        return f"{words}; free {free}"


def estimate(
    shape: ModelShape | None,
    file_bytes: int,
    load: LoadShape,
    device: DeviceKind,
    engine: EngineKind = EngineKind.LLAMA_SERVER,
) -> Estimate:
    """Memory of a model of `file_bytes` loaded by `engine` as `load` says.

    Without a shape the cache and buffers count as a fifth of the file, which covers dense models of 1B to 70B at a
    context of 8k. A file of 0 bytes is a model that runs elsewhere and needs nothing here. The context is cut to the
    one the model was trained with, because no engine is started with more.
    """
    if file_bytes == 0:
        return Estimate(
            weights_bytes=0, kv_bytes=0, compute_bytes=0, overhead_bytes=0, context_tokens=load.context_tokens
        )
    if shape is None:
        return Estimate(
            weights_bytes=file_bytes,
            kv_bytes=file_bytes // 5,
            compute_bytes=0,
            overhead_bytes=_overhead_bytes(device, load.slots, engine),
            context_tokens=load.context_tokens,
            slots=load.slots,
        )
    context_tokens = min(load.context_tokens, shape.trained_context_tokens)
    # Its cache has the width of its weights.
    width = 2 if engine is EngineKind.TRANSFORMERS and _is_widened(shape, file_bytes, device) else 1
    return Estimate(
        weights_bytes=width * file_bytes,
        kv_bytes=width * kv_bytes(shape, load),
        compute_bytes=_compute_bytes(shape, load),
        overhead_bytes=_overhead_bytes(device, load.slots, engine),
        context_tokens=context_tokens,
        slots=load.slots,
    )


def _is_widened(shape: ModelShape, file_bytes: int, device: DeviceKind) -> bool:
    """Whether torch computes these weights with twice the bits they are stored with."""
    stored_with_16_bits = file_bytes < 3 * shape.parameters
    return device is DeviceKind.CPU and stored_with_16_bits and file_bytes <= TORCH_WIDENED_BYTES


def kv_bytes_per_token(shape: ModelShape, cache_type: CacheType = CacheType.F16) -> float:
    """Cache bytes that one token takes over all layers, sliding or not."""
    return shape.layers * _bytes_per_cell(shape, cache_type)


def kv_bytes(shape: ModelShape, load: LoadShape) -> int:
    """The whole cache. Every slot has its own part of it, rounded up by itself.

    Sliding layers keep the window and one batch (llama-kv-cache-iswa.cpp). Read off the bundled engine's log, which
    keeps slots apart (`kv_unified = 'false'`): gemma3 with a window of 1024 has 1536 cells in each of four slots.
    """
    full_cells = _slot_cells(shape, load)
    sliding_layers = 0
    sliding_cells = full_cells
    window_tokens = None if load.full_sliding_cache else shape.sliding_window_tokens
    if window_tokens is not None and shape.sliding_layers is not None:
        sliding_layers = min(shape.sliding_layers, shape.layers)
        sliding_cells = min(full_cells, _rounded_up(window_tokens + load.ubatch_tokens))
    cells = (shape.layers - sliding_layers) * full_cells + sliding_layers * sliding_cells
    return round(load.slots * cells * _bytes_per_cell(shape, load.cache_type))


def _slot_cells(shape: ModelShape, load: LoadShape) -> int:
    """Cells of one slot in a layer that sees everything."""
    return _rounded_up(min(load.context_tokens, shape.trained_context_tokens))


def _bytes_per_cell(shape: ModelShape, cache_type: CacheType) -> float:
    """One token in one layer."""
    return shape.kv_heads * (shape.key_length + shape.value_length) * _BYTES_PER_ELEMENT[cache_type]


def _compute_bytes(shape: ModelShape, load: LoadShape) -> int:
    """One batch in f32: its logits beside its last activations, or what lives inside a layer if that is more.

    258.5 MiB for Llama 3 8B, the figure in llama.cpp's log. Inside a layer the bundled engine keeps three feed-forward
    activations and five of the embedding's length (3.52 MiB for demo-tiny, 26.5 MiB with embeddings of 1024 and a
    feed-forward length of 2816), and the attention mask of a slot, two bytes a cell. The feed-forward length is not
    known here and counts as three embeddings; it matters for models with a small vocabulary only. An encoder
    (`kv_heads` 0) has no gate and no cache, and llama.cpp keeps room for the logits of its whole batch beside.
    """
    cells = _slot_cells(shape, load)
    batch_tokens = min(load.ubatch_tokens, load.slots * cells)
    if shape.kv_heads == 0:
        batch_tokens = min(load.ubatch_tokens, load.slots * min(load.context_tokens, shape.trained_context_tokens))
        return 4 * batch_tokens * (_ENCODER_EMBEDDINGS * shape.embedding_length + shape.vocabulary)
    attention = 2 * batch_tokens * cells
    if not load.flash_attention:
        attention += 4 * batch_tokens * cells * shape.heads
    in_layer = 4 * batch_tokens * _LAYER_EMBEDDINGS * shape.embedding_length + attention
    return max(4 * batch_tokens * (shape.embedding_length + shape.vocabulary), in_layer)


def _rounded_up(cells: int) -> int:
    return -(-cells // _CELLS_STEP) * _CELLS_STEP


def tokens_in_words(tokens: int) -> str:
    """`16k`, `4.25k`, `512`."""
    return f"{tokens / 1024:.4g}k" if tokens >= 1024 else str(tokens)
