"""Ollama's store, laid out as Ollama does it, and the models in it as llama.cpp can load them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from chorus_client.engines.base import LoadProgress
from chorus_client.inventory import Inventory
from chorus_client.ollama_store import OllamaStore
from chorus_client.transfer.registry import ADAPTER_TYPE, MODEL_TYPE
from chorus_proto.errors import ModelDamaged
from chorus_proto.ids import ModelName
from tests.support.model_files import model_bytes, sha256_of

MODEL = model_bytes(40_000)
SHA256 = sha256_of(MODEL)


def put(
    store: Path,
    name: str,
    content: bytes = MODEL,
    *,
    digest: str | None = None,
    more: tuple[str, ...] = (),
    blob: bool = True,
) -> Path:
    """A model as `ollama pull` leaves it; `name` is HOST/NAMESPACE/MODEL/TAG."""
    digest = digest or f"sha256:{sha256_of(content)}"
    layers = [{"mediaType": kind, "digest": f"sha256:{'0' * 64}", "size": 1} for kind in more]
    layers.append({"mediaType": MODEL_TYPE, "digest": digest, "size": len(content)})
    path = store / "manifests" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    if blob:
        (store / "blobs").mkdir(exist_ok=True)
        (store / "blobs" / digest.replace(":", "-")).write_bytes(content)
    return path


def test_models_have_the_names_that_ollama_gives_them(tmp_path: Path) -> None:
    put(tmp_path, "registry.ollama.ai/library/tiny/1b", more=("application/vnd.ollama.image.template",))
    put(tmp_path, "registry.ollama.ai/me/mine/latest")
    put(tmp_path, "hf.co/org/repo/q4")
    found = OllamaStore(tmp_path).entries()
    assert [one.name for one in found] == ["hf.co/org/repo:q4", "me/mine", "tiny:1b"]
    assert {one.sha256 for one in found} == {SHA256}
    assert {one.path for one in found} == {tmp_path / "blobs" / f"sha256-{SHA256}"}


def test_what_is_no_gguf_model_is_left_out_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    put(tmp_path, "registry.ollama.ai/library/good/1b")
    put(tmp_path, "registry.ollama.ai/library/gone/1b", model_bytes(10, seed=5), blob=False)
    put(tmp_path, "registry.ollama.ai/library/adapted/1b", more=(ADAPTER_TYPE,))
    put(tmp_path, "registry.ollama.ai/library/escaping/1b", digest="sha256:../../../etc/passwd", blob=False)
    put(tmp_path, "registry.ollama.ai/library/..evil/1b")
    put(tmp_path, "registry.ollama.ai/library/broken/1b").write_text("{")
    put(tmp_path, "registry.ollama.ai/library/huge/1b").write_bytes(b" " * (2 << 20))
    (tmp_path / "manifests" / "stray").write_text("x")
    store = OllamaStore(tmp_path)
    assert [one.name for one in store.entries()] == ["good:1b"]
    lines = len(caplog.records)
    assert lines == 6
    store.entries()
    assert len(caplog.records) == lines


def test_a_store_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert OllamaStore(tmp_path / "none").entries() == []


def inventory(tmp_path: Path) -> Inventory:
    return Inventory([tmp_path / "own"], tmp_path / "state", stores=[OllamaStore(tmp_path / "ollama")])


def unheard(_progress: LoadProgress) -> None:
    pass


def test_the_inventory_offers_them_and_knows_where_each_digest_lies(tmp_path: Path) -> None:
    put(tmp_path / "ollama", "registry.ollama.ai/library/tiny/1b")

    async def scenario() -> None:
        known = inventory(tmp_path)
        await known.refresh()
        assert known.path_of_digest(SHA256) is None, "a name is not believed before the file was read once"
        await known.digest()
        file = next(one for one in known.files() if one.name == "tiny:1b")
        assert file.digest == SHA256
        blob = tmp_path / "ollama" / "blobs" / f"sha256-{SHA256}"
        assert known.path_of_digest(SHA256) == (blob, len(MODEL))
        assert await known.checked(ModelName("tiny:1b"), unheard) == blob

    asyncio.run(scenario())


def test_a_blob_that_is_not_what_its_name_says_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "ollama", "registry.ollama.ai/library/tiny/1b", digest=f"sha256:{'a' * 64}")

    async def scenario() -> None:
        known = inventory(tmp_path)
        await known.refresh()
        with pytest.raises(ModelDamaged, match="sha256"):
            await known.checked(ModelName("tiny:1b"), unheard)
        assert "tiny:1b" not in [file.name for file in known.files()]
        assert known.path_of_digest("a" * 64) is None

    asyncio.run(scenario())


def test_the_owners_own_file_wins_over_a_store_with_the_same_name(tmp_path: Path) -> None:
    own = tmp_path / "own" / "tiny.gguf"
    own.parent.mkdir()
    own.write_bytes(MODEL)
    put(tmp_path / "ollama", "registry.ollama.ai/library/tiny/latest")

    async def scenario() -> None:
        known = inventory(tmp_path)
        await known.refresh()
        assert known.path_of(ModelName("tiny")) == own

    asyncio.run(scenario())
