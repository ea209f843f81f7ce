"""The command line of the model server: seed 004's arguments, and those that an agent needs. No secret stands in it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from chorus_client.model_server.folder import ModelType
from chorus_proto.exposure import is_loopback

PROGRAM = "chorus-model-server"
_DEVICE = re.compile(r"(?:auto|cpu|mps|cuda(?::\d{1,2})?|xpu(?::\d{1,2})?|balanced|balanced_low_0|sequential)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,255}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What was asked for. `context_tokens` is per generation, 0: what the model was trained for."""

    host: str
    port: int
    model_path: Path
    model_type: ModelType
    model_name: str
    device_map: str
    dtype: str
    threads: int
    slots: int
    most_waiting: int
    queue_within_s: float
    context_tokens: int
    api_key_file: Path | None
    splits_thoughts: bool


class _OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line: the agent shows it to people."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


class _Number:
    """An argparse type: a number within bounds."""

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most

    def __call__(self, text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,12}", text):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
        if not self._least <= int(text) <= self._most:
            raise argparse.ArgumentTypeError(f"{text} is not between {self._least} and {self._most}")
        return int(text)


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if not pattern.fullmatch(text) or ".." in text:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return text

    return read


def parser() -> argparse.ArgumentParser:
    """Every flag; an unknown one is refused."""
    flags = _OneLineParser(
        prog=PROGRAM, allow_abbrev=False, description="Serves a Hugging Face SafeTensors model, OpenAI-compatible"
    )
    flags.add_argument("--model-path", type=Path, required=True, help="folder with config.json and .safetensors files")
    flags.add_argument("--model-name", type=_matching(_NAME, "a model name"), required=True, help="name in the API")
    flags.add_argument("--model-type", type=ModelType, choices=list(ModelType), default=ModelType.GENERIC)
    flags.add_argument("--host", default="127.0.0.1", help="0.0.0.0 opens it to the LAN and needs --api-key-file")
    flags.add_argument("--port", type=_Number(0, 65_535), default=8000, help="0 picks a free one")
    flags.add_argument("--device-map", type=_matching(_DEVICE, "a device or device map"), default="auto")
    flags.add_argument("--dtype", choices=("auto", "float32", "float16", "bfloat16"), default="auto")
    flags.add_argument("--threads", type=_Number(0, 1024), default=0, help="of the CPU; 0 leaves it to torch")
    flags.add_argument(
        "--max-concurrent", "--parallel", type=_Number(1, 256), default=2, help="slots: generations at once"
    )
    flags.add_argument("--max-queue", type=_Number(0, 10_000), default=64, help="requests that may wait for a slot")
    flags.add_argument("--queue-within-s", type=_Number(0, 600), default=120, help="longest wait for a slot")
    flags.add_argument("--context-tokens", type=_Number(0, 1 << 24), default=0, help="prompt and answer of one slot")
    flags.add_argument("--api-key-file", type=Path, default=None, help="one key a line")
    flags.add_argument("--insecure", action="store_true", help="listen beyond this PC without a key")
    flags.add_argument(
        "--reasoning-format", choices=("auto", "none"), default="auto", help="none: thoughts stay in the text"
    )
    return flags


def read_arguments(argv: Sequence[str] | None) -> ServerOptions:
    """Exits with code 2 and one line when something must be corrected."""
    flags = parser()
    found = flags.parse_args(argv)
    if not is_loopback(found.host) and found.api_key_file is None and not found.insecure:
        flags.error(
            f"--host {found.host} lets every PC that can reach it use the model; add --api-key-file, "
            "or --insecure on a network you trust"
        )
    return ServerOptions(
        host=found.host,
        port=found.port,
        model_path=found.model_path,
        model_type=found.model_type,
        model_name=found.model_name,
        device_map=found.device_map,
        dtype=found.dtype,
        threads=found.threads,
        slots=found.max_concurrent,
        most_waiting=found.max_queue,
        queue_within_s=float(found.queue_within_s),
        context_tokens=found.context_tokens,
        api_key_file=found.api_key_file,
        splits_thoughts=found.reasoning_format == "auto",
    )
