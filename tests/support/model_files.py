"""Sound model files with content that nothing reproduces by luck."""

from __future__ import annotations

import hashlib
import random

from tests.support.gguf_writer import F32, llama


def model_bytes(size_bytes: int, *, seed: int = 1) -> bytes:
    """A sound GGUF file of about this size whose content no compression or luck reproduces."""
    gguf = llama()
    rows = max(1, size_bytes // 256)
    gguf.tensors.append(("blk.1.ffn_up.weight", (64, rows), F32, rows * 256))
    head, content_bytes = gguf.header()
    return head + random.Random(seed).randbytes(content_bytes)


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
