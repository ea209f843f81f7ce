"""The way into memory: predict, compare, promise, measure, correct, refuse. The PC here has 2 GB."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chorus_client.engines.base import LoadOptions
from chorus_client.hardware import LiveReader
from chorus_client.memory_gate import MemoryGate
from chorus_client.preflight import Fit, Reserve
from chorus_proto.catalogue import entry
from chorus_proto.errors import InsufficientMemory
from chorus_proto.ids import ModelName
from chorus_proto.sizing import DeviceKind
from chorus_proto.values import EngineKind, Hardware, ModelFile

OPTIONS = LoadOptions(slots=1, context_tokens=4096)
PC = Hardware(os="linux", arch="x86_64", ram_bytes=2_000_000_000)


def gate_at(folder: Path) -> MemoryGate:
    reserve = Reserve(least_bytes=200_000_000, share=0.0)
    return MemoryGate(PC, LiveReader(PC), DeviceKind.CPU, folder, reserve=reserve)


def model(name: str, like: str = "gemma3:1b") -> ModelFile:
    """A model of the size of a known one: gemma3:1b takes about 1 GB, llama3.1:8b 6 GB."""
    known = entry(like)
    assert known is not None
    return ModelFile(
        name=ModelName(name), file_bytes=known.file_bytes, engine=EngineKind.LLAMA_SERVER, shape=known.shape
    )


def test_a_model_that_does_not_fit_is_refused_with_the_arithmetic(tmp_path: Path) -> None:
    with pytest.raises(InsufficientMemory, match=r"needs .* GB = .* weights \+ .* KV .*; free "):
        asyncio.run(gate_at(tmp_path).judge(model("big", "llama3.1:8b"), OPTIONS, []))


def test_two_loads_at_once_cannot_count_on_the_same_memory(tmp_path: Path) -> None:
    async def scenario() -> None:
        gate = gate_at(tmp_path)
        verdict = await gate.judge(model("one"), OPTIONS, [])
        assert verdict is not None
        assert verdict.fit is Fit.FITS
        with pytest.raises(InsufficientMemory, match="promised"):
            await gate.judge(model("two"), OPTIONS, [])
        await gate.failed(model("one"), OPTIONS, for_memory=False)
        assert await gate.judge(model("two"), OPTIONS, []) is not None

    asyncio.run(scenario())


def test_what_a_load_really_took_corrects_the_next_prediction(tmp_path: Path) -> None:
    async def scenario() -> None:
        file = model("one")
        predicted = gate_at(tmp_path).predicted_bytes(file, OPTIONS)
        assert predicted is not None
        gate = gate_at(tmp_path)
        await gate.loaded(file, OPTIONS, measured_bytes=round(1.25 * predicted))
        # Another run of the agent has learnt it too.
        verdict = await gate_at(tmp_path).judge(file, OPTIONS, [])
        assert verdict is not None
        assert verdict.needed_bytes == pytest.approx(1.25 * predicted, rel=0.01)

    asyncio.run(scenario())


def test_a_load_that_failed_for_memory_is_not_tried_again_at_that_size(tmp_path: Path) -> None:
    async def scenario() -> None:
        gate = gate_at(tmp_path)
        file = model("one")
        await gate.judge(file, OPTIONS, [])
        await gate.failed(file, OPTIONS, for_memory=True)
        with pytest.raises(InsufficientMemory, match="failed for lack of memory"):
            await gate.judge(file, OPTIONS, [])

    asyncio.run(scenario())


def test_a_model_that_runs_elsewhere_is_not_judged(tmp_path: Path) -> None:
    remote = ModelFile(name=ModelName("far"), file_bytes=0, engine=EngineKind.REMOTE)
    assert asyncio.run(gate_at(tmp_path).judge(remote, OPTIONS, [])) is None
