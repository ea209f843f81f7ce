"""The bundled `chorus-llama-server` command: llama.cpp's own HTTP server out of the xllamacpp wheel.

It takes the part of llama-server's flags that the agent uses, under llama-server's names, so that one adapter drives
both. It listens on loopback unless --host says otherwise; web pages of this PC only may call it (CORS); there is no web
UI and nothing is downloaded. Exit code 2 with one line says what to correct.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from chorus_client.lifeline import tie_to_parent

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl")
_FLASH_ATTENTION = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}


class _OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line: the agent shows it to people."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


class _Whole:
    """An argparse type: a whole number within bounds."""

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most

    def __call__(self, text: str) -> int:
        if not text.removeprefix("-").isascii() or not text.removeprefix("-").isdecimal():
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
        if not self._least <= int(text) <= self._most:
            raise argparse.ArgumentTypeError(f"{text} is not between {self._least} and {self._most}")
        return int(text)


def parser() -> argparse.ArgumentParser:
    """The allow-listed flags; everything else is refused."""
    flags = _OneLineParser(
        prog="chorus-llama-server", allow_abbrev=False, description="llama.cpp's HTTP server, bundled with Chorus"
    )
    flags.add_argument("-m", "--model", type=Path, required=True, help="GGUF file")
    flags.add_argument("--host", default="127.0.0.1")
    flags.add_argument("--port", type=_Whole(0, 65_535), default=8080, help="0 picks a free one")
    flags.add_argument("-np", "--parallel", type=_Whole(1, 256), default=1, help="slots: generations at once")
    flags.add_argument("-c", "--ctx-size", type=_Whole(0, 1 << 30), default=0, help="tokens of ALL slots together")
    flags.add_argument("-t", "--threads", type=_Whole(1, 1024), default=1)
    flags.add_argument("-tb", "--threads-batch", type=_Whole(1, 1024), default=None)
    flags.add_argument("-b", "--batch-size", type=_Whole(1, 1 << 20), default=None)
    flags.add_argument("-ub", "--ubatch-size", type=_Whole(1, 1 << 20), default=None)
    flags.add_argument("-a", "--alias", default=None, help="model name in answers")
    flags.add_argument("--embedding", "--embeddings", action="store_true")
    flags.add_argument("--api-key-file", type=Path, default=None, help="one key a line")
    flags.add_argument("-ngl", "--gpu-layers", "--n-gpu-layers", type=_Whole(-1, 10_000), default=None)
    flags.add_argument("-cram", "--cache-ram", type=_Whole(0, 1 << 20), default=0, help="MiB for idle prompts")
    flags.add_argument("-ctk", "--cache-type-k", choices=CACHE_TYPES, default=None)
    flags.add_argument("-ctv", "--cache-type-v", choices=CACHE_TYPES, default=None)
    flags.add_argument("-fa", "--flash-attn", choices=sorted(_FLASH_ATTENTION), default=None)
    flags.add_argument("--reasoning-format", choices=("none", "auto", "deepseek"), default="none")
    flags.add_argument("--metrics", action="store_true")
    flags.add_argument("--slots", action="store_true")
    flags.add_argument("--jinja", action="store_true", help="always on here")
    flags.add_argument("--offline", action="store_true", help="always on here")
    flags.add_argument("--no-webui", action="store_true", help="always on here")
    return flags


class Refused(Exception):
    """The command cannot run as asked; the message is one line for people."""


def check(options: argparse.Namespace) -> None:
    """Find the reasons that llama.cpp would only call 'Failed to init server'. Raises Refused."""
    model: Path = options.model
    try:
        with model.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise Refused(f"cannot read the model file {model}: {error.strerror}") from None
    if magic != b"GGUF":
        raise Refused(f"{model} is not a GGUF file")
    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        with socket.socket(family) as probe:
            if os.name == "posix":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((options.host, options.port))
    except (OSError, UnicodeError) as error:
        raise Refused(f"cannot listen on {options.host}:{options.port}: {error}; choose another --port") from None


def _api_keys(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        keys = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeError) as error:
        raise Refused(f"cannot read the API key file {path}: {error}") from None
    if not keys:
        raise Refused(f"the API key file {path} holds no key")
    return keys


def _parameters(options: argparse.Namespace) -> object:
    xllamacpp = importlib.import_module("xllamacpp")  # untyped, and not loaded before the checks passed
    wanted = xllamacpp.CommonParams()
    wanted.model.path = str(options.model)
    wanted.hostnames = [options.host]
    wanted.port = options.port
    wanted.api_keys = _api_keys(options.api_key_file)
    wanted.n_parallel = options.parallel
    wanted.n_ctx = options.ctx_size
    wanted.cpuparams.n_threads = options.threads
    wanted.cpuparams_batch.n_threads = options.threads_batch or options.threads
    if options.batch_size is not None:
        wanted.n_batch = options.batch_size
    if options.ubatch_size is not None:
        wanted.n_ubatch = options.ubatch_size
    if options.gpu_layers is not None:
        wanted.n_gpu_layers = options.gpu_layers
    if options.alias is not None:
        wanted.model_alias = {options.alias}
    if options.cache_type_k is not None:
        wanted.cache_type_k = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{options.cache_type_k.upper()}")
    if options.cache_type_v is not None:
        wanted.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{options.cache_type_v.upper()}")
    if options.flash_attn is not None:
        kind = f"LLAMA_FLASH_ATTN_TYPE_{_FLASH_ATTENTION[options.flash_attn]}"
        wanted.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, kind)
    wanted.reasoning_format = getattr(
        xllamacpp.common_reasoning_format, f"COMMON_REASONING_FORMAT_{options.reasoning_format.upper()}"
    )
    wanted.embedding = options.embedding
    wanted.endpoint_metrics = options.metrics
    wanted.endpoint_slots = options.slots
    wanted.endpoint_props = False
    wanted.use_jinja = True
    wanted.cont_batching = True
    wanted.cache_ram_mib = options.cache_ram
    wanted.offline = True
    wanted.ui = False
    wanted.ui_mcp_proxy = False
    wanted.reuse_port = False
    wanted.cors_origins = "localhost"
    wanted.cors_credentials = False
    # A file that does not fit is refused by the agent's own arithmetic, never shrunk behind its back.
    wanted.fit_params = False
    return wanted


def serve(options: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT; prints `listening URL` once requests are answered. Raises Refused."""
    check(options)
    parameters = _parameters(options)
    asked_to_end = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        asked_to_end.set()

    try:
        server = importlib.import_module("xllamacpp").Server(parameters)
    except RuntimeError as error:
        print(f"llama.cpp could not serve {options.model}: {error}", file=sys.stderr, flush=True)
        return 1
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    print(f"listening {server.listening_address}", flush=True)
    while not asked_to_end.wait(timeout=1.0):
        pass  # a wait without an end would keep Windows from delivering Ctrl+C
    print("ending", flush=True)
    # llama.cpp's own shutdown waits for running generations; the agent has already given up on them.
    os._exit(0)


def main(argv: Sequence[str] | None = None) -> int:
    tie_to_parent()
    options = parser().parse_args(argv)
    try:
        return serve(options)
    except Refused as refusal:
        print(f"chorus-llama-server: {refusal}", file=sys.stderr, flush=True)
        return 2
    except ImportError as error:
        print(
            f"chorus-llama-server: llama.cpp cannot be loaded on this PC ({error}); "
            "set llama_server_path to an external llama-server, or use Ollama",
            file=sys.stderr,
            flush=True,
        )
        return 2


if __name__ == "__main__":
    sys.exit(main())
