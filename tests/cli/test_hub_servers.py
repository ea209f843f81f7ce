"""The local servers behind the web page's door, on real processes of the bundled engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Generator
from pathlib import Path

import pytest

from chorus_cli.hub_servers import HubServers
from chorus_proto.errors import InvalidRequest, NotFound
from tests.support.local_servers import end_all, free_ports, server, servers_file


@pytest.fixture
def folder(tmp_path: Path) -> Generator[Path]:
    yield tmp_path
    end_all(tmp_path)


def refused(question: Coroutine[object, object, object]) -> str:
    with pytest.raises(InvalidRequest) as caught:
        asyncio.run(question)
    return caught.value.message


def test_a_server_is_started_beside_another_only_by_force_and_stopped_again(folder: Path) -> None:
    ports = free_ports(2)
    file = servers_file(folder, server("one", ports[0]), server("two", ports[1]))
    door = HubServers.in_folder(folder, file=file)

    async def check() -> None:
        assert [one.state for one in (await door.listed()).servers] == ["Stopped", "Stopped"]
        first = await door.start("one", force=False)
        assert first.started
        assert first.server is not None
        assert (first.server.state, first.server.port, first.server.owner) == ("Running", ports[0], "chorus")
        asked = await door.start("two", force=False)
        assert (asked.started, asked.running) == (False, ("one",))
        assert "two needs" in asked.arithmetic
        assert [one.state for one in (await door.listed()).servers] == ["Running", "Stopped"]
        assert (await door.start("two", force=True)).started
        assert await door.stop("one") == "one is stopped."
        assert await door.stop("one") == "one was not running."
        assert await door.stop("two") == "two is stopped."

    asyncio.run(check())


def test_another_default_is_written_to_the_file(folder: Path) -> None:
    ports = free_ports(2)
    file = servers_file(folder, server("one", ports[0]), server("two", ports[1]), default_local_server="one")
    listed = asyncio.run(HubServers.in_folder(folder, file=file).make_default("two"))
    assert [(one.name, one.default) for one in listed.servers] == [("one", False), ("two", True)]
    assert listed.api_base_url == f"http://127.0.0.1:{ports[1]}/v1"
    assert json.loads(file.read_text(encoding="utf-8"))["llm_endpoint"]["default_local_server"] == "two"


def test_a_file_that_is_not_there_is_no_trouble_and_a_wrong_one_is_told(folder: Path) -> None:
    door = HubServers.in_folder(folder)
    listed = asyncio.run(door.listed())
    assert (listed.servers, listed.problem, listed.file) == ((), "", str(folder / "servers.json"))
    (folder / "servers.json").write_text('{"local_llm_servers": 7}', encoding="utf-8")
    assert "local_llm_servers" in asyncio.run(door.listed()).problem
    assert "local_llm_servers" in refused(door.start("one", force=False))


def test_a_name_that_is_not_in_the_file_is_not_found(folder: Path) -> None:
    door = HubServers.in_folder(folder, file=servers_file(folder, server("one", free_ports(1)[0])))
    for question in (door.start("two", force=True), door.stop("two"), door.make_default("../one")):
        with pytest.raises(NotFound):
            asyncio.run(question)
