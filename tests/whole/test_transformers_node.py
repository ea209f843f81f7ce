"""A PC that serves a folder of SafeTensors through the whole of Chorus."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from chorus_client.engines.transformers import missing
from tests.whole.support import chat, cluster, eventually, http, run_chorus

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


@pytest.mark.skipif(bool(missing()), reason="needs the extra transformers")
def test_a_folder_copied_from_another_pc_answers_there_alone(tmp_path: Path) -> None:
    with cluster(tmp_path) as chorus:
        told = chorus.up("--no-agent").ready()
        url, join = str(told["http_url"]), str(told["join"])
        attic = chorus.agent("attic", join, "--engines=transformers", f"--models-dirs={DATA}")
        chorus.agent("cellar", join, "--engines=transformers").ready()
        attic.ready(within_s=90)

        def copied() -> bool:
            # Until the digest is known, there is nothing to copy.
            return run_chorus("models", "copy", "demo-tiny-hf", "--node=cellar", f"--coordinator={join}").code == 0

        eventually(copied, within_s=30, what="the folder is copied")
        attic.kill()
        (folder,) = (tmp_path / "state" / "agents" / "cellar" / "models").glob("demo-tiny-hf-*")
        assert {one.name for one in folder.iterdir()} == {one.name for one in (DATA / "demo-tiny-hf").iterdir()}
        assert "Paris" in chat(url, "demo-tiny-hf", "What is the capital of France?")
        deleted = run_chorus("models", "delete", "demo-tiny-hf", f"--coordinator={join}")
        assert deleted.code == 0, deleted
        eventually(lambda: not folder.exists(), within_s=10, what="the folder is deleted")
