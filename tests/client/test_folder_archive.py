"""A folder as one file: the same bytes everywhere, at every offset, and a tar that others can read."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sys
import tarfile
from pathlib import Path

import pytest

from chorus_client.folder_archive import FolderArchive, archive_of, header, is_member_name
from chorus_client.hf_folders import digest_of
from chorus_client.model_server.folder import check_folder
from chorus_proto.errors import LoadFailed, ModelDamaged
from tests.support.model_folders import EXTRA, large_folder
from tests.support.model_server import FOLDER


def archive(path: Path) -> FolderArchive:
    return archive_of(check_folder(path), path)


def content(of: FolderArchive) -> bytes:
    reader = of.open()
    try:
        return reader.read(of.total_bytes + 1)
    finally:
        reader.close()


def test_equal_folders_are_equal_bytes_whatever_lies_beside_the_model(tmp_path: Path) -> None:
    for place in ("one", "two"):
        shutil.copytree(FOLDER, tmp_path / place / "m")
    other = tmp_path / "two" / "m"
    (other / "README.md").write_text("words")
    (other / "modeling_m.py").write_text("raise SystemExit")
    (other / "pytorch_model.bin").write_bytes(b"pickle")
    (other / "stray.safetensors").write_bytes(b"of no model")
    os.utime(other / "config.json", ns=(1, 1))
    (other / "config.json").chmod(0o600)
    first = archive(tmp_path / "one" / "m")
    assert content(first) == content(archive(other))
    assert len(content(first)) == first.total_bytes
    assert [member.name for member in first.members] == sorted(path.name for path in FOLDER.iterdir())


def test_the_format_does_not_change_between_versions() -> None:
    """Nodes of different versions send parts of the same archive: another form of it would make copies fail midway."""
    blocks = header("config.json", 768) + header("model.safetensors", 1 << 40)
    assert hashlib.sha256(blocks).hexdigest() == "ca0b0366444bd4f5c3f0343e219f9f083d666c91dc30d81509fbfa39c181b8e5"


@pytest.mark.parametrize("size_bytes", [0, 1, 511, 8**11 - 1, 8**11, 1 << 45])
def test_headers_of_every_size_are_read_by_tar(size_bytes: int) -> None:
    member = tarfile.TarInfo.frombuf(header("model.safetensors", size_bytes), "ascii", "strict")
    assert (member.name, member.size, member.type, member.mode) == (
        "model.safetensors",
        size_bytes,
        tarfile.REGTYPE,
        0o644,
    )


def test_it_is_a_sound_tar_of_the_models_files(tmp_path: Path) -> None:
    path = tmp_path / "m.tar"
    path.write_bytes(content(archive(FOLDER)))
    with tarfile.open(path, "r:") as opened:
        for member in opened.getmembers():
            source = opened.extractfile(member)
            assert source is not None
            assert source.read() == (FOLDER / member.name).read_bytes()


def test_it_reads_the_same_at_every_offset(tmp_path: Path) -> None:
    folder = large_folder(tmp_path / "m", 10_001)
    for name in ("tokenizer.json", "model-00001-of-00002.safetensors"):
        assert (folder / name).stat().st_size > 5000, "larger than what is read at once"
    wanted = archive(folder)
    whole = content(wanted)
    reader = wanted.open()
    chance = random.Random(7)
    edges = [index for index in range(0, len(whole), 512) if whole[index + 257 : index + 262] == b"ustar"]
    offsets = [edge + step for edge in edges for step in range(-3, 4) if edge + step >= 0]
    offsets += [chance.randrange(len(whole) + 10) for _ in range(500)]
    for offset in offsets:
        size_bytes = chance.choice((1, 2, 511, 512, 513, 4096, 100_000))
        reader.seek(offset)
        assert reader.read(size_bytes) == whole[offset : offset + size_bytes]
    reader.close()


def test_both_digests_come_of_one_reading(tmp_path: Path) -> None:
    folder = large_folder(tmp_path / "m", 10_001)
    wanted = archive(folder)
    digests = wanted.digests()
    assert digests.archive == hashlib.sha256(content(wanted)).hexdigest()
    assert digests.weights == digest_of(check_folder(folder).weights)


def test_a_folder_that_was_changed_meanwhile_is_not_sent(tmp_path: Path) -> None:
    folder = large_folder(tmp_path / "m", 10_001)
    before = archive(folder)
    reader = before.open()
    (folder / EXTRA).write_bytes(b"other")
    with pytest.raises(ModelDamaged, match="was changed"):
        reader.read(before.total_bytes)
    reader.close()
    with pytest.raises(ModelDamaged, match="was changed"):
        before.open()
    with pytest.raises(ModelDamaged, match="was changed"):
        before.digests()


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: links without privilege")
def test_what_a_link_leads_to_outside_is_not_sent(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "m"
    shutil.copytree(FOLDER, folder)
    (tmp_path / "secret").write_text("{}")
    (folder / "added_tokens.json").symlink_to(tmp_path / "secret")
    with pytest.raises(LoadFailed, match=r"added_tokens\.json is a link that leads out"):
        archive_of(check_folder(folder), tmp_path / "models")


NO_NAMES = ["modeling.py", "../config.json", "/config.json", "a/model.safetensors", "con.safetensors", "m.bin", ""]
ODD_NAMES = ["config.JSON", "x" * 90 + ".safetensors", "..safetensors", "C:m.safetensors"]


@pytest.mark.parametrize("name", [*NO_NAMES, *ODD_NAMES])
def test_no_other_names_are_in_an_archive(name: str) -> None:
    assert not is_member_name(name)
