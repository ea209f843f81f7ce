"""The way into memory: predict, compare, promise, measure, correct, refuse. The PC here has 2 GB."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from chorus_client.engines.base import LoadOptions
from chorus_client.eviction import WarmModel
from chorus_client.footprint import Resident
from chorus_client.hardware import LiveReader, LiveReadings
from chorus_client.memory_gate import MemoryGate
from chorus_client.model_options import ModelOptions
from chorus_client.preflight import Fit, Reserve, Verdict
from chorus_proto.catalogue import entry
from chorus_proto.errors import InsufficientMemory
from chorus_proto.ids import ModelName
from chorus_proto.sizing import DeviceKind
from chorus_proto.values import EngineKind, Gpu, Hardware, ModelFile

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


def test_a_model_that_does_not_fit_is_told_so_with_the_arithmetic(tmp_path: Path) -> None:
    verdict = asyncio.run(gate_at(tmp_path).weigh(model("big", "llama3.1:8b"), OPTIONS, []))
    assert verdict is not None
    assert verdict.fit is Fit.DOES_NOT_FIT
    assert re.search(r"needs .* GB = .* weights \+ .* KV .*; free ", verdict.words)


def test_two_loads_at_once_cannot_count_on_the_same_memory(tmp_path: Path) -> None:
    async def scenario() -> None:
        gate = gate_at(tmp_path)
        first = await gate.weigh(model("one"), OPTIONS, [])
        assert first is not None
        assert first.fit is Fit.FITS
        second = await gate.weigh(model("two"), OPTIONS, [])
        assert second is not None
        assert second.fit is Fit.DOES_NOT_FIT
        assert "promised" in second.words
        await gate.failed(model("one"), OPTIONS, for_memory=False)
        third = await gate.weigh(model("two"), OPTIONS, [])
        assert third is not None
        assert third.fit is Fit.FITS

    asyncio.run(scenario())


def test_what_a_load_really_took_corrects_the_next_prediction(tmp_path: Path) -> None:
    async def scenario() -> None:
        file = model("one")
        predicted = gate_at(tmp_path).predicted_bytes(file, OPTIONS)
        assert predicted is not None
        gate = gate_at(tmp_path)
        await gate.loaded(file, OPTIONS, Resident(total_bytes=round(1.25 * predicted)))
        # Another run of the agent has learnt it too.
        verdict = await gate_at(tmp_path).weigh(file, OPTIONS, [])
        assert verdict is not None
        assert verdict.needed_bytes == pytest.approx(1.25 * predicted, rel=0.01)

    asyncio.run(scenario())


def test_a_load_that_failed_for_memory_is_not_tried_again_at_that_size_until_somebody_asks(tmp_path: Path) -> None:
    async def scenario() -> None:
        gate = gate_at(tmp_path)
        file = model("one")
        await gate.weigh(file, OPTIONS, [])
        await gate.failed(file, OPTIONS, for_memory=True)
        with pytest.raises(InsufficientMemory, match="failed for lack of memory"):
            await gate.weigh(file, OPTIONS, [])
        gate.allow(file.name)
        assert await gate.weigh(file, OPTIONS, []) is not None

    asyncio.run(scenario())


def test_a_model_that_runs_elsewhere_is_not_weighed(tmp_path: Path) -> None:
    remote = ModelFile(name=ModelName("far"), file_bytes=0, engine=EngineKind.REMOTE)
    assert asyncio.run(gate_at(tmp_path).weigh(remote, OPTIONS, [])) is None


class Told:
    """Readings that a test sets."""

    def __init__(self, ram_bytes: int, *cards: int | None) -> None:
        self.ram_bytes = ram_bytes
        self.cards: list[int | None] = list(cards)
        self.comes_back: list[int] = []
        """What the card shows at the next readings, one after the other."""

    async def read(self) -> LiveReadings:
        if self.comes_back:
            self.cards[0] = self.comes_back.pop(0)
        return LiveReadings(ram_available_bytes=self.ram_bytes, gpu_free_bytes=tuple(self.cards))


def test_pages_of_loaded_models_are_not_free_although_the_system_calls_them_available(tmp_path: Path) -> None:
    async def scenario() -> None:
        gate = MemoryGate(PC, Told(1_900_000_000), DeviceKind.CPU, tmp_path, reserve=Reserve(least_bytes=0, share=0))
        await gate.weigh(model("one"), OPTIONS, [])
        # llama.cpp maps the weights: the system still calls those 1.2 GB available.
        held = Resident(total_bytes=1_300_000_000, mapped_bytes=1_200_000_000)
        await gate.loaded(model("one"), OPTIONS, held)
        second = await gate.weigh(model("two"), OPTIONS, [])
        assert second is not None
        assert second.fit is Fit.DOES_NOT_FIT
        assert second.free_bytes == 700_000_000
        assert await gate.freed(ModelName("one"), (), None) == ""
        third = await gate.weigh(model("two"), OPTIONS, [])
        assert third is not None
        assert third.fit is Fit.FITS

    asyncio.run(scenario())


CARD = Hardware(
    os="linux",
    arch="x86_64",
    ram_bytes=32_000_000_000,
    gpus=(Gpu(name="card", vendor="nvidia", memory_bytes=8_000_000_000, memory_free_bytes=8_000_000_000),),
)


@pytest.mark.parametrize(
    ("shows", "said"),
    [([5_000_000_000, 6_900_000_000, 7_990_000_000], ""), ([5_000_000_000] + 40 * [6_000_000_000], "1940 MB")],
)
def test_an_unload_is_complete_once_the_card_shows_the_memory(tmp_path: Path, shows: list[int], said: str) -> None:

    async def scenario() -> None:
        told = Told(30_000_000_000, 8_000_000_000)
        reserve = Reserve(least_bytes=0, share=0)
        gate = MemoryGate(CARD, told, DeviceKind.DISCRETE_GPU, tmp_path, reserve=reserve, freed_within_s=0.02)
        verdict = await gate.weigh(model("one"), OPTIONS, [])
        assert verdict is not None
        assert verdict.fit is Fit.FITS
        told.cards[0] = 5_000_000_000  # the load takes 3 GB
        await gate.loaded(model("one"), OPTIONS, None)
        before = await gate.free_now()
        told.comes_back = shows
        words = await gate.freed(ModelName("one"), before, None)
        assert words.startswith(said)
        assert bool(words) == bool(said)

    asyncio.run(scenario())


def test_an_engine_that_still_holds_the_model_is_named(tmp_path: Path) -> None:
    words = asyncio.run(gate_at(tmp_path).freed(ModelName("one"), (), Resident(total_bytes=5_000_000)))
    assert "still holds 5 MB" in words


def test_a_pc_that_plays_a_smaller_one_fills_up_like_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        gate = MemoryGate(PC, Told(64_000_000_000), DeviceKind.CPU, tmp_path, reserve=Reserve(least_bytes=0, share=0))
        await gate.weigh(model("one"), OPTIONS, [])
        await gate.loaded(model("one"), OPTIONS, Resident(total_bytes=1_300_000_000))
        second = await gate.weigh(model("two"), OPTIONS, [])
        assert second is not None
        assert second.free_bytes == 700_000_000

    asyncio.run(scenario())


def test_a_card_beside_integrated_graphics_is_judged_by_its_own_memory_and_its_models_are_found_there(
    tmp_path: Path,
) -> None:
    graphics = Gpu(name="Ryzen graphics", vendor="amd", shares_host_memory=True)
    pc = replace(CARD, gpus=(graphics, replace(CARD.gpus[0], vendor="amd")))

    async def scenario() -> None:
        told = Told(30_000_000_000, None, 8_000_000_000)
        reserve = Reserve(least_bytes=0, share=0)
        gate = MemoryGate(pc, told, DeviceKind.DISCRETE_GPU, tmp_path, reserve=reserve, freed_within_s=0.02)
        verdict = await gate.weigh(model("big", "llama3.1:8b"), OPTIONS, [])
        assert verdict is not None
        assert (verdict.fit, verdict.free_bytes) == (Fit.FITS, 8_000_000_000)
        told.cards[1] = 2_000_000_000
        await gate.loaded(model("big", "llama3.1:8b"), OPTIONS, None)
        warm = [WarmModel(model=ModelName("big"), resident_bytes=6_000_000_000, uses=0, load_s=5)]
        second = await gate.weigh(model("other", "llama3.1:8b"), OPTIONS, warm)
        assert second is not None
        assert (second.fit, second.evict) == (Fit.FITS_AFTER_EVICTING, ("big",))
        before = await gate.free_now()
        assert "not free again" in await gate.freed(ModelName("big"), before, None)

    asyncio.run(scenario())


def test_a_driver_that_falls_silent_is_no_memory_that_an_unload_left_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        told = Told(30_000_000_000, 8_000_000_000)
        gate = MemoryGate(CARD, told, DeviceKind.DISCRETE_GPU, tmp_path, reserve=Reserve(), freed_within_s=0.02)
        await gate.weigh(model("one"), OPTIONS, [])
        told.cards[0] = 5_000_000_000
        await gate.loaded(model("one"), OPTIONS, None)
        before = await gate.free_now()
        told.cards[0] = None
        assert await gate.freed(ModelName("one"), before, None) == ""

    asyncio.run(scenario())


IN_THE_HOST = Resident(total_bytes=900_000_000, mapped_bytes=500_000_000)
"""What the process of a llama-server shows whose model lies on a card."""
BIG = model("big", "llama3.1:8b")


def card_gate(folder: Path, told: Told, options: Mapping[ModelName, ModelOptions] | None = None) -> MemoryGate:
    reserve = Reserve(least_bytes=0, share=0)
    return MemoryGate(
        CARD, told, DeviceKind.DISCRETE_GPU, folder, reserve=reserve, freed_within_s=0.02, options=options
    )


async def weighed(gate: MemoryGate, file: ModelFile, *warm: WarmModel) -> Verdict:
    verdict = await gate.weigh(file, OPTIONS, warm)
    assert verdict is not None
    return verdict


async def card_load(gate: MemoryGate, told: Told, file: ModelFile, took_bytes: int) -> int | None:
    """The figure that the load left for the report."""
    verdict = await gate.weigh(file, OPTIONS, [])
    assert verdict is not None
    assert verdict.fit is Fit.FITS
    assert told.cards[0] is not None
    told.cards[0] -= took_bytes
    return await gate.loaded(file, OPTIONS, IN_THE_HOST)


def test_what_a_model_takes_of_a_card_is_told_by_the_driver_and_not_by_its_process(tmp_path: Path) -> None:
    async def scenario() -> None:
        told = Told(30_000_000_000, 8_000_000_000)
        gate = card_gate(tmp_path, told)
        predicted = gate.predicted_bytes(BIG, OPTIONS)
        assert predicted is not None
        took = round(1.1 * predicted)
        assert await card_load(gate, told, BIG, took) == took
        assert await gate.measured(BIG, OPTIONS, IN_THE_HOST) == took, "after it was used too"
        told.cards[0] = 8_000_000_000
        assert await gate.freed(BIG.name, (8_000_000_000 - took,), None) == ""
        again = await card_gate(tmp_path, told).weigh(BIG, OPTIONS, [])
        assert again is not None
        assert again.needed_bytes == pytest.approx(took, rel=0.01)

    asyncio.run(scenario())


@pytest.mark.parametrize("unloaded", [True, False])
def test_a_load_beside_another_load_or_unload_teaches_nothing(tmp_path: Path, unloaded: bool) -> None:
    async def scenario() -> None:
        told = Told(30_000_000_000, 9_000_000_000)
        gate = card_gate(tmp_path, told)
        if unloaded:
            assert await card_load(gate, told, model("other"), 1_500_000_000) is not None
        await gate.weigh(BIG, OPTIONS, [])
        before = await gate.free_now()
        if unloaded:
            told.cards[0] = 9_000_000_000
            assert await gate.freed(ModelName("other"), before, None) == ""
        else:
            assert await card_load(gate, told, model("other"), 1_500_000_000) is None
        assert told.cards[0] is not None
        told.cards[0] -= 5_500_000_000
        assert await gate.loaded(BIG, OPTIONS, IN_THE_HOST) is None
        await gate.freed(BIG.name, await gate.free_now(), None)
        told.cards[0] = 9_000_000_000
        again = await gate.weigh(BIG, OPTIONS, [])
        assert again is not None
        assert again.needed_bytes == gate.predicted_bytes(BIG, OPTIONS)

    asyncio.run(scenario())


@pytest.mark.parametrize("took_bytes", [-200_000_000, 100_000_000, None])
def test_a_figure_that_cannot_be_of_this_load_teaches_nothing(tmp_path: Path, took_bytes: int | None) -> None:
    async def scenario() -> None:
        told = Told(30_000_000_000, 8_000_000_000)
        gate = card_gate(tmp_path, told)
        if took_bytes is None:
            await gate.weigh(BIG, OPTIONS, [])
            told.cards[0] = None
            assert await gate.loaded(BIG, OPTIONS, IN_THE_HOST) is None
        else:
            assert await card_load(gate, told, BIG, took_bytes) is None
        told.cards[0] = 8_000_000_000
        again = await card_gate(tmp_path, told).weigh(BIG, OPTIONS, [])
        assert again is not None
        assert again.needed_bytes == gate.predicted_bytes(BIG, OPTIONS)

    asyncio.run(scenario())


@pytest.mark.parametrize(("layers", "measured"), [(0, IN_THE_HOST.total_bytes), (9, None)])
def test_layers_that_stay_in_the_hosts_memory_are_measured_there_if_all_do(
    tmp_path: Path, layers: int, measured: int | None
) -> None:
    async def scenario() -> None:
        told = Told(30_000_000_000, 8_000_000_000)
        options = {BIG.name: ModelOptions(params={"n-gpu-layers": layers})}
        assert await card_load(card_gate(tmp_path, told, options), told, BIG, 0) == measured

    asyncio.run(scenario())


def test_a_model_that_its_owner_keeps_off_the_card_does_not_give_way_for_one_on_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        off = ModelName("off")
        gate = card_gate(tmp_path, Told(30_000_000_000, 1_000_000_000), {off: ModelOptions(params={"n-gpu-layers": 0})})
        warm = [WarmModel(model=off, resident_bytes=7_000_000_000, uses=0, load_s=5)]
        verdict = await gate.weigh(BIG, OPTIONS, warm)
        assert verdict is not None
        assert (verdict.fit, verdict.evict) == (Fit.DOES_NOT_FIT, ())

    asyncio.run(scenario())


def test_ollama_tells_of_its_cards_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        told = Told(30_000_000_000, 8_000_000_000)
        theirs = replace(BIG, engine=EngineKind.OLLAMA)
        gate = card_gate(tmp_path, told)
        await gate.weigh(theirs, OPTIONS, [])
        assert await gate.loaded(theirs, OPTIONS, Resident(total_bytes=6_000_000_000)) == 6_000_000_000

    asyncio.run(scenario())


def test_while_its_driver_is_silent_a_card_has_what_it_had_last_less_what_our_loads_took(tmp_path: Path) -> None:
    async def scenario() -> None:
        told = Told(30_000_000_000, 13_000_000_000)
        gate = card_gate(tmp_path, told)
        assert (await weighed(gate, model("first", "llama3.1:8b"))).fit is Fit.FITS
        told.cards[0] = None
        await gate.loaded(model("first", "llama3.1:8b"), OPTIONS, IN_THE_HOST)
        second = await weighed(gate, model("second", "llama3.1:8b"))
        assert second.fit is Fit.FITS
        assert second.free_bytes == pytest.approx(13_000_000_000 - second.needed_bytes, rel=0.01)
        await gate.loaded(model("second", "llama3.1:8b"), OPTIONS, IN_THE_HOST)

        third = model("third", "llama3.1:8b")
        warm = [WarmModel(model=ModelName("first"), resident_bytes=second.needed_bytes, uses=0, load_s=5)]
        assert (await weighed(gate, third)).fit is Fit.DOES_NOT_FIT
        assert (await weighed(gate, third, *warm)).evict == ("first",)
        assert await gate.freed(ModelName("first"), await gate.free_now(), None) == ""
        assert (await weighed(gate, third)).fit is Fit.FITS, (
            "what is unloaded is free, although the driver says nothing"
        )
        await gate.failed(third, OPTIONS, for_memory=False)
        told.cards[0] = 1_000_000_000
        assert (await weighed(gate, third)).free_bytes == 1_000_000_000, "what the driver says counts"

    asyncio.run(scenario())


def test_a_card_that_is_silent_from_the_start_has_what_the_probe_saw(tmp_path: Path) -> None:
    pc = replace(CARD, gpus=(replace(CARD.gpus[0], memory_free_bytes=3_000_000_000),))
    reserve = Reserve(least_bytes=0, share=0)
    gate = MemoryGate(pc, Told(30_000_000_000, None), DeviceKind.DISCRETE_GPU, tmp_path, reserve=reserve)
    verdict = asyncio.run(weighed(gate, BIG))
    assert (verdict.fit, verdict.free_bytes) == (Fit.DOES_NOT_FIT, 3_000_000_000)


TWO_CARDS = replace(CARD, gpus=(CARD.gpus[0], CARD.gpus[0]))


def two_card_gate(folder: Path, told: Told) -> MemoryGate:
    return MemoryGate(
        TWO_CARDS, told, DeviceKind.DISCRETE_GPU, folder, reserve=Reserve(least_bytes=0, share=0), freed_within_s=0.02
    )


def test_with_several_cards_nobody_gives_way_for_room_that_is_on_no_card(tmp_path: Path) -> None:
    async def scenario() -> None:
        told = Told(30_000_000_000, 0, 0)
        gate = two_card_gate(tmp_path, told)
        half = (gate.predicted_bytes(BIG, OPTIONS) or 0) // 2
        # Other programs hold the rest of each card; a window on the first takes a little during the second load.
        told.cards = [half + 200_000_000, half + 100_000_000]
        await weighed(gate, model("left"))
        told.cards[0] = 200_000_000
        await gate.loaded(model("left"), OPTIONS, IN_THE_HOST)
        await weighed(gate, model("right"))
        told.cards = [100_000_000, 100_000_000]
        await gate.loaded(model("right"), OPTIONS, IN_THE_HOST)
        warm = [WarmModel(model=ModelName(name), resident_bytes=half, uses=1, load_s=5) for name in ("left", "right")]
        verdict = await weighed(gate, BIG, *warm)
        # Both together are large enough, but on two cards it needs its buffers twice.
        assert (verdict.fit, verdict.evict) == (Fit.DOES_NOT_FIT, ())

    asyncio.run(scenario())


def test_a_model_whose_layers_lie_on_two_cards_frees_a_part_of_each(tmp_path: Path) -> None:
    async def scenario() -> None:
        told = Told(30_000_000_000, 4_000_000_000, 4_000_000_000)
        gate = two_card_gate(tmp_path, told)
        assert (await weighed(gate, BIG)).fit is Fit.FITS
        told.cards = [900_000_000, 900_000_000]
        await gate.loaded(BIG, OPTIONS, IN_THE_HOST)
        warm = [WarmModel(model=BIG.name, resident_bytes=6_200_000_000, uses=1, load_s=5)]
        small = model("small", "llama3.2:3b")
        verdict = await weighed(gate, small, *warm)
        assert (verdict.fit, verdict.evict) == (Fit.FITS_AFTER_EVICTING, (BIG.name,))
        # Alone on one card it would need more than that card gets back.
        assert (await weighed(gate, model("another", "llama3.1:8b"), *warm)).evict == (BIG.name,)

    asyncio.run(scenario())
