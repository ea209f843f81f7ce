"""The bundled demo models still answer, in the engine that ships with them, what they are known to answer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHECK = ROOT / "tools" / "demo_models" / "check.py"


def test_every_demo_model_gives_every_known_answer() -> None:
    done = subprocess.run([sys.executable, str(CHECK)], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        "demo-medium-q8_0.gguf",
        "demo-small-q8_0.gguf",
        "demo-tiny-q8_0.gguf",
    ]


def test_a_wrong_answer_fails_the_check(tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes((ROOT / "client" / "chorus_client" / "models" / "all-minilm-l6-v2-q8_0.gguf").read_bytes())
    done = subprocess.run(
        [sys.executable, str(CHECK), str(other)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
