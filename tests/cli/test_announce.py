from __future__ import annotations

import dataclasses
import json
import shlex

from chorus_cli.address import join_address, lan_address
from chorus_cli.announce import Addresses, join_lines, joining_at, ready_lines, sample_curl
from chorus_proto.membership import OpenToken
from chorus_proto.values import ClusterState

CLOSED = Addresses(host="127.0.0.1", grpc="127.0.0.1:50051", http="http://127.0.0.1:5001")
OPEN = Addresses(host="0.0.0.0", grpc="127.0.0.1:50051", http="http://127.0.0.1:5001")


class ClosedDesk:
    async def create_token(self, *, expires_in_s: float, uses: int) -> tuple[OpenToken, str]:
        raise AssertionError("nobody asked for a token")


def test_the_sample_can_be_pasted_into_a_shell() -> None:
    words = shlex.split(sample_curl("http://127.0.0.1:5001", "demo-tiny", windows=False))
    assert words[:2] == ["curl", "http://127.0.0.1:5001/v1/chat/completions"]
    assert json.loads(words[-1])["messages"][0]["content"] == "What is the capital of France?"


def test_the_sample_for_windows_has_no_single_quotes() -> None:
    line = sample_curl("http://127.0.0.1:5001", "demo-tiny", windows=True)
    assert "'" not in line
    assert '{\\"model\\": \\"demo-tiny\\"' in line


def test_a_closed_hub_says_how_to_open_it() -> None:
    assert "--host 0.0.0.0" in "\n".join(join_lines(CLOSED))
    assert "--insecure" not in "\n".join(join_lines(CLOSED))


def test_an_open_hub_says_what_other_pcs_must_run_with_an_address_of_the_lan() -> None:
    assert f"chorus agent --join {lan_address()}:50051" in "\n".join(join_lines(OPEN))
    assert "--insecure" not in "\n".join(join_lines(OPEN))


def test_a_hub_on_one_address_is_joined_at_that_address() -> None:
    assert join_address("192.168.1.5", "192.168.1.5:50051") == "192.168.1.5:50051"


def test_without_a_model_the_hub_says_so() -> None:
    state = ClusterState(version="1", epoch=1, uptime_s=1)
    assert "no model is ready yet" in "\n".join(ready_lines("1", state, None, CLOSED))


def test_a_hub_that_asks_for_keys_says_how_to_make_one_and_shows_where_it_goes() -> None:
    state = ClusterState(version="1", epoch=1, uptime_s=1)
    locked = "\n".join(ready_lines("1", state, "demo-tiny", dataclasses.replace(CLOSED, keys=True)))
    assert "chorus keys create" in locked and "Authorization: Bearer KEY" in locked
    assert "keys create" not in "\n".join(ready_lines("1", state, "demo-tiny", CLOSED))


def test_the_web_page_is_told_how_pcs_join_and_what_opens_a_hub_that_is_closed() -> None:
    closed = joining_at("127.0.0.1:50051", "127.0.0.1", tokens=None)
    assert not closed.open
    assert closed.address == f"{closed.lan_host}:50051"
    assert closed.opening == "./start.sh --host 0.0.0.0 --grpc-port 50051"
    desk = ClosedDesk()
    opened = joining_at("0.0.0.0:50051", "0.0.0.0", tokens=desk)
    assert (opened.open, opened.address, opened.opening) == (True, f"{opened.lan_host}:50051", "")
    assert (closed.tokens, opened.tokens) == (None, desk)
    named = joining_at("hub.local:7000", "hub.local", tokens=ClosedDesk())
    assert (named.open, named.address) == (True, "hub.local:7000")
