"""The bundled `chorus-llama-server` command: llama.cpp's own HTTP server out of the xllamacpp wheel.

It takes the part of llama-server's flags that the agent uses, under llama-server's names, so that one adapter drives
both: its own below, and the parameters that `engine_parameters` marks as bundled. It listens on loopback unless --host
says otherwise; web pages of this PC only may call it (CORS); there is no web UI and nothing is downloaded. Exit code 2
with one line says what to correct.
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

from chorus_client.engine_parameters import ALLOWED, Kind, Parameter, RawParameter, checked
from chorus_client.lifeline import tie_to_parent
from chorus_proto.settings import SettingsError

_SHORT = {
    "parallel": ("-np",),
    "ctx-size": ("-c",),
    "threads": ("-t",),
    "threads-batch": ("-tb",),
    "batch-size": ("-b",),
    "ubatch-size": ("-ub",),
    "embedding": ("--embeddings",),
    "reranking": ("--rerank",),
    "n-gpu-layers": ("-ngl", "--gpu-layers"),
    "cache-ram": ("-cram",),
    "cache-type-k": ("-ctk",),
    "cache-type-v": ("-ctv",),
    "flash-attn": ("-fa",),
}
"""llama-server's other names of parameters."""

_DEFAULTS: dict[str, RawParameter] = {
    "parallel": 1,
    "ctx-size": 0,
    "threads": 1,
    "cache-ram": 0,
    "embedding": False,
    "reranking": False,
    "jinja": True,
    "reasoning-format": "none",
}
"""Where they are not llama.cpp's own."""

_FIELDS = {
    "parallel": "n_parallel",
    "ctx-size": "n_ctx",
    "batch-size": "n_batch",
    "ubatch-size": "n_ubatch",
    "n-gpu-layers": "n_gpu_layers",
    "cache-ram": "cache_ram_mib",
    "embedding": "embedding",
    "jinja": "use_jinja",
    "swa-full": "swa_full",
    "n-predict": "n_predict",
    "rope-freq-base": "rope_freq_base",
    "rope-freq-scale": "rope_freq_scale",
}
_SAMPLING = {
    "temp": "temp",
    "top-k": "top_k",
    "top-p": "top_p",
    "min-p": "min_p",
    "repeat-penalty": "penalty_repeat",
    "repeat-last-n": "penalty_last_n",
    "presence-penalty": "penalty_present",
    "frequency-penalty": "penalty_freq",
}
_ENUMS = {
    "cache-type-k": ("cache_type_k", "ggml_type", "GGML_TYPE_"),
    "cache-type-v": ("cache_type_v", "ggml_type", "GGML_TYPE_"),
    "flash-attn": ("flash_attn_type", "llama_flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_"),
    "reasoning-format": ("reasoning_format", "common_reasoning_format", "COMMON_REASONING_FORMAT_"),
    "rope-scaling": ("rope_scaling_type", "llama_rope_scaling_type", "LLAMA_ROPE_SCALING_TYPE_"),
}
"""Parameter -> the field, its enumeration, and how the members' names begin."""
_MEMBERS = {"on": "ENABLED", "off": "DISABLED"}
"""Words whose member has another name; all others have their own in capitals."""
_ANY_SEED = 0xFFFFFFFF


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


class _Allowed:
    """An argparse type: a value that the allow-list takes."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, text: str) -> RawParameter:
        try:
            return checked(self._name, text, key="flags")
        except SettingsError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {ALLOWED[self._name].words}") from None


def parser() -> argparse.ArgumentParser:
    """The allow-listed flags; everything else is refused."""
    flags = _OneLineParser(
        prog="chorus-llama-server", allow_abbrev=False, description="llama.cpp's HTTP server, bundled with Chorus"
    )
    flags.add_argument("-m", "--model", type=Path, required=True, help="GGUF file")
    flags.add_argument("--host", default="127.0.0.1")
    flags.add_argument("--port", type=_Whole(0, 65_535), default=8080, help="0 picks a free one")
    flags.add_argument("-a", "--alias", default=None, help="model name in answers")
    flags.add_argument("--api-key-file", type=Path, default=None, help="one key a line")
    flags.add_argument("--metrics", action="store_true")
    flags.add_argument("--slots", action="store_true")
    flags.add_argument("--offline", action="store_true", help="always on here")
    flags.add_argument("--no-webui", action="store_true", help="always on here")
    for name, parameter in ALLOWED.items():
        if parameter.bundled:
            _add(flags, name, parameter)
    return flags


def _add(flags: argparse.ArgumentParser, name: str, parameter: Parameter) -> None:
    """The flag of one parameter of the allow-list."""
    names = (*_SHORT.get(name, ()), f"--{name}")
    place, default = name.replace("-", "_"), _DEFAULTS.get(name)
    if parameter.kind is Kind.FLAG:
        flags.add_argument(*names, dest=place, action="store_true", default=default)
        if parameter.off:
            flags.add_argument(f"--{parameter.off}", dest=place, action="store_false", default=default)
    else:
        flags.add_argument(*names, dest=place, type=_Allowed(name), default=default, help=parameter.words)


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
    if options.alias is not None:
        wanted.model_alias = {options.alias}
    given = {name: getattr(options, name.replace("-", "_")) for name in ALLOWED if ALLOWED[name].bundled}
    given = {name: value for name, value in given.items() if value is not None}
    wanted.cpuparams.n_threads = given["threads"]
    wanted.cpuparams_batch.n_threads = given.get("threads-batch", given["threads"])
    for name, field in _FIELDS.items():
        if name in given:
            setattr(wanted, field, given[name])
    for name, field in _SAMPLING.items():
        if name in given:
            setattr(wanted.sampling, field, given[name])
    for name, (field, kind, prefix) in _ENUMS.items():
        if name in given:
            word = str(given[name])
            setattr(wanted, field, getattr(getattr(xllamacpp, kind), prefix + _MEMBERS.get(word, word.upper())))
    if "seed" in given:
        wanted.sampling.seed = given["seed"] if given["seed"] >= 0 else _ANY_SEED
    if "mlock" in given or "no-mmap" in given:
        mapped = "MMAP_MLOCK" if "mlock" in given else "MMAP"
        mode = ("MLOCK" if "mlock" in given else "NONE") if "no-mmap" in given else mapped
        wanted.load_mode = getattr(xllamacpp.llama_load_mode, f"LLAMA_LOAD_MODE_{mode}")
    if given["reranking"]:
        wanted.embedding = True
        wanted.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    wanted.endpoint_metrics = options.metrics
    wanted.endpoint_slots = options.slots
    wanted.endpoint_props = False
    wanted.cont_batching = True
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
