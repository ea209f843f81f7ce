"""What can be set on the `chorus` command itself, and the family of all settings that one file may hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chorus_client.settings import AgentSettings
from chorus_http.settings import HttpSettings
from chorus_proto.logs import LEVELS
from chorus_proto.settings import setting
from chorus_server.settings import CoordinatorSettings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, slots=True, kw_only=True)
class CliSettings:
    """Of the commands, not of a process behind them; table [cli] of the settings file."""

    coordinator: str = setting("127.0.0.1:50051", "HOST:PORT of the coordinator to ask")
    http_url: str = setting("http://127.0.0.1:5001", "address of the HTTP wrapper, for the documents")
    coordinator_ca: str = setting(
        "", "SHA-256 of the authority of a coordinator elsewhere that is encrypted; a PC that joined it knows it"
    )
    api_key: str = setting(
        "", "API key to show a coordinator that asks for one; on its own PC none is needed", secret=True
    )
    state_dir: Path = setting(Path("~/.chorus"), "folder of everything that survives a restart")
    log_level: str = setting("warning", "what the terminal shows; the log files hold info and up", choices=LEVELS)
    ready_within_s: float = setting(60.0, "after this long without a ready model, `up` says so and waits on", minimum=1)
    answer_within_s: float = setting(5.0, "longest wait for the coordinator's word on its state", minimum=0.1)
    ask_within_s: float = setting(300.0, "longest time one question may take", minimum=0.1)
    agent: bool = setting(True, "`up` also runs an agent on this PC")
    console: bool | None = setting(
        None, "take prompts on the terminal of the coordinator; by default `coordinator` does and `up` does not"
    )


FAMILY: Mapping[str, type[DataclassInstance]] = {
    "coordinator": CoordinatorSettings,
    "http": HttpSettings,
    "agent": AgentSettings,
    "cli": CliSettings,
}
