"""Mirrors chorus_http/errors.py."""

from __future__ import annotations

import json

import pytest

from chorus_http.apis import error_type
from chorus_http.errors import error_body, error_headers
from chorus_proto.errors import ERROR_OF_CODE, SURFACE, ErrorCode, error_of


@pytest.mark.parametrize("code", ERROR_OF_CODE, ids=str)
def test_every_error_has_openais_shape(code: ErrorCode) -> None:
    error = error_of(code, "why", param="model")
    assert json.loads(error_body(error)) == {
        "error": {"message": "why", "type": error_type(error), "param": "model", "code": code.value}
    }
    ours = SURFACE[code].http >= 500
    assert error_type(error) == ("server_error" if ours else "invalid_request_error")


@pytest.mark.parametrize("code", ERROR_OF_CODE, ids=str)
def test_a_503_says_when_to_come_back_and_no_caller_error_asks_for_a_retry(code: ErrorCode) -> None:
    headers = error_headers(error_of(code, "why"))
    assert ("retry-after" in headers) is (SURFACE[code].http == 503)
    if SURFACE[code].http < 500:
        assert headers["x-should-retry"] == "false"


def test_the_raisers_own_time_is_rounded_up_to_whole_seconds() -> None:
    assert error_headers(error_of("queue_full", "why", retry_after_s=7.2))["retry-after"] == "8"
    assert error_headers(error_of("node_lost", "why", retry_after_s=0.01))["retry-after"] == "1"


def test_a_caller_who_gave_the_queue_a_time_is_not_told_to_retry() -> None:
    assert error_headers(error_of("queue_timeout", "why"))["x-should-retry"] == "false"
    assert error_headers(error_of("queue_full", "why"))["x-should-retry"] == "true"
