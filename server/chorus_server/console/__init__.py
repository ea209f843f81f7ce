"""The interactive console of a cluster, and what the coordinator's terminal says."""

from chorus_server.console.lines import LineSession, ReadLine, Screen, Write
from chorus_server.console.session import Console
from chorus_server.console.terminal import Ended, run_terminal
from chorus_server.console.text import registered_lines

__all__ = [
    "Console",
    "Ended",
    "LineSession",
    "ReadLine",
    "Screen",
    "Write",
    "registered_lines",
    "run_terminal",
]
