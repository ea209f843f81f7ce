"""Is this checkout installed as it is now? `install_stamp.py base|dev FILE` exits 0 when so; `--write` notes it down.

The stamp holds a digest of what decides an installation: pyproject.toml and the version. Standard library only.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DECIDING = ("pyproject.toml", "proto/chorus_proto/__init__.py")


def stamp(kind: str) -> str:
    """What the stamp file of an up-to-date installation of this kind reads."""
    digest = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in DECIDING)).hexdigest()
    return f"{kind} {digest}"


def main(kind: str, file: Path, *, write: bool) -> int:
    if write:
        file.write_text(stamp(kind), encoding="ascii")
        return 0
    found = file.read_text(encoding="ascii").strip() if file.exists() else ""
    # The environment for tests holds everything that the plain one does.
    return 0 if found in (stamp(kind), stamp("dev")) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), write="--write" in sys.argv[3:]))
