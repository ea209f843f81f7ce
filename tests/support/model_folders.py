"""A model folder that is large enough to travel in several pieces, made from the small one in tests/data."""

from __future__ import annotations

import json
import random
import shutil
import struct
from pathlib import Path

from tests.support.model_server import FOLDER

EXTRA = "model-00002-of-00002.safetensors"
_FIRST = "model-00001-of-00002.safetensors"


def large_folder(path: Path, extra_bytes: int, *, seed: int = 1) -> Path:
    """`path`, with a sound model in two files and an index; the second holds `extra_bytes` that nothing compresses."""
    shutil.copytree(FOLDER, path)
    (path / "model.safetensors").rename(path / _FIRST)
    with (path / _FIRST).open("rb") as source:
        length = struct.unpack("<Q", source.read(8))[0]
        names = set(json.loads(source.read(length))) - {"__metadata__"}
    places = dict.fromkeys(sorted(names), _FIRST) | {"extra.weight": EXTRA}
    index = {"metadata": {}, "weight_map": places}
    (path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    entry = {"extra.weight": {"dtype": "U8", "shape": [extra_bytes], "data_offsets": [0, extra_bytes]}}
    head = json.dumps(entry).encode()
    content = random.Random(seed).randbytes(extra_bytes)
    (path / EXTRA).write_bytes(struct.pack("<Q", len(head)) + head + content)
    return path
