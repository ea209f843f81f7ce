"""What encryption costs: `python -m bench.tls [REQUESTS]`, run from the project's root.

Two hubs side by side, asked by turns: one in clear, one with TLS for its callers and for the link to its agent. The
scripted engine answers without computing. CPU is that of the hub's process, in the same run; a machine that others use
shows up in both.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from bench.processes import Hub, chorus_up, cpu_s
from chorus_proto.tls.authority import PUBLIC_FILE
from chorus_proto.tls.folder import FOLDER

REQUESTS = 400
ROUNDS = 4
TOKENS = 200
FLAGS = ("--engines=scripted", "--no-microbench", "--address-requests-per-minute=0")


@dataclass(frozen=True, slots=True)
class Side:
    """One hub and what its callers connect with."""

    hub: Hub
    trust: ssl.SSLContext | None

    async def connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        at = urlsplit(self.hub.http_url)
        return await asyncio.open_connection(at.hostname, at.port, ssl=self.trust)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one request: the hub's CPU time, and the wall time in the middle of all."""

    cpu_us: float
    wall_ms: float


def request(*, stream: bool, close: bool) -> bytes:
    body = json.dumps(
        {
            "model": "scripted",
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": TOKENS if stream else 1,
            "stream": stream,
        }
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: {'close' if close else 'keep-alive'}\r\n"
    )
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def answered(reader: asyncio.StreamReader) -> None:
    """Read one answer of known length. Raises SystemExit for one that is not good."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if b" 200 " not in head:
        raise SystemExit(f"an answer was no 200: {head[:200]!r}")
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))


async def kept_alive(side: Side, number: int) -> list[float]:
    """Requests one after the other on one connection; seconds of each."""
    reader, writer = await side.connected()
    times: list[float] = []
    for _ in range(number):
        began_s = time.perf_counter()
        writer.write(request(stream=False, close=False))
        await answered(reader)
        times.append(time.perf_counter() - began_s)
    writer.close()
    return times


async def connected_anew(side: Side, number: int, *, stream: bool = False) -> list[float]:
    """Each request on a connection of its own; seconds of each, handshake included."""
    times: list[float] = []
    for _ in range(number):
        began_s = time.perf_counter()
        reader, writer = await side.connected()
        writer.write(request(stream=stream, close=True))
        whole = await reader.read()
        times.append(time.perf_counter() - began_s)
        if b" 200 " not in whole[:20] or (stream and b"[DONE]" not in whole):
            raise SystemExit(f"an answer was not good: {whole[:200]!r}")
        writer.close()
    return times


async def measured(side: Side, work: str, number: int) -> tuple[float, list[float]]:
    """CPU seconds of the hub and seconds of each request."""
    before_s = cpu_s(side.hub.hub)
    match work:
        case "one connection":
            times = await kept_alive(side, number)
        case "a connection each":
            times = await connected_anew(side, number)
        case _:
            times = await connected_anew(side, max(1, number // 10), stream=True)
    return cpu_s(side.hub.hub) - before_s, times


async def compare(sides: tuple[Side, Side], number: int) -> None:
    for side in sides:
        await kept_alive(side, 50)  # warm
    for work in ("one connection", "a connection each", f"streams of {TOKENS} tokens"):
        spent_s = [0.0, 0.0]
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS):
            for index, side in enumerate(sides):
                cpu, took = await measured(side, work, number // ROUNDS)
                spent_s[index] += cpu
                times[index].extend(took)
        clear, encrypted = (
            Cost(1e6 * spent / len(took), 1e3 * median(took)) for spent, took in zip(spent_s, times, strict=True)
        )
        print(
            f"{work:<24} hub CPU/request  clear {clear.cpu_us:8.0f} us  TLS {encrypted.cpu_us:8.0f} us  "
            f"ratio {encrypted.cpu_us / clear.cpu_us:5.2f}   p50  clear {clear.wall_ms:7.2f} ms  "
            f"TLS {encrypted.wall_ms:7.2f} ms",
            flush=True,
        )


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else REQUESTS
    with tempfile.TemporaryDirectory() as folder:
        clear, encrypted = Path(folder) / "clear", Path(folder) / "tls"
        clear.mkdir()
        encrypted.mkdir()
        with chorus_up(clear, *FLAGS) as plain, chorus_up(encrypted, *FLAGS, "--tls") as secret:
            trust = ssl.create_default_context(cafile=encrypted / "state" / FOLDER / PUBLIC_FILE)
            asyncio.run(compare((Side(plain, None), Side(secret, trust)), number))


if __name__ == "__main__":
    main()
