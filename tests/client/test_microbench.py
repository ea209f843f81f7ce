from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import time
from pathlib import Path

import pytest

from chorus_client.microbench import (
    BENCH_MODEL,
    Generate,
    bench_generation,
    cpu_flops_per_s,
    measured,
    memory_bandwidth_bytes_per_s,
)
from chorus_proto import catalogue
from chorus_proto.errors import EngineFailed
from chorus_proto.generation import Done, Generation
from chorus_proto.values import Hardware

PC = Hardware(os="Linux", arch="x86_64", physical_cores=2, fingerprint="abc")
KNOWN_BANDWIDTH = dataclasses.replace(PC, memory_bandwidth_bytes_per_s=5e9)


class Bench:
    """An engine that answers with fixed rates and counts."""

    def __init__(self, *rates: tuple[float | None, float | None]) -> None:
        self._rates = rates
        self.asked: list[Generation] = []

    async def __call__(self, generation: Generation) -> Done:
        prefill, decode = self._rates[len(self.asked) % len(self._rates)]
        self.asked.append(generation)
        return Done(finish_reason="length", prefill_tokens_per_s=prefill, decode_tokens_per_s=decode)


def run(hardware: Hardware, cache: Path, generate: Generate | None) -> Hardware:
    return asyncio.run(measured(hardware, cache, generate))


def test_the_memorys_bandwidth_is_plausible_and_measured_within_its_time() -> None:
    started = time.monotonic()
    found = memory_bandwidth_bytes_per_s(2)
    assert time.monotonic() - started < 10
    assert 5e8 < found < 2e12


def test_a_pc_with_little_memory_left_is_measured_too() -> None:
    assert memory_bandwidth_bytes_per_s(1, ram_available_bytes=100 << 20) > 5e8


def test_flops_follow_from_one_cores_prefill() -> None:
    assert cpu_flops_per_s(3000.0, 9_000_000, 1) == pytest.approx(54e9)
    assert cpu_flops_per_s(3000.0, 9_000_000, 8) == pytest.approx(54e9 * 6.8)


def test_the_best_of_the_runs_counts(tmp_path: Path) -> None:
    bench = Bench((2000.0, 700.0), (3000.0, 650.0))
    found = run(KNOWN_BANDWIDTH, tmp_path / "bench.json", bench)
    model = catalogue.entry(BENCH_MODEL)
    assert model is not None
    assert found.cpu_flops_per_s == pytest.approx(2 * model.shape.parameters * 3000 * 1.7)
    assert found.bench_tokens_per_s == 700
    assert bench.asked[0].prompt != bench.asked[1].prompt


def test_a_second_start_takes_everything_from_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "state" / "bench.json"
    first = run(PC, cache, Bench((3000.0, 700.0)))
    assert first.memory_bandwidth_bytes_per_s is not None
    again = Bench((1.0, 1.0))
    assert run(PC, cache, again) == first
    assert again.asked == []


def test_another_pc_is_measured_anew(tmp_path: Path) -> None:
    cache = tmp_path / "bench.json"
    run(KNOWN_BANDWIDTH, cache, Bench((3000.0, 700.0)))
    other = dataclasses.replace(KNOWN_BANDWIDTH, fingerprint="other")
    assert run(other, cache, Bench((3000.0, 100.0))).bench_tokens_per_s == 100


@pytest.mark.parametrize("content", ["", "{", "[]", '{"fingerprint": 3}', '{"fingerprint": "abc", "x": 1}'])
def test_a_damaged_cache_is_measured_anew_and_mended(tmp_path: Path, content: str) -> None:
    cache = tmp_path / "bench.json"
    cache.write_text(content)
    assert run(KNOWN_BANDWIDTH, cache, Bench((3000.0, 700.0))).bench_tokens_per_s == 700
    assert json.loads(cache.read_text())["bench_tokens_per_s"] == 700
    assert list(tmp_path.iterdir()) == [cache]


def test_what_is_given_is_believed_and_not_measured(tmp_path: Path) -> None:
    given = dataclasses.replace(KNOWN_BANDWIDTH, cpu_flops_per_s=1e9, bench_tokens_per_s=3.0)
    bench = Bench((3000.0, 700.0))
    assert run(given, tmp_path / "bench.json", bench) == given
    assert bench.asked == []
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_fails_leaves_the_rates_unknown_until_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(generation: Generation) -> Done:
        raise EngineFailed("out of breath")

    cache = tmp_path / "bench.json"
    with caplog.at_level(logging.WARNING):
        found = run(KNOWN_BANDWIDTH, cache, fails)
    assert (found.cpu_flops_per_s, found.bench_tokens_per_s) == (None, None)
    assert "out of breath" in caplog.text
    assert run(PC, cache, Bench((3000.0, 700.0))).bench_tokens_per_s == 700


def test_an_engine_that_does_not_tell_its_rates_leaves_them_unknown(tmp_path: Path) -> None:
    found = run(KNOWN_BANDWIDTH, tmp_path / "bench.json", Bench((None, None)))
    assert (found.cpu_flops_per_s, found.bench_tokens_per_s) == (None, None)


def test_a_cache_that_cannot_be_written_does_not_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert run(KNOWN_BANDWIDTH, tmp_path / "file" / "bench.json", Bench((3000.0, 700.0))).bench_tokens_per_s == 700


def test_the_prompt_is_long_enough_to_measure_and_fits_the_bundled_context() -> None:
    prompt = bench_generation().prompt
    assert prompt is not None
    assert 200 < len(prompt.split()) < 1024 - 64
