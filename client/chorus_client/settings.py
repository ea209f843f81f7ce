"""What can be set on an agent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from chorus_client.policy import Reaction
from chorus_proto.addresses import check_networks
from chorus_proto.settings import rising, setting
from chorus_proto.values import EngineKind


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """Defaults suit a PC that somebody also works on; units are in the names."""

    join: str = setting("127.0.0.1:50051", "HOST:PORT of the coordinator")
    join_token: str = setting(
        "", "admits this PC to an encrypted hub, once; CHORUS_JOIN_TOKEN or --join-token-file", secret=True
    )
    name: str = setting("", "what people call this PC; its host name when empty")
    hardware: Path | None = setting(None, "file that stands in for the hardware probe, to play another PC")
    state_dir: Path = setting(Path("~/.chorus"), "folder of everything that survives a restart")
    engines: tuple[EngineKind, ...] = setting((EngineKind.LLAMA_SERVER,), "engines to use")
    models_dirs: tuple[Path, ...] = setting((), "folders with your own .gguf files and Hugging Face folders")
    models_look_every_s: float = setting(
        30.0,
        "seconds between looks for models that came or went, in folders and at Ollama or a remote server",
        minimum=0.1,
    )
    download_dir: Path | None = setting(
        None, "folder of models that come over the network; by default `models` in this agent's state folder"
    )
    ollama_store: Path | None = setting(
        None, "Ollama's model store, mostly ~/.ollama/models: llama.cpp serves what lies there, without Ollama"
    )
    registry_url: str = setting("https://registry.ollama.ai", "Ollama registry that `chorus models pull NAME` asks")
    download_hosts: tuple[str, ...] = setting(
        (), "HOST, HOST:PORT or NETWORK/BITS of yours that models may be downloaded from, besides registry_url's"
    )
    download_limit_bytes: int = setting(200 * 10**9, "largest model file that may come over the network", minimum=1)
    download_stall_s: float = setting(60.0, "a download is tried again after this long without a byte", minimum=0.1)
    disk_spare_bytes: int = setting(1 << 30, "disk space that downloads leave free", minimum=0)
    models_file: Path | None = setting(None, "TOML file with options of single models, tables [model.NAME]")
    verify_digest_every_h: float = setting(
        168.0, "a model file's SHA-256 is checked again before a load after so many hours; 0: each time", minimum=0
    )
    llama_server_path: Path | None = setting(None, "an external llama-server to use instead of the bundled engine")
    threads: int = setting(0, "CPU threads of an engine; 0 chooses by cores", minimum=0, maximum=1024)
    gpu_layers: int | None = setting(
        None, "layers that llama-server puts on the GPU; 0 for the CPU only, by default it decides itself", minimum=0
    )
    load_within_s: float = setting(300.0, "longest time a model may take to load, beside its size", minimum=1)
    load_s_per_gib: float = setting(20.0, "seconds more to load for each GiB of the model's file", minimum=0)
    load_cap_s: float = setting(21_600.0, "longest time any model may take to load, whatever its size", minimum=1)
    load_stall_s: float = setting(120.0, "a load that stands still for this long is given up", minimum=1)
    first_token_within_s: float = setting(
        600.0, "longest silence of an engine before a first token or progress with the prompt", minimum=0.1
    )
    first_token_least_s: float = setting(
        15.0, "an engine may be silent this long before a first token, beside the prompt's own time", minimum=0.1
    )
    prefill_slowness: float = setting(
        4.0, "a prompt may take this many times what the engine's measured speed says", minimum=1
    )
    prefill_assumed_tokens_per_s: float = setting(
        20.0, "an engine's speed with prompts until it was measured", minimum=0.1
    )
    next_token_within_s: float = setting(60.0, "longest silence between two tokens", minimum=0.1)
    next_token_least_s: float = setting(10.0, "an engine may be silent this long between two tokens", minimum=0.1)
    next_token_gaps: float = setting(20.0, "or this many of its usual gaps between tokens", minimum=1)
    idle_probe_s: float = setting(
        300.0, "an engine that had nothing to do for this long is tried with a token; 0 for never", minimum=0
    )
    idle_probe_within_s: float = setting(30.0, "it is hung when that token takes longer", minimum=0.1)
    cancel_quiet_within_s: float = setting(
        5.0, "an engine that works on a cancelled answer for longer is ended", minimum=0.1
    )
    short_answer_within_s: float = setting(
        10.0, "longest wait for an engine's answer to anything but a prompt", minimum=0.1
    )
    probe_every_s: float = setting(5.0, "seconds between looks whether Ollama or a remote server lives", minimum=0.1)
    stop_within_s: float = setting(10.0, "an engine may take this long to stop before it is killed", minimum=0.1)
    ollama_unload_within_s: float = setting(30.0, "longest wait until Ollama has freed a model", minimum=0.1)
    connect_within_s: float = setting(3.0, "longest wait for a connection to the coordinator or an engine", minimum=0.1)
    reconnect_max_s: float = setting(2.0, "longest pause between two tries to reach the coordinator", minimum=0.1)
    fence_after_s: float = setting(30.0, "without the coordinator for this long, running work is dropped", minimum=1)
    reserve_bytes: int = setting(512 * 1024 * 1024, "memory that loads leave free, at least", minimum=0)
    reserve_share: float = setting(0.05, "share of each memory that loads leave free, at least", minimum=0, maximum=0.9)
    drain_s: float = setting(30.0, "running answers may finish for this long at a shutdown", minimum=0, maximum=600)
    freed_within_s: float = setting(5.0, "longest wait until a driver shows freed memory as free", minimum=0.1)
    room_within_s: float = setting(300.0, "longest wait of a load for memory that models in use hold", minimum=0.1)
    swap_after_s: float = setting(
        10.0, "a model in use keeps its memory for so long before another one may take it", minimum=0
    )
    restart_max_s: float = setting(60.0, "longest pause before a crashed engine is started again", minimum=1)
    crash_loop_after: int = setting(5, "so many crashes of an engine are a crash loop", minimum=1, maximum=64)
    crash_loop_within_s: float = setting(600.0, "when they come within this time", minimum=1)
    crash_probe_every_s: float = setting(600.0, "pause between two tries in a crash loop", minimum=1)
    policy_every_s: float = setting(2.0, "pause between two looks at what this PC's owner does", minimum=0.1)
    polite_hours: tuple[str, ...] = setting(
        (), "when this PC may work, local time, e.g. 'mon-fri 18:00-08:00'; empty for always"
    )
    polite_outside_hours: Reaction = setting(Reaction.PAUSE, "outside these hours")
    polite_owner: Reaction = setting(Reaction.IGNORE, "while somebody sits at this PC")
    polite_owner_away_s: float = setting(300.0, "nobody sits there after so long without any input", minimum=1)
    polite_battery: Reaction = setting(Reaction.IGNORE, "on battery")
    polite_battery_low: Reaction = setting(Reaction.PAUSE, "on battery below polite_battery_percent")
    polite_battery_percent: float = setting(30.0, "a battery is low below this", minimum=0, maximum=100)
    polite_cpu: Reaction = setting(Reaction.IGNORE, "while other programs use the CPU")
    polite_cpu_percent: float = setting(50.0, "of all cores together, by other programs", minimum=1, maximum=100)
    polite_gpu: Reaction = setting(Reaction.PAUSE, "while other programs use an NVIDIA card")
    polite_gpu_percent: float = setting(50.0, "of a card's time, by other programs", minimum=1, maximum=100)
    polite_gpu_memory_percent: float = setting(50.0, "or of its memory", minimum=1, maximum=100)
    polite_memory: Reaction = setting(Reaction.EVICT, "while memory runs out")
    polite_memory_bytes: int = setting(256 * 1024 * 1024, "it runs out below so much free memory", minimum=0)
    polite_slots: int = setting(1, "generations at once while a reaction is 'lower'", minimum=1, maximum=1024)
    polite_settle_s: float = setting(30.0, "other programs must be quiet for so long", minimum=0)
    wakeable: bool = setting(True, "tell the coordinator how to wake this PC from its sleep")
    slept_after_s: float = setting(5.0, "a PC that stood still for longer has slept", minimum=1)
    slow_share: float = setting(
        0.5, "an engine below this share of its speed before a sleep is started again", minimum=0, maximum=0.9
    )
    servers_file: Path | None = setting(None, "file with several local llama-servers to use, see `chorus server`")
    ollama_url: str = setting("http://127.0.0.1:11434", "where Ollama runs, for the ollama engine")
    remote_url: str = setting("", "base URL of an OpenAI-compatible server, for the remote engine")
    remote_api_key: str = setting("", "its key; CHORUS_REMOTE_API_KEY or the settings file, never a flag", secret=True)
    scripted_tokens_per_s: float = setting(0.0, "speed of the scripted engine per stream; 0 is full speed", minimum=0)
    scripted_ttft_s: float = setting(0.0, "time to the scripted engine's first token", minimum=0)
    microbench: bool = setting(True, "measure this PC once, so that its score is real")

    def check(self) -> None:
        """Raises SettingsError for two settings that contradict each other."""
        check_networks("download_hosts", self.download_hosts)
        rising(self, "load_within_s", "load_cap_s", equal=True)
        rising(self, "reconnect_max_s", "fence_after_s")
        rising(self, "connect_within_s", "fence_after_s")
        rising(self, "first_token_least_s", "first_token_within_s", equal=True)
        rising(self, "next_token_least_s", "next_token_within_s", equal=True)
