"""The parameters of llama-server that a file may set, for a server of the servers file and for a model of the pool.

Names are llama-server's own without the dashes (tools/server/README.md in llama.cpp). What is not on the list does not
reach a command line: some flags open files, ports or a shell. The bundled command makes its own flags of this list.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from chorus_proto.settings import SettingsError

RawParameter: TypeAlias = str | int | float | bool
"""A value as it may stand in the file: `"4096"` and `4096` mean the same."""


class Kind(StrEnum):
    WHOLE = "a whole number"
    NUMBER = "a number"
    CHOICE = "one of"
    FLAG = "true or false"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One allowed parameter. `bundled`: the bundled engine takes it too. `off`: what turns off a flag that is on."""

    kind: Kind
    least: float = 0
    most: float = 0
    choices: tuple[str, ...] = ()
    bundled: bool = False
    off: str = ""

    @property
    def words(self) -> str:
        if self.kind is Kind.CHOICE:
            return f"one of {', '.join(self.choices)}"
        return self.kind if self.kind is Kind.FLAG else f"{self.kind} from {self.least:g} to {self.most:g}"


def _whole(least: int, most: int, *, bundled: bool = False) -> Parameter:
    return Parameter(kind=Kind.WHOLE, least=least, most=most, bundled=bundled)


def _number(least: float, most: float, *, bundled: bool = False) -> Parameter:
    return Parameter(kind=Kind.NUMBER, least=least, most=most, bundled=bundled)


def _choice(*choices: str, bundled: bool = False) -> Parameter:
    return Parameter(kind=Kind.CHOICE, choices=choices, bundled=bundled)


def _flag(*, bundled: bool = False, off: str = "") -> Parameter:
    return Parameter(kind=Kind.FLAG, bundled=bundled, off=off)


_CACHE_TYPES = ("f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
_TOKENS = 1 << 30

ALLOWED: Mapping[str, Parameter] = {
    "ctx-size": _whole(0, _TOKENS, bundled=True),
    "n-gpu-layers": _whole(-1, 10_000, bundled=True),
    "threads": _whole(1, 1024, bundled=True),
    "threads-batch": _whole(1, 1024, bundled=True),
    "parallel": _whole(1, 256, bundled=True),
    "batch-size": _whole(1, 1 << 20, bundled=True),
    "ubatch-size": _whole(1, 1 << 20, bundled=True),
    "cache-type-k": _choice(*_CACHE_TYPES, bundled=True),
    "cache-type-v": _choice(*_CACHE_TYPES, bundled=True),
    "cache-ram": _whole(0, 1 << 20, bundled=True),
    "flash-attn": _choice("on", "off", "auto", bundled=True),
    "embedding": _flag(bundled=True),
    "reranking": _flag(bundled=True),
    "reasoning-format": _choice("none", "auto", "deepseek", bundled=True),
    "jinja": _flag(bundled=True, off="no-jinja"),
    "temp": _number(0, 100, bundled=True),
    "top-k": _whole(0, 1_000_000, bundled=True),
    "top-p": _number(0, 1, bundled=True),
    "min-p": _number(0, 1, bundled=True),
    "repeat-penalty": _number(0, 100, bundled=True),
    "repeat-last-n": _whole(-1, _TOKENS, bundled=True),
    "presence-penalty": _number(-2, 2, bundled=True),
    "frequency-penalty": _number(-2, 2, bundled=True),
    "seed": _whole(-1, 2**32 - 1, bundled=True),
    "n-predict": _whole(-1, _TOKENS, bundled=True),
    "mlock": _flag(bundled=True),
    "no-mmap": _flag(bundled=True),
    "swa-full": _flag(bundled=True),
    "cont-batching": _flag(off="no-cont-batching"),
    "main-gpu": _whole(0, 63),
    "split-mode": _choice("none", "layer", "row"),
    "n-cpu-moe": _whole(0, 10_000),
    "numa": _choice("distribute", "isolate", "numactl"),
    "rope-scaling": _choice("none", "linear", "yarn", bundled=True),
    "rope-freq-base": _number(0, 1e12, bundled=True),
    "rope-freq-scale": _number(0, 1e6, bundled=True),
}

_FORBIDDEN = re.compile(
    r"host|port|path|api-key.*|api-prefix|ssl-.*|cors-.*|tools.*|mcp-.*|agent|ui-mcp-proxy|rpc|model-url|mu|mmproj.*"
    r"|hf.*|docker-repo|lora.*|log-file|log-prompts-dir|slot-save-path|media-path|models-.*|override-kv"
    r"|chat-template-file|video-ffmpeg-dir|props|reuse-port"
)
"""Refused by name, so that nobody thinks of a spelling mistake."""

_SAME_AS = {"gpu-layers": "n-gpu-layers", "temperature": "temp", "context-size": "ctx-size", "embeddings": "embedding"}
_WHOLE_TEXT = re.compile(r"-?[0-9]{1,12}")
_NUMBER_TEXT = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?([eE][-+]?[0-9]{1,3})?")


def checked(name: str, value: object, *, key: str) -> RawParameter:
    """`value` as the parameter's own type. `key` is where it stands. Raises SettingsError."""
    parameter = ALLOWED.get(name)
    if parameter is None:
        raise SettingsError(f"{key}.{name}: {_why_not(name)}")
    taken = _taken(parameter, value)
    if taken is None:
        raise SettingsError(f"{key}.{name} = {value!r}: write {parameter.words}")
    return taken


def _why_not(name: str) -> str:
    bare = name.lstrip("-").replace("_", "-").lower()
    if _FORBIDDEN.fullmatch(bare):
        return "this parameter is never passed to an engine, Chorus sets it or leaves it out; remove it"
    if bare in ALLOWED or bare in _SAME_AS:
        return f"write it as {_SAME_AS.get(bare, bare)!r}"
    close = difflib.get_close_matches(bare, ALLOWED, n=1)
    return "unknown parameter; " + (f"did you mean {close[0]!r}?" if close else f"known: {', '.join(ALLOWED)}")


def _taken(parameter: Parameter, value: object) -> RawParameter | None:
    """None when it cannot be."""
    if parameter.kind is Kind.FLAG:
        word = str(value).lower() if isinstance(value, (bool, str)) else ""
        return {"true": True, "on": True, "false": False, "off": False}.get(word)
    if parameter.kind is Kind.CHOICE:
        word = ("on" if value else "off") if isinstance(value, bool) else value
        return word if isinstance(word, str) and word in parameter.choices else None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    pattern = _WHOLE_TEXT if parameter.kind is Kind.WHOLE else _NUMBER_TEXT
    text = value if isinstance(value, str) else repr(value)
    if not pattern.fullmatch(text):
        return None
    number = int(text) if parameter.kind is Kind.WHOLE else float(text)
    return number if parameter.least <= number <= parameter.most else None


def check_together(parameters: Mapping[str, RawParameter], *, key: str) -> None:
    """Raises SettingsError for checked parameters that llama.cpp would refuse together."""
    kept = parameters.get("cache-type-v", "f16")
    if parameters.get("flash-attn") == "off" and kept not in ("f16", "bf16"):
        raise SettingsError(
            f"{key}.cache-type-v = {kept!r} needs flash attention and {key}.flash-attn is 'off'; remove one of them"
        )


def as_flags(parameters: Mapping[str, RawParameter], *, bundled: bool, key: str) -> list[str]:
    """Checked parameters as words of a command line, `--name value`.

    Raises SettingsError for one that the bundled engine lacks.
    """
    words: list[str] = []
    for name, value in parameters.items():
        if bundled and not ALLOWED[name].bundled:
            raise SettingsError(
                f"{key}.{name}: the bundled engine does not take it; remove it,"
                " or set llama_server_path to a llama-server"
            )
        if isinstance(value, bool):
            word = name if value else ALLOWED[name].off
            words += [f"--{word}"] if word else []
        else:
            words += [f"--{name}", str(value)]
    return words
