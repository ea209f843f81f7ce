from __future__ import annotations

from collections import Counter

import grpc
import pytest

from chorus_proto import errors
from chorus_proto.errors import ERROR_OF_CODE, SURFACE, ClusterError, ErrorCode, InternalError, error_of


def all_kinds() -> list[type[ClusterError]]:
    found: list[type[ClusterError]] = []
    waiting: list[type[ClusterError]] = [ClusterError]
    while waiting:
        for kind in waiting.pop().__subclasses__():
            found.append(kind)
            waiting.append(kind)
    return [kind for kind in found if kind.__module__ == errors.__name__]


def test_every_code_has_one_surface_and_one_class() -> None:
    assert set(SURFACE) == set(ErrorCode)
    assert Counter(kind.code for kind in all_kinds()) == Counter(ErrorCode)
    assert {code: ERROR_OF_CODE[code] for code in ErrorCode} == {kind.code: kind for kind in all_kinds()}


@pytest.mark.parametrize("code", ErrorCode)
def test_the_http_status_says_the_same_as_the_grpc_status(code: ErrorCode) -> None:
    status = grpc.StatusCode
    fitting = {
        status.INVALID_ARGUMENT: {400, 413, 415, 422},
        status.NOT_FOUND: {404},
        status.UNAVAILABLE: {502, 503},
        status.RESOURCE_EXHAUSTED: {429, 503, 507},
        status.INTERNAL: {500, 502},
        status.DEADLINE_EXCEEDED: {504},
        status.CANCELLED: {499},
        status.UNIMPLEMENTED: {405, 501},
        status.FAILED_PRECONDITION: {409, 422},
        status.ALREADY_EXISTS: {409},
        status.DATA_LOSS: {503},
        status.UNAUTHENTICATED: {401},
        status.PERMISSION_DENIED: {403},
    }
    assert SURFACE[code].http in fitting[SURFACE[code].grpc]


def test_only_what_another_node_could_do_better_is_retried() -> None:
    retried = {code for code, surface in SURFACE.items() if surface.retryable}
    assert retried == {
        ErrorCode.NO_REPLICA,
        ErrorCode.NODE_LOST,
        ErrorCode.ENGINE_FAILED,
        ErrorCode.ENGINE_DIED,
        ErrorCode.ENGINE_UNAVAILABLE,
        ErrorCode.LOAD_FAILED,
        ErrorCode.CRASH_LOOP,
        ErrorCode.MODEL_DAMAGED,
    }
    assert all(SURFACE[code].http >= 500 for code in retried)


@pytest.mark.parametrize("kind", all_kinds())
def test_an_error_that_crosses_the_wire_as_a_code_comes_back_as_itself(kind: type[ClusterError]) -> None:
    error = error_of(kind.code.value, "what happened", param="model", retry_after_s=2.0)
    assert type(error) is kind
    assert (str(error), error.message, error.param, error.retry_after_s) == (
        *("what happened", "what happened"),
        *("model", 2.0),
    )
    assert error.surface is SURFACE[kind.code]


def test_a_code_of_a_newer_version_is_an_internal_error_that_names_it() -> None:
    error = error_of("teapot", "short and stout")
    assert type(error) is InternalError
    assert "short and stout" in error.message
    assert "'teapot'" in error.message
