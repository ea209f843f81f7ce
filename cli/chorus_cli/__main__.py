"""`python -m chorus_cli` is the `chorus` command."""

from __future__ import annotations

import sys

from chorus_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
