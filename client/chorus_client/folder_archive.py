"""A model folder as one file, for its way to another node: read at any offset, never written to the sender's disk.

An uncompressed tar in one canonical form, so that equal folders are equal bytes on every system and the archive's
SHA-256 names them: plain files only, sorted by name, with fixed metadata, in GNU's header (its sizes go beyond the
8 GiB of POSIX), each padded to blocks of 512 bytes, two blocks of zeros at the end. Only what a model needs is in it.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from chorus_client import safetensors
from chorus_client.config_shape import CONFIG_FILE
from chorus_client.file_paths import leads_out
from chorus_client.model_server.folder import TOKENIZER_FILE, ModelFolder
from chorus_proto.errors import LoadFailed, ModelDamaged

BLOCK_BYTES = 512
END = bytes(2 * BLOCK_BYTES)
MOST_SMALL_BYTES = 256 << 20
"""Of a file that is not weights; the largest one is a tokenizer."""

_SMALL_FILES = frozenset(
    {
        CONFIG_FILE,
        TOKENIZER_FILE,
        safetensors.INDEX_FILE,
        "generation_config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "tokenizer.model",
        "vocab.json",
        "merges.txt",
    }
)
_LONGEST_NAME = 99
_MOST_OCTAL = 8**11 - 1
_READ_BYTES = 1 << 20


def is_member_name(name: str) -> bool:
    """Whether a model's archive may hold a file of this name. None of them is a path, or program code."""
    return name in _SMALL_FILES or (len(name) <= _LONGEST_NAME and safetensors.is_weights_name(name))


def header(name: str, size_bytes: int) -> bytes:
    """The block before a file's content. Layout: GNU tar's manual, "Basic Tar Format"; larger sizes are base 256."""
    size = b"%011o\0" % size_bytes if size_bytes <= _MOST_OCTAL else b"\x80" + size_bytes.to_bytes(11, "big")
    block = bytearray(BLOCK_BYTES)
    block[: len(name)] = name.encode("ascii")
    block[100:148] = b"0000644\0" + 2 * b"0000000\0" + size + b"00000000000\0"  # mode, owner, group, size, time
    block[148:156] = b" " * 8  # what the sum is computed with
    block[156:157] = b"0"  # a plain file
    block[257:265] = b"ustar  \0"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padding_bytes(size_bytes: int) -> int:
    """Zeros after a file of this size."""
    return -size_bytes % BLOCK_BYTES


def identity(weights: Mapping[str, str]) -> str:
    """A model's identity: the SHA-256 of what `sha256sum *.safetensors` prints. Takes names and SHA-256s."""
    lines = "".join(f"{weights[name]}  {name}\n" for name in sorted(weights))
    return hashlib.sha256(lines.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    """`weights`: the model's identity. `archive`: SHA-256 of the archive that its folder travels as."""

    weights: str
    archive: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of an archive, as it was when the archive was laid out."""

    path: Path
    size_bytes: int
    mtime_ns: int

    @property
    def name(self) -> str:
        return self.path.name

    def opened(self) -> BinaryIO:
        """Raises OSError, and ModelDamaged for a file that was changed since."""
        source = self.path.open("rb")
        status = os.fstat(source.fileno())
        if (status.st_size, status.st_mtime_ns) != (self.size_bytes, self.mtime_ns):
            source.close()
            raise ModelDamaged(f"{self.path} was changed since this PC looked at it")
        return source


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderArchive:
    """The layout of one folder's archive."""

    members: tuple[Member, ...]

    @property
    def total_bytes(self) -> int:
        content = sum(BLOCK_BYTES + one.size_bytes + padding_bytes(one.size_bytes) for one in self.members)
        return content + len(END)

    def open(self) -> ArchiveReader:
        """Raises OSError, and ModelDamaged for a folder that was changed since it was looked at."""
        for member in self.members:
            member.opened().close()
        return ArchiveReader(self)

    def digests(self) -> Digests:
        """Read everything once. Raises OSError and ModelDamaged."""
        whole, weights = hashlib.sha256(), dict[str, str]()
        for member in self.members:
            alone = hashlib.sha256()
            whole.update(header(member.name, member.size_bytes))
            with member.opened() as source:
                for block in _blocks(source, member):
                    whole.update(block)
                    alone.update(block)
            whole.update(bytes(padding_bytes(member.size_bytes)))
            if safetensors.is_weights_name(member.name):
                weights[member.name] = alone.hexdigest()
        whole.update(END)
        return Digests(weights=identity(weights), archive=whole.hexdigest())


def archive_of(folder: ModelFolder, root: Path) -> FolderArchive:
    """The archive of a checked folder. Raises LoadFailed for a file that leads out of `root`, and OSError."""
    paths = [path for name in _SMALL_FILES if (path := folder.path / name).is_file()]
    members: list[Member] = []
    for path in sorted([*paths, *folder.weights], key=lambda one: one.name):
        if not is_member_name(path.name):
            raise LoadFailed(f"the name {path.name[:80]!r} is too long for an archive")
        if leads_out(path, root):
            raise LoadFailed(f"{path.name} is a link that leads out of {root}")
        status = path.stat()
        members.append(Member(path=path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns))
    return FolderArchive(members=tuple(members))


def _blocks(source: BinaryIO, member: Member) -> Iterator[bytes]:
    """All of the file, and nothing that was appended meanwhile. Raises OSError and ModelDamaged."""
    left = member.size_bytes
    while left:
        block = source.read(min(_READ_BYTES, left))
        if not block:
            raise ModelDamaged(f"{member.path} became shorter while it was read")
        left -= len(block)
        yield block


class ArchiveReader:
    """Reads an archive as if it were a file (`copying.Readable`). One user at a time."""

    def __init__(self, archive: FolderArchive) -> None:
        self._stretches: list[bytes | Member] = []
        for member in archive.members:
            self._stretches += [
                header(member.name, member.size_bytes),
                member,
                bytes(padding_bytes(member.size_bytes)),
            ]
        self._stretches.append(END)
        self._starts: list[int] = []
        end = 0
        for stretch in self._stretches:
            self._starts.append(end)
            end += _length(stretch)
        self._position = 0
        self._open: tuple[Member, BinaryIO] | None = None

    def seek(self, offset: int) -> int:
        self._position = offset
        return offset

    def read(self, size_bytes: int) -> bytes:
        """So many bytes, fewer only at the end or where a file became shorter. Raises OSError and ModelDamaged."""
        found = bytearray()
        at = max(0, bisect_right(self._starts, self._position) - 1)
        for start, stretch in zip(self._starts[at:], self._stretches[at:], strict=True):
            wanted = min(size_bytes - len(found), start + _length(stretch) - self._position)
            if wanted > 0:
                content = self._content(stretch, self._position - start, wanted)
                found += content
                self._position += len(content)
                if len(content) < wanted:
                    break
            if len(found) == size_bytes:
                break
        return bytes(found)

    def _content(self, stretch: bytes | Member, offset: int, size_bytes: int) -> bytes:
        if isinstance(stretch, bytes):
            return stretch[offset : offset + size_bytes]
        if self._open is None or self._open[0] is not stretch:
            self.close()
            self._open = (stretch, stretch.opened())
        source = self._open[1]
        source.seek(offset)
        return source.read(size_bytes)

    def close(self) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            opened[1].close()


def _length(stretch: bytes | Member) -> int:
    return len(stretch) if isinstance(stretch, bytes) else stretch.size_bytes
