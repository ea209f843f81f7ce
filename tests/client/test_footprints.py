from __future__ import annotations

from pathlib import Path

import pytest

from chorus_client.footprints import FILE_NAME, Footprints, LoadKey
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind

MB = 1_000_000


def key(model: str = "a", *, context_tokens: int = 4096, slots: int = 1) -> LoadKey:
    return LoadKey(model=ModelName(model), engine=EngineKind.LLAMA_SERVER, context_tokens=context_tokens, slots=slots)


def test_an_unknown_load_is_predicted_as_it_is(tmp_path: Path) -> None:
    assert Footprints(tmp_path).corrected(key(), 100 * MB) == 100 * MB


def test_a_measured_footprint_corrects_the_next_prediction(tmp_path: Path) -> None:
    known = Footprints(tmp_path)
    known.record(key(), predicted_bytes=100 * MB, measured_bytes=120 * MB)
    assert known.corrected(key(), 100 * MB) == 120 * MB
    assert known.correction(key(context_tokens=8192)) == pytest.approx(1.2)
    assert known.corrected(key(context_tokens=8192), 200 * MB) == 240 * MB
    assert known.correction(key("b")) == 1


def test_it_survives_a_restart(tmp_path: Path) -> None:
    first = Footprints(tmp_path / "state")
    first.record(key(), predicted_bytes=100 * MB, measured_bytes=120 * MB)
    first.refuse(key("b"), predicted_bytes=500 * MB, free_bytes=300 * MB)
    again = Footprints(tmp_path / "state")
    assert again.known() == first.known()
    assert again.corrected(key(), 100 * MB) == 120 * MB
    assert again.refused(key("b"), predicted_bytes=500 * MB, free_bytes=300 * MB) is not None
    assert [path.name for path in (tmp_path / "state").iterdir()] == [FILE_NAME]


def test_newer_loads_weigh_more_and_the_largest_of_the_last_four_is_the_least_expected(tmp_path: Path) -> None:
    known = Footprints(tmp_path)
    for measured in (140, 100, 100):
        known.record(key(), predicted_bytes=100 * MB, measured_bytes=measured * MB)
    assert known.correction(key()) == pytest.approx(1.1)
    assert known.corrected(key(), 100 * MB) == 140 * MB
    for _ in range(2):
        known.record(key(), predicted_bytes=100 * MB, measured_bytes=100 * MB)
    assert known.corrected(key(), 100 * MB) == pytest.approx(103 * MB, rel=0.01)


@pytest.mark.parametrize(("measured", "factor"), [(900, 2.0), (10, 0.5)])
def test_a_correction_stays_within_its_bounds(tmp_path: Path, measured: int, factor: float) -> None:
    known = Footprints(tmp_path)
    known.record(key(), predicted_bytes=100 * MB, measured_bytes=measured * MB)
    assert known.correction(key()) == factor


def test_a_prediction_that_was_too_high_comes_down_but_not_below_what_was_measured(tmp_path: Path) -> None:
    known = Footprints(tmp_path)
    for measured in (80, 90):
        known.record(key(), predicted_bytes=100 * MB, measured_bytes=measured * MB)
    assert known.corrected(key(), 100 * MB) == 90 * MB


def test_a_file_that_was_replaced_by_a_smaller_one_need_not_have_the_memory_of_the_old_one(tmp_path: Path) -> None:
    known = Footprints(tmp_path)
    known.record(key(), predicted_bytes=30_000 * MB, measured_bytes=31_000 * MB)
    assert known.corrected(key(), 8_000 * MB) == pytest.approx(8_000 * MB, rel=0.05)
    known.record(key(), predicted_bytes=8_000 * MB, measured_bytes=8_800 * MB)
    assert known.corrected(key(), 8_000 * MB) == 8_800 * MB
    # A newer estimate that says a little less is about the same file.
    assert known.corrected(key(), 7_900 * MB) == 8_800 * MB


def test_a_load_without_bytes_teaches_nothing(tmp_path: Path) -> None:
    known = Footprints(tmp_path)
    known.record(key(), predicted_bytes=0, measured_bytes=5)
    known.record(key(), predicted_bytes=5, measured_bytes=0)
    assert known.known() == ()


def test_a_size_that_failed_is_not_tried_again_until_clearly_more_is_free(tmp_path: Path) -> None:
    known = Footprints(tmp_path)
    known.refuse(key(), predicted_bytes=1000 * MB, free_bytes=1200 * MB)
    for free in (0, 1200, 1249):
        assert known.refused(key(), predicted_bytes=1000 * MB, free_bytes=free * MB) == 1250 * MB
    assert known.refused(key(), predicted_bytes=1000 * MB, free_bytes=1250 * MB) is None
    assert known.refused(key(), predicted_bytes=2000 * MB, free_bytes=1200 * MB) is not None, "a larger one neither"
    smaller = key(context_tokens=2048)
    assert known.refused(smaller, predicted_bytes=700 * MB, free_bytes=1200 * MB) is None, "a smaller one may"
    assert known.refused(key("b"), predicted_bytes=1000 * MB, free_bytes=0) is None


def test_a_load_that_went_well_or_a_person_lifts_the_refusal(tmp_path: Path) -> None:
    known = Footprints(tmp_path)
    known.refuse(key(), predicted_bytes=1000 * MB, free_bytes=1200 * MB)
    known.record(key(slots=2), predicted_bytes=900 * MB, measured_bytes=900 * MB)
    assert known.refused(key(), predicted_bytes=1000 * MB, free_bytes=1200 * MB) is not None
    known.record(key(), predicted_bytes=1000 * MB, measured_bytes=990 * MB)
    assert known.refused(key(), predicted_bytes=1000 * MB, free_bytes=1200 * MB) is None
    known.refuse(key(), predicted_bytes=1000 * MB, free_bytes=1200 * MB)
    known.allow(ModelName("a"))
    assert known.refused(key(), predicted_bytes=1000 * MB, free_bytes=0) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"loads":[{"model":1}]}',
        b'{"loads":[{"model":"a","engine":"x","context_tokens":1,"slots":1,"predicted_bytes":1,'
        b'"measured_bytes":[],"correction":1}]}',
        b"\xff" * 40,
    ],
)
def test_a_damaged_file_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    known = Footprints(tmp_path)
    assert known.known() == ()
    known.record(key(), predicted_bytes=100 * MB, measured_bytes=120 * MB)
    assert len(Footprints(tmp_path).known()) == 1


def test_a_correction_from_a_file_is_bounded_too(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(
        b'{"loads":[{"model":"a","engine":"llama_server","context_tokens":4096,"slots":1,"predicted_bytes":1,'
        b'"measured_bytes":[1],"correction":1e300}]}'
    )
    known = Footprints(tmp_path)
    assert known.known()[0].key.engine is EngineKind.LLAMA_SERVER
    assert known.correction(key()) == 2


def test_the_file_stays_small(tmp_path: Path) -> None:
    known = Footprints(tmp_path)
    for index in range(300):
        known.refuse(key(f"m{index}"), predicted_bytes=MB, free_bytes=MB)
    assert known.refused(key("m0"), predicted_bytes=MB, free_bytes=0) is None
    assert known.refused(key("m299"), predicted_bytes=MB, free_bytes=0) is not None


def test_a_folder_that_cannot_be_written_costs_only_the_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    known = Footprints(tmp_path / "file")
    known.record(key(), predicted_bytes=100 * MB, measured_bytes=120 * MB)
    assert known.corrected(key(), 100 * MB) == 120 * MB
