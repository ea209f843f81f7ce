"""The computing process of the model server; `frames` says what it hears on standard input and answers on output.

Three threads: one reads orders, one prepares them (templates, tokens, grammars), and the main one computes. It ends
with its parent: the end of its input is the end of everything.
"""

from __future__ import annotations

import importlib
import os
import queue
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from chorus_client.lifeline import kept_input
from chorus_client.model_server import frames
from chorus_client.model_server.folder import check_folder
from chorus_client.model_server.frames import Begin, Cancel, Event, Failed, Load, Loading, Ready
from chorus_client.thinking.select import style_of
from chorus_proto.errors import ClusterError
from chorus_proto.values import ThinkingStyle

if TYPE_CHECKING:
    from chorus_client.model_server.generator import Incoming
    from chorus_client.model_server.prepare import Preparation

_MOST_WAITING = 4096
"""Far more than the server lets in at once."""


class Worker:
    """Loads, then computes until its input ends."""

    def __init__(self, orders: BinaryIO, events: BinaryIO) -> None:
        self._orders = orders
        self._events = events
        self._begun: queue.Queue[Begin] = queue.Queue(maxsize=_MOST_WAITING)
        self._inbox: queue.SimpleQueue[Incoming | None] = queue.SimpleQueue()

    def run(self) -> int:
        """The process's exit code."""
        order = frames.read_order(self._orders)
        if not isinstance(order, Load):
            return 2
        threading.Thread(target=self._read_orders, name="orders", daemon=True).start()
        try:
            self._serve(order)
        except ClusterError as error:
            self._emit([Failed(error.message)])
            return 1
        except Exception as error:  # noqa: BLE001 - the edge of this process: torch and transformers raise anything
            traceback.print_exc()
            self._emit([Failed(f"{type(error).__name__}: {' '.join(str(error).split())[:1000]}")])
            return 1
        return 0

    def _serve(self, order: Load) -> None:
        self._tell("importing torch and transformers")
        # Not before here: seconds of importing, during which orders must be read.
        model = importlib.import_module("chorus_client.model_server.model")
        prepare = importlib.import_module("chorus_client.model_server.prepare")
        generator = importlib.import_module("chorus_client.model_server.generator")
        folder = check_folder(Path(order.folder))
        loaded = model.load(order, folder.file_bytes, self._tell)
        thoughts = style_of(architecture=folder.model_type, template=_text(loaded.tokenizer.chat_template))
        preparation: Preparation = prepare.Preparation(
            loaded, context_tokens=order.context_tokens, keep_special=thoughts is ThinkingStyle.HARMONY
        )
        threading.Thread(target=self._prepare, args=(preparation,), name="prepare", daemon=True).start()
        self._emit([Ready(device=str(loaded.model.device), dtype=loaded.model.dtype, thoughts=thoughts)])
        generator.Generator(loaded.model, self._inbox, self._emit).run()

    def _tell(self, stage: str) -> None:
        self._emit([Loading(stage)])

    def _emit(self, events: list[Event]) -> None:
        try:
            self._events.write(frames.encoded(events))
            self._events.flush()
        except OSError:
            os._exit(0)  # nobody listens any more

    def _read_orders(self) -> None:
        while (order := frames.read_order(self._orders)) is not None:
            if isinstance(order, Begin):
                self._begun.put(order)
            elif isinstance(order, Cancel):
                self._inbox.put(order)
        # The computing thread may be deep inside torch; nothing here needs to be put away.
        os._exit(0)

    def _prepare(self, preparation: Preparation) -> None:
        while True:
            self._inbox.put(preparation.job(self._begun.get()))


def _text(template: object) -> str | None:
    """The chat template; some models have several by name, and transformers takes the default one."""
    if isinstance(template, dict):
        template = cast("dict[str, object]", template).get("default")
    return template if isinstance(template, str) else None


def _own_output() -> BinaryIO:
    """Standard output for frames alone: whatever a library prints goes to standard error."""
    kept = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return os.fdopen(kept, "wb")


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole group; the server decides and ends this process
    code = Worker(os.fdopen(kept_input(), "rb"), _own_output()).run()
    sys.stderr.flush()
    # Threads that wait for input would keep the interpreter from ending.
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
