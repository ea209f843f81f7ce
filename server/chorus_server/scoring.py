"""How able a PC is, as one number from 0 to 100 with a physical meaning, and how fast it will run a given model.

The score says the largest dense 4-bit model that the PC runs *comfortably*: it fits in memory with 8k tokens of
context, decodes 10 tokens/s and reads 100 prompt tokens/s. 3 billion parameters are 60 points, 8 billion 80, 70
billion 100, with straight lines between them on a logarithmic scale, so the tiers small, medium and large follow.

Speed of one generation alone (the affine model fits the llama.cpp scoreboards within 5 % on average; multiplying and
reading the weights overlap, so the slower of the two counts):

    seconds per token = layers * overhead + max(bytes read / (efficiency * bandwidth), 1.3 * 2 * parameters / FLOPS)
    prefill tokens/s = FLOPS / (2 * parameters)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from chorus_proto.sizing import DeviceKind, LoadShape, estimate
from chorus_proto.values import Hardware, ModelShape, Score
from chorus_server.devices import Device, devices_of

COMFORTABLE_DECODE_TOKENS_PER_S = 10.0
COMFORTABLE_PREFILL_TOKENS_PER_S = 100.0
COMFORTABLE_CONTEXT_TOKENS = 8192

_Q4_K_M_BYTES_PER_PARAMETER = 4.89 / 8  # llama.cpp tools/quantize/README.md, Llama 3.1 8B
_COMPUTE_FACTOR = 1.3  # decoding multiplies thinner matrices than prefill and reaches less of the FLOPS
_UNTIED_FROM_PARAMETERS = 5_000_000_000
_FEWEST_PARAMETERS, _MOST_PARAMETERS = 1e7, 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Predicted speeds of one generation alone on the PC."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comfort:
    """The largest comfortable dense model of one device, and which of the three conditions stops a larger one."""

    device: Device
    parameters: float
    limited_by: str


def score(hardware: Hardware) -> Score:
    """The PC's score. Unknown numbers count as the cautious ones of `devices`, so there always is a score."""
    best = comfort(hardware)
    rates = _rates_on(best.device, best.parameters, best.parameters * _Q4_K_M_BYTES_PER_PARAMETER, None)
    return Score(
        score=round(points(best.parameters), 1),
        comfortable_parameters=best.parameters,
        decode_tokens_per_s=rates.decode_tokens_per_s,
        prefill_tokens_per_s=rates.prefill_tokens_per_s,
        limited_by=best.limited_by,
    )


def comfort(hardware: Hardware) -> Comfort:
    """The device that runs the largest comfortable model, GPUs before the CPU when equal."""
    return max((_comfort_on(device) for device in devices_of(hardware)), key=lambda found: found.parameters)


def usable_bytes(hardware: Hardware) -> tuple[int, DeviceKind]:
    """Memory for models on the device that the score is about, and its kind."""
    device = comfort(hardware).device
    return device.usable_bytes, device.kind


def points(parameters: float) -> float:
    """The score of a PC whose largest comfortable model has so many parameters."""
    billions = max(parameters, 1.0) / 1e9
    if billions <= 8:
        found = 60 + 20 * math.log(billions / 3) / math.log(8 / 3)
    else:
        found = 80 + 20 * math.log(billions / 8) / math.log(70 / 8)
    return min(100.0, max(0.0, found))


def predict_rates(hardware: Hardware, shape: ModelShape, file_bytes: int) -> Rates:
    """How fast `hardware` should run a model: on its GPUs when the weights fit there, else on the CPU."""
    devices = devices_of(hardware)
    device = next((found for found in devices if found.usable_bytes >= file_bytes), devices[-1])
    active = shape.active_parameters or shape.parameters
    return _rates_on(device, active, _bytes_read(shape, file_bytes), shape.layers)


def _comfort_on(device: Device) -> Comfort:
    limits = {
        "memory": _largest(lambda parameters: _needs_bytes(device, parameters) <= device.usable_bytes),
        "bandwidth": _largest(
            lambda parameters: (
                _rates_on(device, parameters, parameters * _Q4_K_M_BYTES_PER_PARAMETER, None).decode_tokens_per_s
                >= COMFORTABLE_DECODE_TOKENS_PER_S
            ),
        ),
        "prefill": device.flops_per_s / (2 * COMFORTABLE_PREFILL_TOKENS_PER_S),
    }
    limited_by = min(limits, key=lambda name: limits[name])
    return Comfort(device=device, parameters=limits[limited_by], limited_by=limited_by)


def _largest(comfortable: Callable[[float], bool]) -> float:
    """The largest number of parameters, to 0.1 %, for which `comfortable` holds; it holds for all smaller ones."""
    low, high = _FEWEST_PARAMETERS, _MOST_PARAMETERS
    if not comfortable(low):
        return low
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if comfortable(middle) else (low, middle)
    return low


def _rates_on(device: Device, parameters: float, bytes_read: float, layers: float | None) -> Rates:
    overhead_s = (_layers(parameters) if layers is None else layers) * device.backend.layer_overhead_s
    reading_s = bytes_read / (device.backend.efficiency * device.bandwidth_bytes_per_s)
    computing_s = _COMPUTE_FACTOR * 2 * parameters / device.flops_per_s
    step_s = overhead_s + max(reading_s, computing_s)
    return Rates(prefill_tokens_per_s=device.flops_per_s / (2 * parameters), decode_tokens_per_s=1 / step_s)


def _needs_bytes(device: Device, parameters: float) -> int:
    shape = _typical_shape(parameters)
    load = LoadShape(context_tokens=COMFORTABLE_CONTEXT_TOKENS)
    return estimate(shape, round(parameters * _Q4_K_M_BYTES_PER_PARAMETER), load, device.kind).total_bytes


def _layers(parameters: float) -> float:
    """Layers of a typical dense model: 16 at 1.2B, 32 at 8B, 80 at 70B (the Llama 3 family within 10 %)."""
    return 32 * (parameters / 8e9) ** 0.42


def _typical_shape(parameters: float) -> ModelShape:
    """A model of the Llama 3 family scaled to so many parameters; KV cache grows with the layers."""
    return ModelShape(
        architecture="llama",
        layers=max(1, round(_layers(parameters))),
        embedding_length=round(4096 * (parameters / 8e9) ** 0.29),
        heads=32,
        kv_heads=8,
        key_length=128,
        value_length=128,
        vocabulary=128_256,
        trained_context_tokens=131_072,
        parameters=round(parameters),
    )


def _bytes_read(shape: ModelShape, file_bytes: int) -> float:
    """Weights that one token reads. Large models keep a second table for the input, of which one row is read."""
    if shape.active_parameters is not None:
        return file_bytes * shape.active_parameters / shape.parameters
    if shape.parameters < _UNTIED_FROM_PARAMETERS or shape.architecture.startswith("gemma"):
        return file_bytes
    return file_bytes * (1 - shape.vocabulary * shape.embedding_length / shape.parameters)
