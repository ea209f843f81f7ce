"""Models pulled from a real HTTP server: whole, resumed, and never wrong, whatever the server does."""

from __future__ import annotations

import asyncio
import errno
import sys
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from pathlib import Path

import pytest

from chorus_client.orders import FetchOrder, SendOrder
from chorus_client.transfer.checked_resolver import own_hosts
from chorus_client.transfer.fetches import AT_ONCE, Fetches
from chorus_client.transfer.http_download import DownloadLimits
from chorus_client.transfer.model_store import ModelStore, free_bytes
from chorus_client.transfer.part_file import PartFile
from chorus_proto.clock import SystemClock
from chorus_proto.errors import ClusterError, ErrorCode
from chorus_proto.ids import ModelName
from chorus_proto.transfers import FetchReport, TransferState
from tests.support.gguf_writer import llama
from tests.support.model_files import model_bytes, sha256_of
from tests.support.model_registry import ModelRegistry, Page, model_registry

MODEL = model_bytes(3_000_000)
SHA256 = sha256_of(MODEL)
MIDDLE = 1_500_000


class Nobody:
    """No other node: these tests only pull."""

    def incoming(self, ticket: str, offset: int) -> object:
        raise AssertionError(ticket)

    async def send(self, ticket: str, chunks: object) -> None:
        raise AssertionError(ticket)

    def path_of_digest(self, sha256: str) -> tuple[Path, int] | None:
        return None

    def archive_of_digest(self, sha256: str) -> None:
        return None


class Pc:
    """One PC's store and its fetches."""

    def __init__(self, folder: Path, registry: ModelRegistry, **limits: object) -> None:
        self.registry = registry
        self.free_bytes: int | None = None
        self.store = ModelStore(folder, spare_bytes=1000, free=self._free)
        self.reports: list[FetchReport] = []
        self.arrived: list[tuple[Path, object]] = []
        self._ended = asyncio.Event()
        self._pulls = 0
        self.removals = 0
        values: dict[str, object] = {
            "connect_s": 2,
            "stall_s": 0.3,
            "tries": 3,
            "hosts": own_hosts(registry.url),
            **limits,
        }
        nobody = Nobody()
        self.fetches = Fetches(
            self.store,
            nobody,
            nobody,
            nobody,  # pyright: ignore[reportArgumentType]  # is never asked
            SystemClock(),
            registry_url=registry.url,
            limits=DownloadLimits(**values),  # pyright: ignore[reportArgumentType]  # names checked by the dataclass
            tell=self._told,
            arrived=self._has_arrived,
            unpacked=self._has_arrived,
            removed=self._was_removed,
        )

    def _free(self, folder: Path) -> int:
        return free_bytes(folder) if self.free_bytes is None else self.free_bytes

    def _told(self, report: FetchReport) -> None:
        self.reports.append(report)
        if report.state.is_over:
            self._ended.set()

    async def _has_arrived(self, path: Path, sha256: object) -> None:
        self.arrived.append((path, sha256))

    async def _was_removed(self) -> None:
        self.removals += 1

    async def pull(self, source: str, **more: object) -> FetchReport:
        self._ended.clear()
        self._pulls += 1
        order = FetchOrder(transfer_id=f"t{self._pulls}", source=source, **more)  # pyright: ignore[reportArgumentType]  # by name
        self.fetches.fetch(order)
        await self._ended.wait()
        return self.reports[-1]

    async def refused(self, source: str, **more: object) -> ClusterError:
        """What the pull fails with; nothing but maybe a part is left."""
        report = await self.pull(source, **more)
        assert report.state is TransferState.FAILED, report
        assert report.error is not None
        assert (self.models, self.arrived) == ([], [])
        return report.error

    @property
    def models(self) -> list[Path]:
        return sorted(self.store.folder.glob("*.gguf"))

    @property
    def parts(self) -> list[int]:
        return [path.stat().st_size for path in self.store.folder.glob(".*.part")]

    def has_exactly(self, content: bytes = MODEL) -> None:
        (path,) = self.models
        assert path.read_bytes() == content
        assert self.parts == []


def play(folder: Path, scenario: Callable[[Pc], Coroutine[None, None, None]], **limits: object) -> None:
    async def all_of_it() -> None:
        async with asyncio.timeout(30), model_registry() as registry:
            pc = Pc(folder / "store", registry, **limits)
            try:
                await scenario(pc)
            finally:
                await pc.fetches.aclose()

    asyncio.run(all_of_it())


def test_a_model_is_pulled_by_its_name_and_known_by_it(tmp_path: Path) -> None:
    async def scenario(pc: Pc) -> None:
        pc.registry.publish("tiny", MODEL, tag="1b")
        report = await pc.pull("tiny:1b")
        assert (report.state, report.model, report.digest) == (TransferState.DONE, "tiny:1b", SHA256)
        assert (report.done_bytes, report.total_bytes) == (len(MODEL), len(MODEL))
        pc.has_exactly()
        (entry,) = pc.store.entries()
        assert (entry.name, entry.sha256, entry.path) == ("tiny:1b", SHA256, pc.models[0])
        assert pc.arrived == [(pc.models[0], SHA256)]
        assert any(one.state is TransferState.RUNNING and one.total_bytes == len(MODEL) for one in pc.reports)

    play(tmp_path, scenario)


def test_a_url_is_pulled_and_its_digest_computed(tmp_path: Path) -> None:
    async def scenario(pc: Pc) -> None:
        pc.registry.pages["/some/Big%20Model.gguf"] = Page(content=MODEL)
        report = await pc.pull(f"{pc.registry.url}/some/Big%20Model.gguf?token=secret")
        assert (report.state, report.model, report.digest) == (TransferState.DONE, "big-model", SHA256)
        pc.has_exactly()
        assert "secret" not in (pc.store.folder / "models.json").read_text()

    play(tmp_path, scenario)


@pytest.mark.parametrize("fault", ["cut_at", "stall_at"])
@pytest.mark.parametrize("by_name", [True, False], ids=["registry", "url"])
def test_a_download_that_breaks_goes_on_where_it_was(tmp_path: Path, fault: str, by_name: bool) -> None:
    async def scenario(pc: Pc) -> None:
        page = pc.registry.publish("tiny", MODEL)
        page.etag, page.times = '"one"', 1
        setattr(page, fault, MIDDLE)
        pc.registry.pages["/m.gguf"] = page
        report = await pc.pull("tiny" if by_name else f"{pc.registry.url}/m.gguf")
        assert report.state is TransferState.DONE, report
        pc.has_exactly()
        first, second = page.asked
        assert first == ""
        assert 0 < int(second) <= MIDDLE

    play(tmp_path, scenario)


def test_a_server_that_breaks_each_time_is_given_up_and_the_next_pull_goes_on(tmp_path: Path) -> None:
    async def scenario(pc: Pc) -> None:
        page = pc.registry.publish("tiny", MODEL)
        page.cut_at = MIDDLE
        error = await pc.refused("tiny")
        assert error.code is ErrorCode.TRANSFER_FAILED
        assert "broke off" in error.message
        assert "given up after 3 tries" in error.message
        (kept,) = pc.parts
        assert 0 < kept <= MIDDLE
        page.cut_at = None
        assert (await pc.pull("tiny")).state is TransferState.DONE
        assert page.asked[-1] == str(kept)
        pc.has_exactly()

    play(tmp_path, scenario)


def test_a_server_without_ranges_is_asked_from_the_start(tmp_path: Path) -> None:
    async def scenario(pc: Pc) -> None:
        page = pc.registry.publish("tiny", MODEL)
        page.ranges, page.cut_at, page.times = False, MIDDLE, 1
        assert (await pc.pull("tiny")).state is TransferState.DONE
        pc.has_exactly()

    play(tmp_path, scenario)


def test_a_file_that_changed_on_the_server_is_not_joined_to_the_old_half(tmp_path: Path) -> None:
    async def scenario(pc: Pc) -> None:
        other = model_bytes(3_000_000, seed=9)
        page = pc.registry.pages["/m.gguf"] = Page(content=MODEL, etag='"one"', cut_at=MIDDLE)
        await pc.refused(f"{pc.registry.url}/m.gguf")
        page.content, page.etag, page.cut_at = other, '"two"', None
        assert (await pc.pull(f"{pc.registry.url}/m.gguf")).digest == sha256_of(other)
        pc.has_exactly(other)

    play(tmp_path, scenario)


def test_a_wrong_part_of_an_earlier_try_is_found_out_and_all_comes_anew(tmp_path: Path) -> None:
    async def scenario(pc: Pc) -> None:
        page = pc.registry.publish("tiny", MODEL)
        page.cut_at = MIDDLE
        await pc.refused("tiny")
        (part,) = pc.store.folder.glob(".*.part")
        part.write_bytes(bytes(part.stat().st_size))
        page.cut_at = None
        assert (await pc.pull("tiny")).state is TransferState.DONE
        pc.has_exactly()

    play(tmp_path, scenario)


def test_a_registry_that_lies_of_the_digest_gives_no_model(tmp_path: Path) -> None:
    async def scenario(pc: Pc) -> None:
        pc.registry.publish("tiny", MODEL, lie={"digest": f"sha256:{'a' * 64}"})
        error = await pc.refused("tiny")
        assert error.code is ErrorCode.MODEL_DAMAGED
        assert pc.parts == [], "bytes of the wrong file are of no use to a later try"

    play(tmp_path, scenario)


def test_the_digest_that_the_user_names_counts(tmp_path: Path) -> None:
    async def scenario(pc: Pc) -> None:
        page = pc.registry.publish("tiny", MODEL)
        pc.registry.pages["/m.gguf"] = page
        assert "not " + "b" * 64 in (await pc.refused("tiny", digest="b" * 64)).message
        assert page.asked == []
        assert (await pc.refused(f"{pc.registry.url}/m.gguf", digest="b" * 64)).code is ErrorCode.MODEL_DAMAGED
        assert (await pc.pull(f"{pc.registry.url}/m.gguf", digest=SHA256)).state is TransferState.DONE

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ({"size": len(MODEL) - 1}, "has 3"),
        ({"size": len(MODEL) + 1}, "has 3"),
        ({"size": 10**15}, "over the limit"),
        ({"size": -1}, "not one GGUF file"),
        ({"digest": "sha256-../../x"}, "not one GGUF file"),
        ({"digest": "sha256:" + "a" * 63}, "not one GGUF file"),
        ({"media_type": "application/vnd.ollama.image.tensor"}, "not one GGUF file"),
        ({"layers": []}, "not one GGUF file"),
        ({"layers": "many"}, "does not answer as a model registry"),
    ],
)
def test_a_manifest_that_lies_is_refused(tmp_path: Path, lie: dict[str, object], words: str) -> None:
    async def scenario(pc: Pc) -> None:
        pc.registry.publish("tiny", MODEL, lie=lie)
        assert words in (await pc.refused("tiny")).message

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (Page(content=MODEL, more=b"x" * 5_000_000, says=0), "sends more than the 4000000 bytes"),
        (Page(content=b"<html>please log in</html>" * 100), "is no GGUF file"),
        (Page(content=MODEL[:2_000_000]), "no model that can be loaded"),
        (Page(content=b"GGUF" + bytes(4000)), "no model that can be loaded"),
        (Page(status=401), "wants a login"),
        (Page(status=404), "no such model there"),
        (Page(status=416), "answered 416 to a plain request"),
        (Page(status=206, content=MODEL), "answered 206 to a plain request"),
        (Page(status=503), "given up after 3 tries"),
        (Page(status=302, location="file:///etc/passwd"), "where nothing is fetched from"),
        (Page(status=302, location="/m.gguf"), "more than 5 redirects"),
    ],
)
def test_an_answer_that_is_no_model_is_refused(tmp_path: Path, page: Page, words: str) -> None:
    async def scenario(pc: Pc) -> None:
        pc.registry.pages["/m.gguf"] = page
        assert words in (await pc.refused(f"{pc.registry.url}/m.gguf")).message

    play(tmp_path, scenario, most_bytes=4_000_000)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f.1",
        "017700000001",
        "[::ffff:127.0.0.1]",
        "[::1]",
        "0.0.0.0",
    ],
)
def test_a_redirect_into_the_network_of_the_pc_is_not_followed(tmp_path: Path, host: str) -> None:
    async def scenario(pc: Pc) -> None:
        async with model_registry() as inner:
            inner.pages["/m.gguf"] = Page(content=MODEL)
            port = inner.url.rpartition(":")[2]
            pc.registry.pages["/m.gguf"] = Page(status=302, location=f"http://{host}:{port}/m.gguf")
            error = await pc.refused(f"{pc.registry.url}/m.gguf")
            assert error.code is ErrorCode.ADDRESS_NOT_ALLOWED, error
            assert inner.heads == []

    play(tmp_path, scenario)


def test_an_address_of_the_pcs_own_network_is_fetched_from_only_when_its_owner_lists_it(tmp_path: Path) -> None:
    async def scenario(pc: Pc) -> None:
        pc.registry.publish("tiny", MODEL)
        pc.registry.pages["/m.gguf"] = Page(content=MODEL)
        for source in (f"{pc.registry.url}/m.gguf", f"http://{pc.registry.host}/m.gguf"):
            assert (await pc.refused(source)).code is ErrorCode.ADDRESS_NOT_ALLOWED
        assert (await pc.refused("tiny")).code is ErrorCode.ADDRESS_NOT_ALLOWED
        assert pc.registry.heads == []

    play(tmp_path, scenario, hosts=frozenset[str]())


def test_too_little_room_is_said_before_a_byte_of_the_file_comes(tmp_path: Path) -> None:
    async def scenario(pc: Pc) -> None:
        page = pc.registry.publish("tiny", MODEL)
        pc.free_bytes = len(MODEL) + 999
        error = await pc.refused("tiny")
        assert error.code is ErrorCode.INSUFFICIENT_STORAGE
        assert error.surface.http == 507
        assert "needs 0.00 GB" in error.message
        assert pc.parts == []
        pc.free_bytes = len(MODEL) + 1000
        assert (await pc.pull("tiny")).state is TransferState.DONE
        assert len(page.asked) == 2

    play(tmp_path, scenario)


def test_a_file_of_unknown_size_stops_before_it_takes_the_last_room(tmp_path: Path) -> None:
    async def scenario(pc: Pc) -> None:
        pc.registry.pages["/m.gguf"] = Page(content=MODEL, says=0)
        pc.free_bytes = 999
        assert (await pc.refused(f"{pc.registry.url}/m.gguf")).code is ErrorCode.INSUFFICIENT_STORAGE
        assert pc.parts == []
        pc.free_bytes = 1000
        assert (await pc.pull(f"{pc.registry.url}/m.gguf")).state is TransferState.DONE
        pc.has_exactly()

    play(tmp_path, scenario)


def test_a_disk_that_fills_up_meanwhile_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = PartFile._append  # pyright: ignore[reportPrivateUsage]  # what a full disk stops

    def full(self: PartFile, content: bytes | bytearray) -> None:
        if self.size_bytes > MIDDLE:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, content)

    async def scenario(pc: Pc) -> None:
        pc.registry.publish("tiny", MODEL)
        with monkeypatch.context() as patch:
            patch.setattr(PartFile, "_append", full)
            assert (await pc.refused("tiny")).code is ErrorCode.INSUFFICIENT_STORAGE
        assert pc.parts == [], "the room is given back"
        assert (await pc.pull("tiny")).state is TransferState.DONE

    play(tmp_path, scenario)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_real_limit_of_the_system_leaves_no_half_file(tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def scenario(pc: Pc) -> None:
        pc.registry.publish("tiny", MODEL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIDDLE, before[1]))
        try:
            error = await pc.refused("tiny")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert error.code is ErrorCode.INSUFFICIENT_STORAGE
        assert pc.parts == []
        assert (await pc.pull("tiny")).state is TransferState.DONE
        pc.has_exactly()

    play(tmp_path, scenario)


def test_a_cancelled_pull_keeps_its_part(tmp_path: Path) -> None:
    async def scenario(pc: Pc) -> None:
        page = pc.registry.publish("tiny", MODEL)
        page.stall_at = MIDDLE
        pulling = asyncio.create_task(pc.pull("tiny"))
        while not pc.parts or not pc.parts[0]:
            await asyncio.sleep(0.005)
        pc.fetches.cancel("t1")
        report = await pulling
        assert report.state is TransferState.CANCELLED
        (size,) = pc.parts
        assert 0 < size <= MIDDLE
        (part,) = pc.store.folder.glob(".*.part")
        assert part.read_bytes() == MODEL[:size]
        assert pc.models == []

    play(tmp_path, scenario, stall_s=20)


def test_an_agent_that_stops_says_nothing_so_that_the_order_stands(tmp_path: Path) -> None:
    async def scenario(pc: Pc) -> None:
        page = pc.registry.publish("tiny", MODEL)
        page.stall_at = MIDDLE
        pc.fetches.fetch(FetchOrder(transfer_id="t", source="tiny"))
        while not pc.parts or not pc.parts[0]:
            await asyncio.sleep(0.005)
        await pc.fetches.aclose()
        assert not any(report.state.is_over for report in pc.reports)
        assert len(pc.parts) == 1

    play(tmp_path, scenario, stall_s=20)


def test_more_fetches_than_an_agent_takes_are_refused_at_once(tmp_path: Path) -> None:
    async def scenario(pc: Pc) -> None:
        for number in range(AT_ONCE + 1):
            pc.registry.publish(f"m{number}", MODEL[:-1] + bytes([number])).stall_at = 0
            pc.fetches.fetch(FetchOrder(transfer_id=f"t{number}", source=f"m{number}"))
        (report,) = [report for report in pc.reports if report.error is not None]
        assert report.transfer_id == f"t{AT_ONCE}"
        assert report.error is not None
        assert report.error.code is ErrorCode.QUEUE_FULL

    play(tmp_path, scenario, stall_s=20)


def test_a_file_that_is_not_there_any_more_is_not_sent(tmp_path: Path) -> None:
    async def scenario(pc: Pc) -> None:
        order = SendOrder(transfer_id="s", model=ModelName("m"), digest=SHA256, offset=0, ticket="x")
        with pytest.raises(ClusterError, match="no file here has the sha256"):
            async with aclosing(pc.fetches._chunks(order)) as chunks:  # pyright: ignore[reportPrivateUsage]  # what a send reads
                await anext(chunks)

    play(tmp_path, scenario)


def test_one_part_of_a_split_model_is_refused(tmp_path: Path) -> None:
    async def scenario(pc: Pc) -> None:
        pc.registry.pages["/m-00001-of-00003.gguf"] = Page(content=llama({"split.count": 3}).encoded())
        error = await pc.refused(f"{pc.registry.url}/m-00001-of-00003.gguf")
        assert "one part of 3" in error.message

    play(tmp_path, scenario)
