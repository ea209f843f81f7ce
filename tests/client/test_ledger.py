from __future__ import annotations

from chorus_client.ledger import RAM, Ledger, gpu_place
from chorus_proto.ids import ModelName

A, B = ModelName("a"), ModelName("b")


def test_promises_add_up_by_place() -> None:
    ledger = Ledger()
    ledger.reserve(A, {RAM: 100, gpu_place(0): 1000})
    ledger.reserve(B, {RAM: 50})
    assert ledger.outstanding_bytes(RAM) == 162, "each with 8 % of doubt"
    assert ledger.outstanding_bytes(gpu_place(0)) == 1080
    assert ledger.outstanding_bytes(gpu_place(1)) == 0
    assert ledger.outstanding_bytes(RAM, but=A) == 54


def test_what_is_resident_already_is_not_promised_any_more() -> None:
    ledger = Ledger()
    ledger.reserve(A, {RAM: 100})
    ledger.grown(A, RAM, 30)
    assert ledger.outstanding_bytes(RAM) == 78
    ledger.grown(A, RAM, 300)
    assert ledger.outstanding_bytes(RAM) == 0


def test_the_end_of_a_load_frees_its_promise_whether_it_went_well_or_not() -> None:
    ledger = Ledger()
    ledger.reserve(A, {RAM: 100})
    ledger.commit(A)
    assert ledger.outstanding_bytes(RAM) == 0
    ledger.reserve(A, {RAM: 100})
    ledger.release(A)
    ledger.release(A)
    assert ledger.outstanding_bytes(RAM) == 0


def test_growth_after_the_end_of_a_load_changes_nothing() -> None:
    ledger = Ledger()
    ledger.reserve(A, {RAM: 100})
    ledger.commit(A)
    ledger.grown(A, RAM, 10)
    assert ledger.outstanding_bytes(RAM) == 0


def test_a_second_promise_replaces_the_first() -> None:
    ledger = Ledger()
    ledger.reserve(A, {RAM: 100})
    ledger.grown(A, RAM, 60)
    ledger.reserve(A, {RAM: 40})
    assert ledger.outstanding_bytes(RAM) == 43
