"""An OpenAI client of the first generation (1.40), which people still have, against a real Chorus."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.whole.support import cluster

OLD = Path(sys.prefix) / "old-openai"

SCRIPT = """
import openai
assert openai.__version__.startswith("1."), openai.__version__
client = openai.OpenAI(base_url={url!r} + "/v1", api_key="none", max_retries=0)
ask = dict(model={model!r}, messages=[dict(role="user", content="What is the capital of France?")], temperature=0)
print(client.chat.completions.create(**ask, max_tokens=40).choices[0].message.content)
chunks = list(client.chat.completions.create(**ask, stream=True, stream_options=dict(include_usage=True)))
print("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices))
print(chunks[-1].usage.total_tokens > 0, sorted(model.id for model in client.models.list()))
try:
    client.chat.completions.create(**{{**ask, "temperature": 9}})
except openai.BadRequestError as error:
    print("refused", error.param)
client.close()
"""


@pytest.mark.skipif(not OLD.exists(), reason="test.sh installs the old client into the environment's old-openai folder")
def test_an_old_openai_client_chats_streams_lists_and_understands_refusals(tmp_path: Path) -> None:
    weak = Path(__file__).parents[2] / "docs" / "hardware" / "weak.toml"
    with cluster(tmp_path) as chorus:
        url = str(chorus.up(f"--hardware={weak}").ready()["http_url"])
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(url=url, model="demo-tiny")],
            env={**os.environ, "PYTHONPATH": str(OLD), "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    paris = "The capital of France is Paris."
    assert done.stdout.splitlines() == [paris, paris, "True ['council/all', 'demo-tiny']", "refused temperature"]
