"""What the gate costs a request: `python -m bench.key_check [REQUESTS]`, run from the project's root.

CPU time of this process for `Gate.enter` and the end of its exchange, with the headers of OpenAI's Python client, less
what the same costs without a gate. The coordinator is asked again as often as it is under load: once in `FRESH_S`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from chorus_http.exchange import Exchange
from chorus_http.gate import Gate
from chorus_http.settings import HttpSettings
from chorus_proto.clock import SystemClock
from chorus_proto.ids import RequestId
from chorus_proto.keys import NewKey, Scope
from chorus_server.coordinator import Coordinator
from chorus_server.settings import CoordinatorSettings
from chorus_server.store import Store

REQUESTS = 20_000
AIM_US = 30.0
CHAT = "/v1/chat/completions"
USERS = 50
CLIENT: Mapping[str, str] = {
    "host": "127.0.0.1:5001",
    "accept-encoding": "gzip, deflate, br",
    "connection": "keep-alive",
    "accept": "application/json",
    "content-type": "application/json",
    "user-agent": "OpenAI/Python 2.8.1",
    "x-stainless-lang": "python",
    "x-stainless-package-version": "2.8.1",
    "x-stainless-os": "Linux",
    "x-stainless-arch": "x64",
    "x-stainless-runtime": "CPython",
    "x-stainless-runtime-version": "3.11.7",
    "x-stainless-async": "false",
    "x-stainless-retry-count": "0",
    "content-length": "180",
}


def scope(**more: str) -> dict[str, object]:
    told = {**CLIENT, **more}
    return {
        "type": "http",
        "method": "POST",
        "path": CHAT,
        "http_version": "1.1",
        "query_string": b"",
        "client": ("192.0.2.9", 1),
        "headers": [(name.encode(), value.encode()) for name, value in told.items()],
    }


async def spent_us(gate: Gate | None, asked: list[dict[str, object]], requests: int) -> float:
    """CPU microseconds of one request."""
    began_s = time.process_time()
    for number in range(requests):
        exchange = Exchange(request_id=RequestId("1"), started_s=0.0)
        async with exchange.closing:
            if gate is not None:
                await gate.enter(exchange, asked[number % len(asked)], CHAT)
    return (time.process_time() - began_s) / requests * 1e6


async def measured(requests: int, folder: Path) -> dict[str, float]:
    """Of each way in, the best of three rounds less what the same costs without a gate."""
    store = Store.open(folder / "coordinator.sqlite")
    try:
        coordinator = Coordinator(CoordinatorSettings(state_dir=folder), store, SystemClock())
        wishes = [
            NewKey(name=f"user-{number}", scopes=(Scope.INFER,), requests_per_minute=2**31) for number in range(USERS)
        ]
        keys = [(await coordinator.create_key(wish)).text for wish in wishes]
        front = (await coordinator.create_key(NewKey(name="front", scopes=(Scope.INFER,), trusted=True))).text
        settings = HttpSettings(key_requests_per_minute=0, address_requests_per_minute=0)
        gate = Gate(coordinator, settings, SystemClock())
        ways = {
            "no key": [scope()],
            "one key": [scope(authorization=f"Bearer {keys[0]}")],
            f"{USERS} keys": [scope(authorization=f"Bearer {key}") for key in keys],
            "forwarded user": [
                scope(**{"authorization": f"Bearer {front}", "x-openwebui-user-id": f"u-{n}"}) for n in range(USERS)
            ],
        }
        bare_us = min([await spent_us(None, [scope()], requests) for _ in range(3)])
        return {
            way: min([await spent_us(gate, asked, requests) for _ in range(3)]) - bare_us for way, asked in ways.items()
        }
    finally:
        store.close()


def main() -> None:
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else REQUESTS
    with TemporaryDirectory() as folder:
        found = asyncio.run(measured(requests, Path(folder)))
    print(f"{'way in':<16}{'CPU us a request':>18}{'of the aim':>12}")
    for way, cost_us in found.items():
        print(f"{way:<16}{cost_us:>18.1f}{cost_us / AIM_US:>12.2f}")


if __name__ == "__main__":
    main()
