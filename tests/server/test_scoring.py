from __future__ import annotations

import dataclasses
import math
import tomllib
from pathlib import Path

import msgspec
import pytest

from chorus_proto import catalogue
from chorus_proto.values import Gpu, Hardware, ModelShape
from chorus_server.scoring import comfort, points, predict_rates, score

GIB = 1 << 30
DOCS = Path(__file__).parents[2] / "docs" / "hardware"


def cpu_only(ram_gib: float, bandwidth_gb_s: float, gflops: float, *, arch: str = "x86_64") -> Hardware:
    return Hardware(
        os="Linux",
        arch=arch,
        ram_bytes=round(ram_gib * GIB),
        memory_bandwidth_bytes_per_s=bandwidth_gb_s * 1e9,
        cpu_flops_per_s=gflops * 1e9,
    )


def with_gpus(*gpus: Gpu) -> Hardware:
    return Hardware(
        os="Linux",
        arch="x86_64",
        ram_bytes=32 * GIB,
        memory_bandwidth_bytes_per_s=40e9,
        cpu_flops_per_s=500e9,
        gpus=gpus,
    )


def nvidia(name: str, gib: float, gb_s: float, tflops: float) -> Gpu:
    return Gpu(
        name=name,
        vendor="nvidia",
        memory_bytes=round(gib * GIB),
        bandwidth_bytes_per_s=gb_s * 1e9,
        flops_per_s=tflops * 1e12,
    )


def mac(ram_gib: int, gb_s: float, tflops: float) -> Hardware:
    share = 2 / 3 if ram_gib <= 36 else 3 / 4
    gpu = Gpu(
        name="Apple",
        vendor="apple",
        memory_bytes=round(ram_gib * GIB * share),
        bandwidth_bytes_per_s=gb_s * 1e9,
        flops_per_s=tflops * 1e12,
        shares_host_memory=True,
    )
    return Hardware(os="Darwin", arch="arm64", ram_bytes=ram_gib * GIB, cpu_flops_per_s=400e9, gpus=(gpu,))


RTX_3090 = nvidia("RTX 3090", 24, 936, 69.8)


# FLOPS of the CPUs are effective ones; those of the GPUs follow from the pp512 rates in llama.cpp's scoreboards.
@pytest.mark.parametrize(
    ("hardware", "expected", "limited_by"),
    [
        pytest.param(cpu_only(8, 10, 98, arch="aarch64"), 23, "prefill", id="Raspberry Pi 5"),
        pytest.param(cpu_only(8, 20, 204), 38, "prefill", id="old i5"),
        pytest.param(cpu_only(16, 42, 447), 54, "prefill", id="Ryzen 5700G"),
        pytest.param(cpu_only(32, 70, 888), 68, "prefill", id="DDR5 desktop"),
        pytest.param(with_gpus(nvidia("GTX 1060", 6, 192, 5.6)), 75, "memory", id="GTX 1060"),
        pytest.param(mac(8, 68, 1.6), 76, "memory", id="M1 8 GB"),
        pytest.param(mac(16, 68, 1.6), 81, "prefill", id="M1 16 GB"),
        pytest.param(with_gpus(nvidia("GTX 1080 Ti", 11, 484, 14.4)), 85, "memory", id="GTX 1080 Ti"),
        pytest.param(with_gpus(nvidia("RTX 3060", 12, 360, 28.8)), 86, "memory", id="RTX 3060"),
        pytest.param(mac(32, 200, 4.6), 90, "prefill", id="M2 Pro"),
        pytest.param(with_gpus(RTX_3090), 93, "memory", id="RTX 3090"),
        pytest.param(with_gpus(nvidia("RTX 4090", 24, 1008, 199)), 93, "memory", id="RTX 4090"),
        pytest.param(with_gpus(nvidia("RTX 5090", 32, 1792, 202)), 96, "memory", id="RTX 5090"),
        pytest.param(mac(64, 546, 11.9), 99, "prefill", id="M4 Max"),
        pytest.param(with_gpus(RTX_3090, RTX_3090), 100, "memory", id="two RTX 3090"),
    ],
)
def test_known_pcs_score_what_their_largest_comfortable_model_says(
    hardware: Hardware, expected: float, limited_by: str
) -> None:
    found = score(hardware)
    assert found.score == pytest.approx(expected, abs=2.5)
    assert found.limited_by == limited_by


@pytest.mark.parametrize(("billions", "expected"), [(3, 60), (8, 80), (70, 100), (0.1, 0), (700, 100)])
def test_the_scale_goes_through_3_8_and_70_billion(billions: float, expected: float) -> None:
    assert points(billions * 1e9) == pytest.approx(expected)


def test_slow_memory_limits_a_pc_that_computes_fast() -> None:
    found = score(cpu_only(64, 12, 5000))
    assert found.limited_by == "bandwidth"
    assert found.decode_tokens_per_s == pytest.approx(10, rel=0.01)


LLAMA_2_7B = ModelShape(
    architecture="llama",
    layers=32,
    embedding_length=4096,
    heads=32,
    kv_heads=32,
    key_length=128,
    value_length=128,
    vocabulary=32_000,
    trained_context_tokens=4096,
    parameters=6_738_415_616,
)


@pytest.mark.parametrize(
    ("hardware", "prefill", "decode"),
    [
        pytest.param(with_gpus(nvidia("RTX 5090", 32, 1792, 201.8)), 14_970, 300, id="RTX 5090"),
        pytest.param(with_gpus(nvidia("RTX 4090", 24, 1008, 199.1)), 14_771, 189, id="RTX 4090"),
        pytest.param(with_gpus(RTX_3090), 5_175, 158, id="RTX 3090"),
        pytest.param(with_gpus(nvidia("RTX 3060", 12, 360, 28.8)), 2_138, 75.6, id="RTX 3060"),
        pytest.param(with_gpus(nvidia("A100", 80, 1935, 71.3)), 5_286, 201, id="A100"),
        pytest.param(with_gpus(nvidia("H100", 80, 3350, 151.8)), 11_263, 281, id="H100"),
        pytest.param(mac(48, 273, 5.9), 440, 50.7, id="M4 Pro"),
        pytest.param(mac(64, 546, 11.9), 886, 83.1, id="M4 Max"),
        pytest.param(mac(64, 800, 13.9), 1_030, 83.7, id="M1 Ultra"),
        pytest.param(mac(128, 800, 16.7), 1_238, 94.3, id="M2 Ultra"),
        pytest.param(cpu_only(64, 85, 741), 55, 18.3, id="i9-13900K"),
    ],
)
def test_predicted_rates_are_near_the_published_ones(hardware: Hardware, prefill: float, decode: float) -> None:
    """Llama 2 7B Q4_0 in llama.cpp's scoreboards; the prefill rates gave the FLOPS, the decode rates are predicted."""
    rates = predict_rates(hardware, LLAMA_2_7B, round(3.56 * GIB))
    assert rates.prefill_tokens_per_s == pytest.approx(prefill, rel=0.02)
    assert rates.decode_tokens_per_s == pytest.approx(decode, rel=0.13)


def test_a_mixture_of_experts_decodes_far_faster_than_a_dense_model_of_its_size() -> None:
    experts, dense = catalogue.entry("qwen3:30b-a3b"), catalogue.entry("qwen3:32b")
    assert experts is not None
    assert dense is not None
    slow = cpu_only(64, 80, 900)
    fast_rate = predict_rates(slow, experts.shape, experts.file_bytes).decode_tokens_per_s
    slow_rate = predict_rates(slow, dense.shape, dense.file_bytes).decode_tokens_per_s
    assert fast_rate > 5 * slow_rate


def test_a_model_too_big_for_the_card_is_predicted_on_the_cpu() -> None:
    known = catalogue.entry("gemma3:12b")
    assert known is not None
    small_card = with_gpus(nvidia("GTX 1060", 6, 192, 5.6))
    without = with_gpus()
    assert predict_rates(small_card, known.shape, known.file_bytes) == predict_rates(
        without, known.shape, known.file_bytes
    )


def test_a_pc_of_which_nothing_is_known_has_a_low_score_and_a_reason() -> None:
    found = score(Hardware(os="unknown", arch="unknown"))
    assert 0 < found.score < 50
    assert found.limited_by in {"memory", "bandwidth", "prefill"}


@pytest.mark.parametrize("nonsense", [0.0, -1.0, math.nan, math.inf])
def test_nonsense_counts_as_unknown(nonsense: float) -> None:
    gpu = Gpu(name="x", memory_bytes=8 * GIB, bandwidth_bytes_per_s=nonsense, flops_per_s=nonsense)
    odd = Hardware(
        os="Linux",
        arch="x86_64",
        ram_bytes=8 * GIB,
        memory_bandwidth_bytes_per_s=nonsense,
        cpu_flops_per_s=nonsense,
        gpus=(gpu,),
    )
    plain = Hardware(os="Linux", arch="x86_64", ram_bytes=8 * GIB, gpus=(Gpu(name="x", memory_bytes=8 * GIB),))
    assert score(odd) == score(plain)


def test_a_card_of_unknown_size_and_an_integrated_gpu_of_unknown_speed_change_nothing() -> None:
    plain = with_gpus()
    assert score(with_gpus(Gpu(name="card"))) == score(plain)
    assert score(with_gpus(Gpu(name="UHD", vendor="intel", shares_host_memory=True))) == score(plain)


def test_more_of_anything_never_lowers_the_score() -> None:
    base = cpu_only(8, 20, 200)
    for better in (cpu_only(16, 20, 200), cpu_only(8, 40, 200), cpu_only(8, 20, 400)):
        assert score(better).score >= score(base).score
    assert comfort(with_gpus(RTX_3090)).parameters > comfort(with_gpus()).parameters


@pytest.mark.parametrize(("name", "least", "below"), [("weak", 0, 60), ("middle", 60, 80), ("strong", 80, 101)])
def test_the_sample_hardware_files_land_in_the_three_tiers(name: str, least: float, below: float) -> None:
    hardware = msgspec.convert(tomllib.loads((DOCS / f"{name}.toml").read_text(encoding="utf-8")), Hardware)
    assert least <= score(hardware).score < below


def test_a_gpu_that_no_engine_there_can_use_does_not_count() -> None:
    gpu = Gpu(name="RTX 4090", vendor="nvidia", memory_bytes=24 * 10**9, bandwidth_bytes_per_s=1e12, flops_per_s=1e14)
    pc = Hardware(os="linux", arch="x86_64", ram_bytes=16 * 10**9, physical_cores=4, gpus=(gpu,))
    idle_gpu = dataclasses.replace(pc, gpus=(dataclasses.replace(gpu, usable=False),))
    assert score(pc).score > 80
    assert score(idle_gpu) == score(dataclasses.replace(pc, gpus=()))
