"""Which file an Ollama registry means by a name: its HTTP API is that of a container registry (OCI distribution, v2).

GET /v2/NAMESPACE/MODEL/manifests/TAG gives the layers; the one of type `image.model` is the GGUF file, which lies under
/v2/NAMESPACE/MODEL/blobs/DIGEST. Hugging Face speaks the same at hf.co.
"""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp
import msgspec

from chorus_client.transfer.http_download import Broken, DownloadLimits, opened, session
from chorus_proto.errors import TransferFailed, Unsupported
from chorus_proto.model_source import RegistryName
from chorus_proto.transfers import bare_digest

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
MODEL_TYPE = "application/vnd.ollama.image.model"
ADAPTER_TYPE = "application/vnd.ollama.image.adapter"
MANIFEST_BYTES = 1 << 20


class Layer(msgspec.Struct, frozen=True, rename={"media_type": "mediaType"}):
    media_type: str = ""
    digest: str = ""
    size: int = 0


class Manifest(msgspec.Struct, frozen=True):
    """Of a registry, and of Ollama's own store."""

    layers: list[Layer] = []

    def model(self) -> Layer:
        """The model's file. Raises Unsupported for a model that is not one GGUF file alone."""
        models = [layer for layer in self.layers if layer.media_type == MODEL_TYPE]
        if len(models) != 1 or not bare_digest(models[0].digest) or models[0].size <= 0:
            raise Unsupported("it is not one GGUF file (it may run in the cloud only, or be of another format)")
        if any(layer.media_type == ADAPTER_TYPE for layer in self.layers):
            raise Unsupported("it needs an adapter beside its GGUF file; merge the two first")
        return models[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A file in a registry."""

    url: str
    sha256: str
    size_bytes: int


async def find_blob(name: RegistryName, registry_url: str, limits: DownloadLimits) -> Blob:
    """Raises ModelNotFound, TransferFailed, AddressNotAllowed and Unsupported."""
    base = f"https://{name.host}" if name.host else registry_url.rstrip("/")
    place = f"{base}/v2/{name.namespace}/{name.model}"
    try:
        async with (
            session(limits) as http,
            opened(http, f"{place}/manifests/{name.tag}", {"Accept": MANIFEST_TYPE}, limits) as response,
        ):
            raw = await response.content.read(MANIFEST_BYTES + 1)
            while not response.content.at_eof() and len(raw) <= MANIFEST_BYTES:
                raw += await response.content.read(MANIFEST_BYTES + 1 - len(raw))
    except (Broken, aiohttp.ClientError, TimeoutError, OSError) as error:
        raise TransferFailed(f"the registry did not answer for {name.name}: {error or type(error).__name__}") from None
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except msgspec.DecodeError:
        raise TransferFailed(f"{base} does not answer as a model registry") from None
    try:
        layer = manifest.model()
    except Unsupported as error:
        raise Unsupported(f"{name.name} cannot be pulled: {error.message}") from None
    digest = bare_digest(layer.digest)
    return Blob(url=f"{place}/blobs/sha256:{digest}", sha256=digest, size_bytes=layer.size)
