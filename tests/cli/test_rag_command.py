"""`chorus rag`, against a real HTTP address with real readers of documents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest

from chorus_cli.document_files import Outcome
from chorus_cli.ingest_progress import Bars, Lines, followed, sentence
from chorus_cli.main import main
from chorus_http.rag.bodies import IngestReply
from chorus_http.rag.opening import library_door
from chorus_http.settings import HttpSettings
from chorus_proto.clock import SystemClock
from chorus_proto.cluster import Call
from chorus_proto.generation import Delta, Done, Piece
from tests.support.clock import FakeClock
from tests.support.embedder import WordEmbedder
from tests.support.fake_cluster import FakeCluster
from tests.support.http_face import http_face

Json = dict[str, object]


@dataclass(frozen=True)
class Desk:
    """Whoever types commands, on the PC of a hub."""

    url: str
    root: Path
    cluster: FakeCluster
    embedder: WordEmbedder
    capsys: pytest.CaptureFixture[str]

    async def types(self, *words: str) -> tuple[int, str, str]:
        """Exit code, output and what went to the terminal beside it."""
        line = ["rag", words[0], "--http-url", self.url, "--state-dir", str(self.root), *words[1:]]
        code = await asyncio.to_thread(main, line)
        out, err = self.capsys.readouterr()
        return code, out, err

    async def outcome(self, *words: str) -> tuple[int, Outcome]:
        code, out, _ = await self.types(*words, "--json")
        return code, msgspec.json.decode(out, type=Outcome)

    def folder(self) -> Path:
        folder = self.root / "papers"
        (folder / "old").mkdir(parents=True)
        (folder / "cellar.md").write_text("# Cellar\n\nThe cellar floods in spring.", "utf-8")
        (folder / "old" / "roof.txt").write_text("The roof is made of slate.", "utf-8")
        (folder / "picture.png").write_bytes(b"\x89PNG")
        return folder


def play(root: Path, capsys: pytest.CaptureFixture[str], scenario: Callable[[Desk], Awaitable[None]]) -> None:
    async def run() -> None:
        settings = replace(HttpSettings(), http_port=0, drain_within_s=1.0, state_dir=root)
        cluster, embedder = FakeCluster(), WordEmbedder()
        async with (
            asyncio.timeout(60),
            library_door(settings, embedder, SystemClock()) as door,
            http_face(cluster, settings, door) as server,
        ):
            await scenario(Desk(server.url, root, cluster, embedder, capsys))

    asyncio.run(run())


async def in_spring(_call: Call) -> AsyncGenerator[Piece, None]:
    yield Delta("In spring")
    yield Delta(" [1].")
    yield Done(finish_reason="stop")


def names(paths: Sequence[str]) -> list[str]:
    return sorted(path.rpartition("/")[2] for path in paths)


def test_a_folder_comes_in_and_again_only_what_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(desk: Desk) -> None:
        folder = desk.folder()
        code, first = await desk.outcome("add", str(folder))
        assert (code, names(first.added), first.failed) == (0, ["cellar.md", "roof.txt"], {})
        embedded = len(desk.embedder.texts)
        (folder / "cellar.md").write_text("# Cellar\n\nThe cellar is dry.", "utf-8")
        (folder / "old" / "roof.txt").unlink()
        code, second = await desk.outcome("add", str(folder))
        assert (names(second.added), second.unchanged, second.removed) == (["cellar.md"], [], [])
        assert len(desk.embedder.texts) == embedded + 1
        # What vanished goes when somebody asks for it, and only what lay in this folder.
        (tmp_path / "alone.txt").write_text("A file of its own.", "utf-8")
        await desk.outcome("add", str(tmp_path / "alone.txt"))
        code, third = await desk.outcome("add", str(folder), "--prune")
        assert (names(third.unchanged), names(third.removed)) == (["cellar.md"], ["roof.txt"])
        code, out, _ = await desk.types("list")
        assert code == 0 and "alone.txt" in out and "cellar.md" in out and "roof.txt" not in out

    play(tmp_path, capsys, scenario)


def test_a_file_that_cannot_be_read_is_named_and_the_others_come_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario(desk: Desk) -> None:
        folder = desk.folder()
        (folder / "broken.pdf").write_bytes(b"%PDF-1.7 and no more")
        (folder / "empty.txt").write_bytes(b"")
        code, out, err = await desk.types("add", str(folder), "--collection", "house", "--metadata", "year=2026")
        assert code == 1
        assert "broken.pdf: " in err and "empty.txt: " in err
        assert out.startswith("2 added") and out.rstrip().endswith("2 failed")
        code, out, _ = await desk.types("list", "--collection", "house", "--json")
        assert [one["metadata"] for one in msgspec.json.decode(out, type=list[Json])] == [{"year": 2026}] * 2
        # Other metadata is a change, the same is none.
        code, again = await desk.outcome("add", str(folder), "--collection", "house", "--metadata", "year=2027")
        assert names(again.added) == ["cellar.md", "roof.txt"]

    play(tmp_path, capsys, scenario)


def test_passages_are_found_questions_answered_and_documents_deleted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario(desk: Desk) -> None:
        desk.cluster.engine = in_spring
        await desk.types("add", str(desk.folder()))
        code, out, _ = await desk.types("search", "when does the cellar flood")
        assert code == 0 and out.startswith("[1] ") and "cellar.md" in out and "floods in spring" in out
        code, out, _ = await desk.types("ask", "when", "does", "the", "cellar", "flood")
        assert code == 0 and out.startswith("In spring [1].\n  [1] ") and "cellar.md" in out
        code, out, _ = await desk.types("ask", "when does the cellar flood", "--json")
        reply = msgspec.json.decode(out, type=Json)
        assert (code, reply["answered"]) == (0, True)
        code, out, _ = await desk.types("ask", "Which dentist helps with toothache?")
        assert code == 1 and "nothing about this" in out

        _, out, _ = await desk.types("collections")
        assert "default" in out and "exactly" in out
        _, out, _ = await desk.types("list", "--json")
        first = str(msgspec.json.decode(out, type=list[Json])[0]["id"])
        assert (await desk.types("delete", first))[0] == 0
        code, _, err = await desk.types("delete", first)
        assert code == 1 and "no such document" in err
        assert (await desk.types("delete", "--collection", "default", "--yes"))[0] == 0
        assert "no document" in (await desk.types("list"))[1]

    play(tmp_path, capsys, scenario)


def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(desk: Desk) -> None:
        for words, code, told in (
            (("add", str(tmp_path / "nowhere")), 1, "no such file or folder"),
            (("add", str(tmp_path), "--metadata", "year"), 2, "NAME=VALUE"),
            (("delete",), 2, "--collection"),
            (("search", "x", "--collection", "attic"), 1, "no collection 'attic'"),
        ):
            found, _, err = await desk.types(*words)
            assert (found, told in err, len(err.splitlines())) == (code, True, 1), err
        away = replace(desk, url="http://127.0.0.1:9")
        code, _, err = await away.types("list")
        assert code == 1 and "--http-url" in err

    play(tmp_path, capsys, scenario)


def test_names_from_documents_cannot_drive_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(desk: Desk) -> None:
        (tmp_path / "evil.md").write_text("# Title \x1b[2J\n\nThe cellar \x1b[31m floods.", "utf-8")
        await desk.types("add", str(tmp_path / "evil.md"))
        for words in (("search", "cellar"), ("list",), ("ask", "does the cellar flood")):
            assert "\x1b" not in (await desk.types(*words))[1]

    play(tmp_path, capsys, scenario)


def ingest(state: str, done: int, *, ended: float | None = None) -> IngestReply:
    return IngestReply(
        ingest_id="ing_1",
        state=state,
        collection="default",
        documents_total=3,
        documents_done=done,
        documents_failed=0,
        chunks_total=40,
        chunks_done=10,
        started_unix_s=1.0,
        ended_unix_s=ended,
        documents=(),
    )


class Telling:
    """A front that tells one state after the other."""

    def __init__(self, *states: IngestReply) -> None:
        self._states = list(states)
        self.deleted: list[str] = []

    def ask(self, _method: str, _path: str, _kind: type[IngestReply]) -> IngestReply:
        return self._states.pop(0)

    def delete(self, path: str) -> None:
        self.deleted.append(path)


def test_progress_without_a_terminal_is_a_line_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock = FakeClock()
    lines = Lines(clock.monotonic_s)
    front = Telling(ingest("running", 0), ingest("running", 1), ingest("done", 3, ended=2.0))
    ended = followed(
        front,  # pyright: ignore[reportArgumentType]  # stands in for `Front`
        ingest("waiting", 0),
        lines,
        before=5,
        total=9,
        pause=lambda _: clock.advance(6),
    )
    assert ended.state == "done"
    assert capsys.readouterr().err.splitlines() == [sentence(ingest("running", 1), before=5, total=9)]
    assert sentence(ingest("running", 1), before=5, total=9) == "file 7 of 9, 10 of 40 chunks"


def test_whoever_interrupts_ends_the_ingest() -> None:
    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    front = Telling()
    with pytest.raises(KeyboardInterrupt), Bars() as bars:
        followed(
            front,  # pyright: ignore[reportArgumentType]  # stands in for `Front`
            ingest("running", 0),
            bars,
            before=0,
            total=3,
            pause=interrupted,
        )
    assert front.deleted == ["/rag/ingests/ing_1"]
