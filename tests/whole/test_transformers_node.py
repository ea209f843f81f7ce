"""A PC that serves a folder of SafeTensors through the whole of Chorus."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from chorus_client.engines.transformers import missing
from tests.whole.support import chat, cluster, http

DATA = Path(__file__).resolve().parents[1] / "data"


@pytest.mark.skipif(bool(missing()), reason="needs the extra transformers")
def test_a_hugging_face_folder_answers_through_the_hub(tmp_path: Path) -> None:
    with cluster(tmp_path) as chorus:
        told = chorus.up("--no-agent").ready()
        url, join = str(told["http_url"]), str(told["join"])
        agent = chorus.agent("attic", join, "--engines=transformers", f"--models-dirs={DATA}", "--threads=1")
        agent.ready(within_s=90)
        assert "Paris" in chat(url, "demo-tiny-hf", "What is the capital of France?")
        rows = cast("list[dict[str, object]]", http(f"{url}/status").json()["clients"])
        (replica,) = cast("list[dict[str, object]]", rows[0]["replicas"])
        assert (replica["engine"], replica["state"]) == ("transformers", "ready")
