"""Filling in the middle with a llama-server: its `/infill` knows the model's own markers (tools/server/README.md).

It answers in llama.cpp's own events, which `CompletionStream` reads too.
"""

from __future__ import annotations

import msgspec

from chorus_proto.errors import ClusterError, UnsupportedParameter
from chorus_proto.generation import Generation

INFILL_PATH = "/infill"

_SAME_NAME = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "repeat_last_n",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "logit_bias",
)
_NOT_HERE = (404, 405, 501)


def infill_request(generation: Generation) -> tuple[str, bytes]:
    """The path and the JSON body for `prompt` and `suffix`. Raises UnsupportedParameter."""
    if generation.logprobs is not None:
        raise UnsupportedParameter("a text with a suffix comes without log-probabilities", param="logprobs")
    body: dict[str, object] = {
        "input_prefix": generation.prompt or "",
        "input_suffix": generation.suffix or "",
        "stream": True,
        "return_progress": True,
    }
    for field in _SAME_NAME:
        value: object = getattr(generation, field)
        if value is not None:
            body[field] = value
    if generation.max_tokens is not None:
        body["n_predict"] = generation.max_tokens
    if generation.stop:
        body["stop"] = generation.stop
    if generation.ignore_end:
        body["ignore_eos"] = True
    return INFILL_PATH, msgspec.json.encode(body)


def as_infill_refusal(status: int, error: ClusterError) -> ClusterError:
    """A model without the markers, and a server without the path, cannot honour the one field that led here."""
    if status not in _NOT_HERE:
        return error
    return UnsupportedParameter(f"this model cannot fill in the middle: {error.message}", param="suffix")
