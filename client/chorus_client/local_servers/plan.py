"""From a configured server to what starts: program, model file with its checked header, command line, memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chorus_client.chat_template import Traits, template_of_header, traits
from chorus_client.engine_parameters import RawParameter, as_flags, check_together, checked
from chorus_client.engines.llama_server import DEFAULT_CONTEXT_TOKENS, default_threads
from chorus_client.gguf import read_header
from chorus_client.inventory import bundled_folder
from chorus_client.load_shape import load_shape
from chorus_client.local_servers.config import ServersConfig
from chorus_client.local_servers.paths import model_path, program_path
from chorus_client.local_servers.server_config import ServerConfig
from chorus_client.model_shape import is_embedding, shape_of
from chorus_client.process import own_python
from chorus_proto.errors import LoadFailed
from chorus_proto.settings import SettingsError
from chorus_proto.sizing import DeviceKind, Estimate, estimate
from chorus_proto.values import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One server, ready to start. `program` None: the bundled engine."""

    server: ServerConfig
    program: Path | None
    gguf: Path
    file_bytes: int
    shape: ModelShape
    embedding: bool
    traits: Traits
    parameters: dict[str, RawParameter]

    @property
    def slots(self) -> int:
        return int(self.parameters["parallel"])

    @property
    def context_tokens(self) -> int:
        """Per slot: llama-server's ctx-size is for all slots together."""
        return max(1, int(self.parameters["ctx-size"]) // self.slots)

    @property
    def wants_gpu(self) -> bool:
        """llama-server puts on the GPU what fits unless told otherwise; the bundled engine only has Apple's."""
        return self.program is not None and self.parameters.get("n-gpu-layers", -1) != 0

    def needs(self, device: DeviceKind) -> Estimate:
        """Memory that the server will take."""
        load = load_shape(self.parameters, context_tokens=self.context_tokens, slots=self.slots)
        return estimate(self.shape, self.file_bytes, load, device)

    def command(self, key_file: Path | None) -> Sequence[str]:
        """The command line; no secret may stand in it, because it is public on this PC."""
        server = self.server
        flags = ["--model", str(self.gguf), "--alias", server.name]
        flags += ["--host", server.server_host, "--port", str(server.server_port)]
        if key_file is not None:
            flags += ["--api-key-file", str(key_file)]
        # Prompts of idle slots would take up to 8 GiB of host memory: no estimate could hold.
        fixed: dict[str, RawParameter] = {"cache-ram": 0, "jinja": True, "reasoning-format": "none"}
        if self.embedding:
            fixed["embedding"] = True
        flags += as_flags(fixed | self.parameters, bundled=self.program is None, key=_key(server))
        flags += ["--slots", "--metrics", "--offline", "--no-webui"]
        return (
            own_python("chorus_client.llama_cpp_server", *flags)
            if self.program is None
            else [str(self.program), *flags]
        )


def _key(server: ServerConfig) -> str:
    return f"server_params of {server.name!r}"


def models_folders(config: ServersConfig, more: Sequence[Path] = ()) -> tuple[Path, ...]:
    """Where model files are looked for: the file's own folder, the agent's `models_dirs`, the bundled models."""
    bundled = bundled_folder()
    return (config.models_folder, *(folder.expanduser() for folder in more), *((bundled,) if bundled else ()))


def planned(config: ServersConfig, server: ServerConfig, more_folders: Sequence[Path] = ()) -> Plan:
    """Everything checked that can be before a start. Reads the model file's header.

    What the file leaves open is set here, so that the server takes what was estimated and not what an engine's version
    has as default: `ctx-size` 4096 for each slot (at most what the model was trained for), `parallel` 1, `threads` one
    less than the cores. Raises SettingsError, and LoadFailed for a model file that cannot be used.
    """
    program = program_path(server.llama_server_path, config.folder, key=f"llama_server_path of {server.name!r}")
    if server.gguf_file is None:
        raise SettingsError(f"gguf_file of {server.name!r} is missing; name the model file in {config.path}")
    folders = models_folders(config, more_folders)
    gguf = model_path(folders, server.model_dir, server.gguf_file, key=f"gguf_file of {server.name!r}")
    header = read_header(gguf)
    if header.metadata.get("split.count", 1) != 1:
        raise LoadFailed(f"{gguf.name} is one part of several; join them with `llama-gguf-split --merge`")
    shape = shape_of(header)
    key = _key(server)
    parameters = {name: checked(name, value, key=key) for name, value in server.server_params.items()}
    check_together(parameters, key=key)
    slots = int(parameters.setdefault("parallel", 1))
    if not parameters.get("ctx-size"):
        trained = shape.trained_context_tokens
        each = trained if "ctx-size" in parameters else min(DEFAULT_CONTEXT_TOKENS, trained)
        parameters["ctx-size"] = slots * each
    threads = parameters.setdefault("threads", default_threads())
    parameters.setdefault("threads-batch", threads)
    plan = Plan(
        server=server,
        program=program,
        gguf=gguf,
        file_bytes=header.file_bytes,
        shape=shape,
        embedding=is_embedding(header),
        traits=traits(template_of_header(header), name=server.name, architecture=shape.architecture),
        parameters=parameters,
    )
    plan.command(None)  # refuses now what the bundled engine does not take
    return plan
