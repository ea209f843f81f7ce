"""Where a model can be pulled from: a name in an Ollama registry, or the address of a .gguf file.

Names come from people and from programs: nothing of them reaches a file system or a URL before it was read here.
Grammar of a registry name: Ollama's `[HOST/][NAMESPACE/]MODEL[:TAG]` (types/model/name.go).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from chorus_proto.catalogue import normalised
from chorus_proto.errors import InvalidRequest
from chorus_proto.ids import ModelName
from chorus_proto.transfers import bare_digest

_LONGEST = 2048
_LONGEST_STEM = 80
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}(:[0-9]{1,5})?")
_DRIVE = re.compile(r"[A-Za-z]:")
_EXAMPLE = "write for example llama3.2:3b, hf.co/ORG/REPO:TAG or https://HOST/FILE.gguf"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryName:
    """A model in an Ollama registry; `host` is empty for the one in the settings."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def name(self) -> ModelName:
        """What the model is called here, as Ollama calls it."""
        space = "" if self.namespace == "library" and not self.host else f"{self.namespace}/"
        host = f"{self.host}/" if self.host else ""
        return normalised(f"{host}{space}{self.model}:{self.tag}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileUrl:
    """A .gguf file behind an http or https address."""

    url: str
    file_name: str

    @property
    def name(self) -> ModelName:
        """The file's name without its suffix."""
        return normalised(file_stem(self.file_name[: -len(".gguf")]))


Source: TypeAlias = RegistryName | FileUrl


def parse_source(text: str) -> Source:
    """Raises InvalidRequest for what is neither, with the reason."""
    if not text or len(text) > _LONGEST:
        raise _refused(text, f"has no or more than {_LONGEST} characters")
    if not text.isprintable() or any(letter.isspace() for letter in text):
        raise _refused(text, "has spaces or characters that cannot be printed")
    if "://" in text:
        return _url(text)
    if "\\" in text or text.startswith(("/", "~")) or (_DRIVE.match(text) and "/" in text):
        raise _refused(text, "looks like a path on this PC; put the file into a models folder (--models-dirs)")
    if _DRIVE.match(text):
        raise _refused(text, "begins like a Windows drive")
    return _registry_name(text)


def shown_source(text: str) -> str:
    """For logs and lists: a URL without its query, which may hold a signature or a token."""
    return text.partition("?")[0] if "://" in text else text


def _registry_name(text: str) -> RegistryName:
    *spaces, last = text.split("/")
    if len(spaces) > 2:
        raise _refused(text, "has too many parts")
    model, colon, tag = last.partition(":")
    host = spaces[0] if len(spaces) == 2 else ""
    namespace = spaces[-1] if spaces else "library"
    for part in (namespace, model, *([tag] if colon else [])):
        if not _PART.fullmatch(part) or ".." in part:
            raise _refused(text, f"has the part {part!r}")
    if host and (not _HOST.fullmatch(host) or ".." in host):
        raise _refused(text, f"has the host {host!r}")
    return RegistryName(host=host, namespace=namespace, model=model, tag=tag or "latest")


def _url(text: str) -> FileUrl:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise _refused(text, str(error)) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise _refused(text, "is not an http or https address")
    if parts.username is not None or parts.password is not None:
        raise InvalidRequest("the address holds a user name or a password, which would be logged", param="model")
    file_name = unquote(parts.path.rpartition("/")[2])
    if not file_name.isprintable() or any(letter in file_name for letter in '/\\:*?"<>|'):
        raise _refused(text, f"ends in the file name {file_name!r}")
    if not file_name.lower().endswith(".gguf") or file_name.startswith("."):
        raise _refused(text, "does not end in the name of a .gguf file")
    return FileUrl(url=parts._replace(fragment="").geturl(), file_name=file_name)


def checked_sha256(text: str) -> str:
    """64 lower-case hex digits, or "" when nothing is given. Raises InvalidRequest."""
    if text and not bare_digest(text):
        raise InvalidRequest(f"sha256 must be 64 hexadecimal digits, not {text[:80]!r}", param="sha256")
    return bare_digest(text)


def file_stem(name: str) -> str:
    """A file name for a model on every system: no separators, no dots at either end, nothing that a system reserves."""
    stem = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")
    return re.sub(r"\.{2,}", ".", stem)[:_LONGEST_STEM].rstrip("-._") or "model"


def _refused(text: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{shown_source(text)[:120]!r} is no model to pull: it {why}; {_EXAMPLE}", param="model")
