"""The GGUF models in Ollama's store on this PC, so that llama.cpp can serve them without Ollama.

Layout (Ollama's `server/modelpath.go`): `manifests/HOST/NAMESPACE/MODEL/TAG` is a JSON manifest, whose layer of type
`image.model` is the GGUF file `blobs/sha256-HEX`; the name of a blob is its digest.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from chorus_client.transfer.model_store import NamedFile
from chorus_client.transfer.registry import MANIFEST_BYTES, Manifest
from chorus_proto.errors import InvalidRequest, Unsupported
from chorus_proto.model_source import RegistryName, parse_source
from chorus_proto.transfers import bare_digest

log = logging.getLogger(__name__)

DEFAULT_HOST = "registry.ollama.ai"
_MOST_MODELS = 2000


class OllamaStore:
    """One store, by default `~/.ollama/models`. It is only read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._refused: set[str] = set()

    def entries(self) -> list[NamedFile]:
        """The models whose file is there, by name, as Ollama names them. What is no GGUF model is logged once."""
        found: dict[str, NamedFile] = {}
        for path in _manifests(self.folder / "manifests"):
            try:
                one = self._entry(path)
            except (OSError, msgspec.DecodeError, InvalidRequest, Unsupported) as error:
                self._log_once(path, str(error))
                continue
            if one is not None:
                found.setdefault(one.name, one)
        return [found[name] for name in sorted(found)]

    def _entry(self, path: Path) -> NamedFile | None:
        """Raises OSError, DecodeError, InvalidRequest (no model's name) and Unsupported (no GGUF file)."""
        host, *spaces, model, tag = path.relative_to(self.folder / "manifests").parts
        host = "" if host == DEFAULT_HOST else f"{host}/"
        source = parse_source(f"{host}{'/'.join(spaces)}/{model}:{tag}")
        if not isinstance(source, RegistryName) or path.stat().st_size > MANIFEST_BYTES:
            raise InvalidRequest("is no manifest of a model")
        digest = bare_digest(msgspec.json.decode(path.read_bytes(), type=Manifest).model().digest)
        blob = self.folder / "blobs" / f"sha256-{digest}"
        if not blob.is_file():
            self._log_once(path, f"its file {blob.name[:20]}... is missing")
            return None
        return NamedFile(name=source.name, path=blob, sha256=digest)

    def _log_once(self, path: Path, reason: str) -> None:
        line = f"{path}: {reason}"
        if line not in self._refused:
            self._refused.add(line)
            log.info("left out of Ollama's store: %s", line)


def _manifests(folder: Path) -> Iterator[Path]:
    """HOST/NAMESPACE/MODEL/TAG, sorted, without following links."""
    count = 0
    root = folder.absolute()
    for place, folders, names in os.walk(root, followlinks=False):
        here = Path(place)
        depth = len(here.relative_to(root).parts)
        folders[:] = sorted(folders) if depth < 3 else []
        if depth != 3:
            continue
        for name in sorted(names):
            count += 1
            if count > _MOST_MODELS:
                log.warning("Ollama's store %s has more than %d models; the rest is left out", folder, _MOST_MODELS)
                return
            yield here / name
