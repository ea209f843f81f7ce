"""Vectors from an OpenAI-compatible server: the request for them, and its answer as pieces of text.

Servers differ in what they send: numbers, or the base64 of 32-bit floats where that was asked for. What the caller
wants is passed on as it came, and else converted here.
"""

from __future__ import annotations

import base64
import binascii
import re
import sys
from array import array
from collections.abc import Sequence

import msgspec

from chorus_proto.errors import (
    ClusterError,
    ContextLengthExceeded,
    EngineFailed,
    InvalidRequest,
    UnsupportedParameter,
)
from chorus_proto.generation import Delta, Done, Generation, Piece, VectorForm

EMBEDDINGS_PATH = "/v1/embeddings"
MOST_BYTES = 64 << 20
"""Of one answer."""

_NOT_HERE = (404, 405, 501)
_TOO_LARGE = "too large to process"
_LIMIT = re.compile(r"too large to process.*?batch size: (\d+)")

_encode = msgspec.json.Encoder().encode


class _Row(msgspec.Struct):
    embedding: msgspec.Raw
    index: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0


class _Tokens(msgspec.Struct):
    tokens: list[int]


class _Answer(msgspec.Struct):
    data: list[_Row]
    usage: _Usage = msgspec.field(default_factory=_Usage)


def embeddings_request(
    generation: Generation, inputs: Sequence[str | list[int]], *, model: str, shortens: bool
) -> tuple[str, bytes]:
    """The path and the JSON body. `shortens`: the server may know to make fewer dimensions."""
    body: dict[str, object] = {"model": model, "input": inputs, "encoding_format": "base64"}
    if generation.dimensions is not None and shortens:
        body["dimensions"] = generation.dimensions
    return EMBEDDINGS_PATH, _encode(body)


def most_tokens(refusal: ClusterError) -> int | None:
    """How many tokens a text may have, out of llama-server's refusal of a longer one; None: it is no such."""
    found = _LIMIT.search(refusal.message)
    return int(found[1]) if found else None


def tokens_request(text: str) -> tuple[str, bytes]:
    """llama-server's own tokens of a text, those around it included."""
    return "/tokenize", _encode({"content": text, "add_special": True})


def cut(body: bytes, most: int) -> list[int]:
    """The tokens that such a request gave, at most so many. The last one stays: it ends the text for the model."""
    try:
        tokens = msgspec.json.decode(body, type=_Tokens).tokens
    except msgspec.DecodeError as error:
        raise EngineFailed(f"the engine sent tokens that cannot be read: {error}") from None
    return tokens if len(tokens) <= most else [*tokens[: most - 1], tokens[-1]]


def vectors_of(body: bytes, generation: Generation) -> list[Piece]:
    """A line for each input, and the end. Raises EngineFailed, and UnsupportedParameter for other dimensions."""
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except msgspec.DecodeError as error:
        raise EngineFailed(f"the engine sent embeddings that cannot be read: {error}") from None
    rows = sorted(answer.data, key=lambda row: row.index)
    if len(rows) != len(generation.inputs or ()):
        raise EngineFailed(f"the engine sent {len(rows)} embeddings for {len(generation.inputs or ())} texts")
    lines = [vector_line(bytes(row.embedding), generation) for row in rows]
    return [*lines, Done(finish_reason="stop", prompt_tokens=answer.usage.prompt_tokens)]


def vector_line(raw: bytes, generation: Generation) -> Delta:
    """`raw` is a JSON array of numbers, or a JSON string of base64. Raises as `vectors_of`."""
    is_text = raw.startswith(b'"')
    wants_text = generation.vectors is VectorForm.BASE64
    if is_text is not wants_text or generation.dimensions is not None:
        numbers = _numbers(raw, is_text=is_text)
        if generation.dimensions not in (None, len(numbers)):
            raise UnsupportedParameter(
                f"this model makes vectors of {len(numbers)} dimensions and no others", param="dimensions"
            )
        raw = _encode(base64.b64encode(_little_endian(numbers)).decode() if wants_text else numbers.tolist())
    return Delta(raw.decode() + "\n", 0)


def _numbers(raw: bytes, *, is_text: bool) -> array[float]:
    try:
        if not is_text:
            return array("f", msgspec.json.decode(raw, type=list[float]))
        numbers = array("f", base64.b64decode(msgspec.json.decode(raw, type=str), validate=True))
    except (msgspec.DecodeError, binascii.Error, ValueError) as error:
        raise EngineFailed(f"the engine sent an embedding that cannot be read: {error}") from None
    return array("f", _little_endian(numbers))


def _little_endian(numbers: array[float]) -> bytes:
    """From this machine's order of bytes, or to it."""
    if sys.byteorder == "little":
        return numbers.tobytes()
    swapped = array("f", numbers)
    swapped.byteswap()
    return swapped.tobytes()


def as_embedding_refusal(status: int, error: ClusterError, *, model: str) -> ClusterError:
    if status in _NOT_HERE:
        return InvalidRequest(f"model {model} makes no embeddings", param="model")
    if _TOO_LARGE in error.message:
        return ContextLengthExceeded(error.message, param="input")
    return error
