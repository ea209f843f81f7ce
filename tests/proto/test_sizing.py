from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import psutil
import pytest

from chorus_client.footprint import footprint
from chorus_proto import catalogue
from chorus_proto.sizing import (
    CacheType,
    DeviceKind,
    LoadShape,
    estimate,
    host_bytes,
    kv_bytes,
    kv_bytes_per_token,
)
from chorus_proto.values import EngineKind, ModelShape

GIB = 1 << 30
MODELS = Path(__file__).parents[2] / "client" / "chorus_client" / "models"


def known(name: str) -> tuple[ModelShape, int]:
    entry = catalogue.entry(name)
    assert entry is not None
    return entry.shape, entry.file_bytes


def test_llama_3_8b_needs_the_compute_buffer_that_llama_cpp_logs() -> None:
    shape, size = known("llama3.1:8b")
    found = estimate(shape, size, LoadShape(context_tokens=8192), DeviceKind.DISCRETE_GPU)
    assert found.compute_bytes == 258.5 * (1 << 20)


# GiB at 8k, at 32k and at four slots of 8k on a discrete GPU, worked out by hand from the model cards. Four slots keep
# four windows and four batches in sliding layers, as the bundled engine's log shows.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen3:0.6b", (2.1, 4.7, 4.7)),
        ("gemma3:1b", (1.8, 1.9, 1.9)),
        ("llama3.2:3b", (3.4, 6.1, 6.1)),
        ("gemma3:4b", (4.4, 4.8, 5.3)),
        ("llama3.1:8b", (6.3, 9.3, 9.3)),
        ("gemma3:12b", (9.5, 11.0, 12.4)),
        ("gpt-oss:20b", (14.1, 14.6, 14.7)),
        ("gemma3:27b", (18.0, 19.9, 21.7)),
        ("qwen3:30b-a3b", (19.2, 21.4, 21.4)),
        ("qwen3:32b", (21.4, 27.4, 27.4)),
        ("llama3.3:70b", (43.3, 50.8, 50.8)),
        ("gpt-oss:120b", (61.7, 62.5, 62.6)),
    ],
)
def test_known_models_need_what_the_formula_says(name: str, expected: tuple[float, float, float]) -> None:
    shape, size = known(name)
    loads = (LoadShape(context_tokens=8192), LoadShape(context_tokens=32768), LoadShape(context_tokens=8192, slots=4))
    found = [estimate(shape, size, load, DeviceKind.DISCRETE_GPU).total_bytes / GIB for load in loads]
    assert found == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(("name", "kib"), [("llama3.1:8b", 128), ("gemma3:27b", 496), ("gpt-oss:20b", 48)])
def test_one_token_of_cache_costs_what_the_heads_say(name: str, kib: int) -> None:
    assert kv_bytes_per_token(known(name)[0]) == kib * 1024


def test_the_cache_is_rounded_up_to_whole_steps_of_256_tokens() -> None:
    shape = known("llama3.1:8b")[0]
    assert kv_bytes(shape, LoadShape(context_tokens=1)) == 256 * 128 * 1024
    assert kv_bytes(shape, LoadShape(context_tokens=100, slots=3)) == 3 * 256 * 128 * 1024


def test_every_slot_has_its_own_window_in_sliding_layers() -> None:
    # The bundled engine's log for a gemma3 of 12 layers (2 see everything), 2 heads of 64, window 1024, four slots of
    # 4096: "size = 16.00 MiB ( 4096 cells, 2 layers, 4/4 seqs)" and "size = 30.00 MiB ( 1536 cells, 10 layers".
    shape = replace(
        known("gemma3:1b")[0],
        layers=12,
        sliding_layers=10,
        sliding_window_tokens=1024,
        kv_heads=2,
        key_length=64,
        value_length=64,
    )
    assert kv_bytes(shape, LoadShape(context_tokens=4096, slots=4)) == 46 << 20


@pytest.mark.parametrize(("context_tokens", "mib"), [(1024, 4.52), (256, 1.88)])
def test_a_small_vocabulary_leaves_the_layers_and_the_mask_that_the_engine_logs(
    context_tokens: int, mib: float
) -> None:
    shape, size = known("demo-tiny")
    found = estimate(shape, size, LoadShape(context_tokens=context_tokens), DeviceKind.CPU).compute_bytes / (1 << 20)
    assert found == pytest.approx(mib, rel=0.02)


def test_an_encoder_keeps_room_for_the_logits_of_its_batch_and_no_cache() -> None:
    shape, size = known("all-minilm-l6-v2")
    found = estimate(shape, size, LoadShape(context_tokens=512), DeviceKind.CPU)
    assert found.kv_bytes == 0
    assert found.compute_bytes == 4 * 512 * (30_522 + 10 * 384)
    assert estimate(shape, size, LoadShape(context_tokens=128), DeviceKind.CPU).compute_bytes * 4 == found.compute_bytes


def test_a_quantised_cache_is_smaller_by_its_block_size() -> None:
    shape = known("llama3.1:8b")[0]
    f16, q8, q4 = (kv_bytes(shape, LoadShape(context_tokens=4096, cache_type=kind)) for kind in CacheType)
    assert q8 / f16 == pytest.approx(34 / 64)
    assert q4 / f16 == pytest.approx(18 / 64)


def test_more_context_than_the_model_was_trained_with_is_not_paid_for() -> None:
    shape, size = known("phi4:14b")
    within, beyond = (
        estimate(shape, size, LoadShape(context_tokens=tokens), DeviceKind.CPU) for tokens in (16_384, 131_072)
    )
    assert within == beyond


def test_attention_without_flash_needs_more_room() -> None:
    shape, size = known("llama3.1:8b")
    with_flash, without = (
        estimate(shape, size, LoadShape(context_tokens=4096, flash_attention=flash), DeviceKind.CPU)
        for flash in (True, False)
    )
    scores_bytes = 4 * 512 * 4096 * 32
    assert scores_bytes < without.compute_bytes < 1.5 * scores_bytes
    assert without.compute_bytes > with_flash.compute_bytes


def test_a_model_that_runs_elsewhere_needs_nothing_here() -> None:
    assert estimate(None, 0, LoadShape(context_tokens=4096), DeviceKind.CPU).total_bytes == 0


def test_a_file_without_a_known_shape_counts_a_fifth_more() -> None:
    found = estimate(None, 5_000_000_000, LoadShape(context_tokens=4096), DeviceKind.CPU)
    assert found.total_bytes == 6_000_000_000 + host_bytes(1)


def test_the_arithmetic_reads_as_a_sentence() -> None:
    shape, size = known("llama3.1:8b")
    words = estimate(shape, size, LoadShape(context_tokens=16_384), DeviceKind.DISCRETE_GPU).in_words(8_600_000_000)
    assert words == "needs 7.8 GB = 4.9 weights + 2.1 KV at 16k + 0.8 buffers; free 8.6"
    shape, size = known("demo-tiny")
    words = estimate(shape, size, LoadShape(context_tokens=512, slots=4), DeviceKind.CPU).in_words()
    assert words == "needs 25.5 MB = 1.0 weights + 2.1 KV at 4 x 512 + 22.4 buffers"


@contextmanager
def served(model: Path, *, slots: int, context_tokens: int) -> Generator[tuple[psutil.Process, str]]:
    """The bundled engine with one model: its process and its address."""
    flags = ["--model", str(model), "--port", "0", "--parallel", str(slots), "--ctx-size", str(slots * context_tokens)]
    process = subprocess.Popen(
        [sys.executable, "-m", "chorus_client.llama_cpp_server", *flags, "--threads", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    silent = threading.Timer(30, process.kill)
    silent.start()
    try:
        address = ""
        for line in process.stdout:
            if line.startswith("listening "):
                address = line.split()[1]
                break
        assert address, "the engine ended without listening"
        yield psutil.Process(process.pid), address
    finally:
        silent.cancel()
        process.kill()
        process.wait(timeout=10)
        process.stdin.close()
        process.stdout.close()


async def used(address: str, *, slots: int, context_tokens: int) -> None:
    """Prompts that fill the context of every slot at once, so that every buffer has been touched."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:

        async def ask(slot: int) -> None:
            prompt = [100 + slot, *(200 + index % 700 for index in range(context_tokens - 32))]
            body = {"prompt": prompt, "max_tokens": 24, "ignore_eos": True}
            async with session.post(f"{address}/v1/completions", json=body) as answer:
                assert answer.status == 200

        for _ in range(3):
            await asyncio.gather(*(ask(slot) for slot in range(slots)))


@pytest.mark.skipif(
    sys.platform != "linux", reason="an engine without a model was measured on Linux; elsewhere libraries differ"
)
@pytest.mark.parametrize("name", ["demo-tiny", "demo-small", "demo-medium"])
def test_the_estimate_is_within_a_tenth_of_what_a_bundled_model_really_takes(name: str) -> None:
    entry = catalogue.entry(name)
    assert entry is not None
    assert entry.file is not None
    with served(MODELS / entry.file, slots=4, context_tokens=512) as (process, address):
        fresh = footprint([process])
        asyncio.run(used(address, slots=4, context_tokens=512))
        warm = footprint([process])
    predicted = estimate(entry.shape, entry.file_bytes, LoadShape(context_tokens=512, slots=4), DeviceKind.CPU)
    assert fresh is not None
    assert warm is not None
    assert predicted.total_bytes == pytest.approx(warm.total_bytes, rel=0.1)
    assert fresh.total_bytes <= predicted.total_bytes, "an estimate must never be short"


def test_torch_takes_its_own_process_and_computes_small_models_in_32_bits_on_a_cpu() -> None:
    tiny = catalogue.entry("demo-tiny")
    assert tiny is not None
    shape = replace(tiny.shape, parameters=918_656)
    file_bytes = 2 * shape.parameters
    load = LoadShape(context_tokens=1024, slots=8)
    llama = estimate(shape, file_bytes, load, DeviceKind.CPU)
    torch = estimate(shape, file_bytes, load, DeviceKind.CPU, EngineKind.TRANSFORMERS)
    assert torch.weights_bytes == 2 * llama.weights_bytes
    assert torch.kv_bytes == 2 * llama.kv_bytes
    # Measured with tests/data/demo-tiny-hf: 303 MB when loaded, 319 MB once all slots were full.
    assert torch.total_bytes == pytest.approx(319_000_000, rel=0.1)
    stored_as_32_bits = estimate(shape, 4 * shape.parameters, load, DeviceKind.CPU, EngineKind.TRANSFORMERS)
    assert stored_as_32_bits.weights_bytes == 4 * shape.parameters
    on_a_card = estimate(shape, file_bytes, load, DeviceKind.DISCRETE_GPU, EngineKind.TRANSFORMERS)
    assert on_a_card.weights_bytes == file_bytes
