"""The process behind `chorus server start`: keeps one server running after the command has ended, until it is stopped.

`python -m chorus_client.local_servers.keeper CONFIG NAME STATE_DIR [MODELS_DIR ...]`
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from chorus_client.local_servers.config import load
from chorus_client.local_servers.kept_server import KeptServer
from chorus_client.local_servers.plan import planned
from chorus_client.local_servers.records import Records
from chorus_proto import logs
from chorus_proto.clock import SystemClock
from chorus_proto.errors import LoadFailed
from chorus_proto.settings import SettingsError

ALREADY_KEPT = 3
"""Exit code: another process keeps a server on this port."""


async def keep(config_path: Path, name: str, state_dir: Path, models_dirs: Sequence[Path]) -> int:
    """Until SIGTERM, or until the server cannot be kept running. Raises SettingsError, LoadFailed."""
    config = load(config_path)
    plan = planned(config, config.get_server_by_name(name), models_dirs)
    supervisor = KeptServer(
        plan, config_path, Records(state_dir), SystemClock(), api_key=config.endpoint.secret, in_agent=False
    )
    stop = asyncio.Event()
    if sys.platform != "win32":  # on Windows a stop is TerminateProcess, and the job object ends the server
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    if not supervisor.start():
        return ALREADY_KEPT
    given_up = asyncio.create_task(supervisor.until_given_up(), name="given-up")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait((given_up, stopping), return_when=asyncio.FIRST_COMPLETED)
        return 1 if given_up.done() else 0
    finally:
        for task in (given_up, stopping):
            task.cancel()
        await asyncio.gather(given_up, stopping, return_exceptions=True)
        await supervisor.stop()


def main(argv: Sequence[str] | None = None) -> int:
    config, name, state_dir, *models_dirs = sys.argv[1:] if argv is None else argv
    # Its lines go to the log file only: nobody sees its terminal.
    log_file = Path(state_dir, "logs", f"server-{name}.log")
    undo = logs.configure("critical", stream=sys.stderr, file=log_file, file_level="info")
    try:
        with contextlib.suppress(KeyboardInterrupt):
            return asyncio.run(keep(Path(config), name, Path(state_dir), [Path(one) for one in models_dirs]))
        return 1
    except (SettingsError, LoadFailed) as error:
        print(str(error), file=sys.stderr, flush=True)
        return 2
    finally:
        undo()


if __name__ == "__main__":
    sys.exit(main())
