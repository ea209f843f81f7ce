"""Mirrors chorus_http/routes/join.py and joining.py, with a real roster behind them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest

from chorus_http.app import create_app
from chorus_http.joining import Joining, join_answer, qr_code
from chorus_http.listen import serving
from chorus_http.settings import HttpSettings
from chorus_proto.clock import SystemClock
from chorus_proto.ids import new_node_id
from chorus_proto.membership import JoinWish, digest_of, join_token_of, new_node_secret
from chorus_server.roster import Roster
from chorus_server.store import Store
from tests.support.fake_cluster import FakeCluster
from tests.support.http_face import Reply, send_raw

JOINING = Joining(address="192.168.1.10:50051", lan_host="192.168.1.10", open=True)
PIN = "ab" * 32


def ask(method: str, path: str, body: object = None, *, joining: Joining = JOINING) -> Reply:
    return asyncio.run(asked(method, path, body, joining))


async def asked(method: str, path: str, body: object, joining: Joining) -> Reply:
    settings = HttpSettings(http_port=0, drain_within_s=1.0)
    app = create_app(FakeCluster(), settings, SystemClock(), joining=joining)
    raw = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", f"Content-Length: {len(raw)}"]
    if raw:
        lines.append("Content-Type: application/json")
    async with serving(app, settings) as server:
        return await send_raw(server.port, "\r\n".join([*lines, "", ""]).encode() + raw)


def commands(reply: Reply) -> dict[object, object]:
    return {one["system"]: one["lines"] for one in reply.rows("commands")}


def test_the_ways_in_name_the_hub_as_other_pcs_see_it() -> None:
    reply = ask("GET", "/join")
    told = reply.json()
    assert told["token_command"] == ""
    assert commands(reply)["Windows"] == ["start_server.bat agent --join 192.168.1.10:50051"]
    assert commands(reply)["Linux"] == ["./start.sh agent --join 192.168.1.10:50051"]
    page = msgspec.convert(told["page"], dict[str, object])
    assert str(page["text"]).startswith("http://192.168.1.10")
    assert str(page["text"]).endswith("/#/join")


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("localhost:5001", "192.168.1.10:5001"),
        ("[::1]:5001", "192.168.1.10:5001"),
        ("localhost", "192.168.1.10"),
        ("hub.local:5001", "hub.local:5001"),
        ("10.0.0.7:80", "10.0.0.7:80"),
    ],
)
def test_the_code_leads_to_the_page_as_a_phone_reaches_it(host: str, shown: str) -> None:
    assert join_answer(JOINING, scheme="http", host=host).page.text == f"http://{shown}/#/join"


def test_the_code_has_its_three_corners_inside_a_quiet_zone() -> None:
    code = qr_code("http://192.168.1.10:5001/#/join")
    dark = {tuple(map(int, one.partition("h")[0].split())) for one in code.path.split("M")[1:]}
    low, high = 2, code.size - 3
    assert {(low, low), (high, low), (low, high)} <= dark
    assert all(low <= x <= high and low <= y <= high for x, y in dark)
    assert len({(x, y) for x, y in dark if x < low + 7 and y < low + 7}) == 33


def test_a_token_made_here_admits_as_many_pcs_as_it_says(tmp_path: Path) -> None:
    async def run() -> None:
        store = await asyncio.to_thread(Store.open, tmp_path / "hub.sqlite")
        try:
            roster = Roster(store.members, SystemClock(), fingerprint=PIN)
            joining = Joining(address="192.168.1.10:50051", lan_host="192.168.1.10", open=True, tokens=roster)
            told = await asked("GET", "/join", None, joining)
            assert told.json()["token_command"] == "chorus join-token create"
            assert commands(told)["Linux"] == [
                "echo TOKEN | ./start.sh agent --join 192.168.1.10:50051 --join-token-file -"
            ]

            made = await asked("POST", "/join/tokens", {"uses": 2, "expires_in_s": 60}, joining)
            secret = str(made.json()["secret"])
            assert (made.status, made.headers["cache-control"]) == (201, "no-store")
            assert commands(made)["Windows"] == [
                f"echo {secret} | start_server.bat agent --join 192.168.1.10:50051 --join-token-file -"
            ]
            (kept,) = roster.tokens()
            assert (kept.uses_left, kept.expires_unix_s) == (2, made.json()["expires_unix_s"])
            assert 59 < kept.expires_unix_s - kept.created_unix_s < 61

            token = join_token_of(secret)
            assert token is not None and token.fingerprint == PIN
            wish = JoinWish(
                token_id=token.token_id,
                token_secret=token.secret,
                node_id=new_node_id(),
                name="attic",
                digest=digest_of(new_node_secret()),
            )
            await roster.join(wish, "10.0.0.7")
            assert [one.name for one in roster.members()] == ["attic"]
            assert roster.tokens()[0].uses_left == 1

            usual = await asked("POST", "/join/tokens", {}, joining)
            assert usual.json()["uses_left"] == 1
            assert 3590 < roster.tokens()[1].expires_unix_s - roster.tokens()[1].created_unix_s <= 3600

            for body, field in (
                ({"uses": 0}, "uses"),
                ({"uses": 1e9}, "uses"),
                ({"uses": 100_000}, "uses"),
                ({"expires_in_s": -1}, "expires_in_s"),
                ({"expires_in_s": 1e9}, "expires_in_s"),
            ):
                wrong = await asked("POST", "/join/tokens", body, joining)
                assert (wrong.status, field in wrong.body.decode()) == (400, True), body
            assert len(roster.tokens()) == 2
        finally:
            await asyncio.to_thread(store.close)

    asyncio.run(run())


def test_a_hub_that_asks_for_no_token_makes_none() -> None:
    reply = ask("POST", "/join/tokens", {})
    assert reply.status == 404
    assert b"without a token" in reply.body
