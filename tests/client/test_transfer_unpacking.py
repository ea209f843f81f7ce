"""What a hostile node may send as a model folder: none of it becomes one, and nothing is written elsewhere."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from chorus_client.folder_archive import END, Digests, archive_of, header
from chorus_client.model_server.folder import check_folder
from chorus_client.transfer import unpacking
from chorus_client.transfer.unpacking import Unpacking
from chorus_proto.errors import LoadFailed
from tests.support.model_folders import large_folder
from tests.support.model_server import FOLDER

FILES = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
CONFIG = FILES["config.json"]


def packed(files: dict[str, bytes], *, end: bytes = END) -> bytes:
    """As a sender with our own code packs it, whatever the names."""
    return b"".join(header(name, len(raw)) + raw + bytes(-len(raw) % 512) for name, raw in files.items()) + end


def in_order(**more: bytes) -> dict[str, bytes]:
    """The model's files and these, by name; `__` stands for a dot."""
    files = FILES | {name.replace("__", "."): raw for name, raw in more.items()}
    return {name: files[name] for name in sorted(files)}


def unpack(folder: Path, raw: bytes) -> Digests:
    (folder / "part").write_bytes(raw)
    return asyncio.run(Unpacking(folder / "part", folder / "into", "ab" * 32).run(lambda: None))


def test_what_was_packed_is_unpacked_with_its_digests(tmp_path: Path) -> None:
    source = large_folder(tmp_path / "source", 3_000_000)
    wanted = archive_of(check_folder(source), source)
    reader = wanted.open()
    digests = unpack(tmp_path, reader.read(wanted.total_bytes))
    reader.close()
    assert digests == Digests(weights=wanted.digests().weights, archive="ab" * 32)
    came = check_folder(tmp_path / "into")
    assert content(came.path) == content(source)
    assert archive_of(came, came.path).digests() == wanted.digests(), "it can be sent on"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def with_tar(*members: tarfile.TarInfo, format: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar as other programs write it, with these in front of the model's files."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=format) as opened:
        for one in members:
            opened.addfile(one, io.BytesIO(bytes(one.size)))
        for name, raw in in_order().items():
            plain = tarfile.TarInfo(name)
            plain.size = len(raw)
            opened.addfile(plain, io.BytesIO(raw))
    return target.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, *, to: str = "", size_bytes: int = 0) -> tarfile.TarInfo:
    one = tarfile.TarInfo(name)
    one.type, one.linkname, one.size = kind, to, size_bytes
    return one


def bit_flipped(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


SOUND = packed(in_order())
HOSTILE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "no archive": lambda: b"GGUF" + bytes(4000),
    "only an end": lambda: END,
    "a symbolic link": lambda: with_tar(member("added_tokens.json", tarfile.SYMTYPE, to="/etc/passwd")),
    "a hard link": lambda: with_tar(member("added_tokens.json", tarfile.LNKTYPE, to="../../secret")),
    "a device": lambda: with_tar(member("added_tokens.json", tarfile.CHRTYPE)),
    "a pipe": lambda: with_tar(member("added_tokens.json", tarfile.FIFOTYPE)),
    "a folder": lambda: with_tar(member("added_tokens.json", tarfile.DIRTYPE)),
    "a sparse file": lambda: with_tar(member("added_tokens.json", tarfile.GNUTYPE_SPARSE)),
    "a long name": lambda: with_tar(member("x/" * 100 + "m.safetensors")),
    "a pax header": lambda: with_tar(member("é.safetensors"), format=tarfile.PAX_FORMAT),
    "a parent's path": lambda: packed({"../config.json": CONFIG} | in_order()),
    "an absolute path": lambda: packed({"/tmp/config.json": CONFIG} | in_order()),
    "a drive": lambda: packed({"C:config.json": CONFIG} | in_order()),
    "a backslash": lambda: packed({"..\\config.json": CONFIG} | in_order()),
    "program code": lambda: packed(in_order(modeling__py=b"raise SystemExit")),
    "a pickle": lambda: packed(in_order(pytorch_model__bin=b"pickle")),
    "a name twice": lambda: packed({"config.json": CONFIG}, end=b"") + packed(in_order()),
    "a wrong order": lambda: packed(dict(reversed(in_order().items()))),
    "a file too long": lambda: packed(in_order(), end=header("vocab.json", 4096) + b"{}" + END),
    "a size of exabytes": lambda: header("added_tokens.json", 1 << 62) + SOUND,
    "a negative size": lambda: _resized(b"\xff" * 12),
    "a size that is no number": lambda: _resized(b"0x_7777777 \0"),
    "a size in other digits": lambda: _resized(b"\x80" + len(FILES["chat_template.jinja"]).to_bytes(11, "big")),
    "padding that says something": lambda: bit_flipped(SOUND, 512 + len(FILES["chat_template.jinja"])),
    "another owner": lambda: bit_flipped(SOUND, 110),
    "a wrong sum": lambda: bit_flipped(SOUND, 150),
    "no end": lambda: SOUND[: -len(END)],
    "half an end": lambda: SOUND[:-512],
    "an end cut short": lambda: SOUND[:-1],
    "something after the end": lambda: SOUND + b"\0",
    "an archive cut short": lambda: SOUND[: len(SOUND) // 1024 * 512],
    "a file that the model does not need": lambda: packed(in_order(stray__safetensors=FILES["model.safetensors"])),
    "no tokenizer": lambda: packed({name: raw for name, raw in in_order().items() if name != "tokenizer.json"}),
    "weights that lie": lambda: packed(in_order(model__safetensors=FILES["model.safetensors"][:-8])),
    "a model that needs code": lambda: packed(
        in_order(config__json=json.dumps(json.loads(CONFIG) | {"auto_map": {"AutoModel": "m.M"}}).encode())
    ),
    "a model of no known type": lambda: packed(
        in_order(config__json=json.dumps(json.loads(CONFIG) | {"model_type": "phi9"}).encode())
    ),
}


def _resized(field: bytes) -> bytes:
    """The sound archive with another field for the first file's size, and a right sum."""
    raw = bytearray(SOUND)
    raw[124:136] = field
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw[:512])
    return bytes(raw)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_becomes_no_model_and_writes_nowhere_else(tmp_path: Path, kind: str) -> None:
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    with pytest.raises(LoadFailed):
        unpack(deep, HOSTILE[kind]())
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.parent not in (deep, deep / "into")] == []
    assert {path.name for path in deep.iterdir()} == {"part", "into"}
    if (deep / "into").exists():
        assert not any(path.is_symlink() for path in (deep / "into").iterdir())
        shutil.rmtree(deep / "into")


def test_the_archive_that_those_were_made_of_is_sound(tmp_path: Path) -> None:
    unpack(tmp_path, SOUND)
    assert content(tmp_path / "into") == FILES


def test_too_many_files_and_too_large_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = packed({f"m{number:05}.safetensors": b"" for number in range(2000)})
    with pytest.raises(LoadFailed, match="more than 1100 files"):
        unpack(tmp_path, many)
    shutil.rmtree(tmp_path / "into")
    monkeypatch.setattr(unpacking, "MOST_SMALL_BYTES", len(FILES["tokenizer.json"]) - 1)
    with pytest.raises(LoadFailed, match=r"tokenizer\.json has \d+ bytes"):
        unpack(tmp_path, SOUND)


def test_a_flipped_bit_anywhere_in_a_header_is_noticed(tmp_path: Path) -> None:
    first = 512 + -(-len(FILES["chat_template.jinja"]) // 512) * 512
    for at in range(0, 512, 7):
        for start in (0, first):
            place = tmp_path / f"{start}-{at}"
            place.mkdir()
            with pytest.raises(LoadFailed):
                unpack(place, bit_flipped(SOUND, start + at))


def test_a_cancelled_unpacking_stops_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "part").write_bytes(SOUND)
    first_is_written, may_go_on = threading.Event(), threading.Event()

    def held(_descriptor: int) -> None:
        first_is_written.set()
        may_go_on.wait(20)

    monkeypatch.setattr(unpacking.os, "fsync", held)

    async def scenario() -> None:
        work = Unpacking(tmp_path / "part", tmp_path / "into", "ab" * 32)
        task = asyncio.create_task(work.run(lambda: None))
        await asyncio.to_thread(first_is_written.wait, 20)
        task.cancel()
        while not work._stopped.is_set():  # pyright: ignore[reportPrivateUsage]  # the order has reached the thread
            await asyncio.sleep(0)
        assert not task.done(), "it waits for its thread"
        may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    written = [path.name for path in (tmp_path / "into").iterdir() if path.stat().st_size]
    assert written == ["chat_template.jinja"], "the first file, and nothing of the others"
