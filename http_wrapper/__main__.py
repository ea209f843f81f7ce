"""`python http_wrapper` runs the HTTP address out of a bare checkout, with only requirements.txt installed."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("proto", "server", "client", "http_wrapper", "cli")]

if __name__ == "__main__":
    try:
        from chorus_cli.main import main
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not installed; run: {sys.executable} -m pip install -r {ROOT / 'requirements.txt'}")
    sys.exit(main(["http", *sys.argv[1:]]))
