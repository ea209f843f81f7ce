"""Ollama's own Python client on Chorus's second port, with a real hub, agent and engine behind it."""

from __future__ import annotations

from pathlib import Path

import ollama
import pytest

from tests.whole.support import cluster, eventually, http

QUESTION = "What is the capital of France?"
PARIS = "The capital of France is Paris."


def test_a_program_made_for_ollama_lists_shows_asks_frees_and_loads_a_model(tmp_path: Path) -> None:
    with cluster(tmp_path) as chorus:
        ready = chorus.up("--ollama-port=0", "--no-microbench").ready()
        address = str(ready["ollama_url"])
        assert address != ready["http_url"]
        assert http(f"{address}/").body == b"Ollama is running"
        client = ollama.Client(host=address, timeout=60)
        try:
            (running,) = client.ps().models
            model = running.model
            assert model and running.size and running.context_length
            assert model in [row.model for row in client.list().models]
            shown = client.show(model)
            assert shown.modelinfo and shown.capabilities and "completion" in shown.capabilities
            context_tokens = shown.modelinfo[f"{shown.modelinfo['general.architecture']}.context_length"]
            assert isinstance(context_tokens, int) and context_tokens >= 512

            told = client.generate(model, QUESTION, options={"temperature": 0, "num_predict": 30, "num_ctx": 2048})
            assert told.response == PARIS
            assert (told.done, told.done_reason) == (True, "stop")
            assert told.prompt_eval_count and told.eval_count and told.total_duration and told.eval_duration
            parts = list(client.generate(model, QUESTION, stream=True, options={"temperature": 0}))
            assert "".join(part.response or "" for part in parts) == PARIS
            assert len(parts) > 3
            spoken = list(client.generate(model, QUESTION, options={"num_predict": 2}, stream=True))
            assert (spoken[-1].done_reason, spoken[-1].eval_count) == ("length", 2)

            assert client.generate(model, "", keep_alive=0).done_reason == "unload"
            eventually(lambda: not client.ps().models, within_s=20, what="the model is freed")
            waited = client.generate(model, "Hi", options={"num_predict": 1})
            assert waited.load_duration and waited.total_duration and waited.eval_duration is not None
            assert 1e6 < waited.load_duration < waited.total_duration, "it was loaded for this request"
            assert client.generate(model, "", keep_alive="10m").done_reason == "load"
            assert [row.model for row in client.ps().models] == [model]
            with pytest.raises(ollama.ResponseError, match=r"does not exist|is on no node"):
                client.generate("nobody-has-this", "hi")
        finally:
            client.close()


def test_a_model_is_freed_and_loaded_by_name_and_a_request_that_waits_for_it_is_answered(tmp_path: Path) -> None:
    with cluster(tmp_path) as chorus:
        url = str(chorus.up("--no-microbench").ready()["http_url"])
        model = http(f"{url}/api/model/status").json()["current"]
        assert isinstance(model, str)

        def state() -> object:
            return http(f"{url}/api/model/status?model={model}").json()["state"]

        assert http(f"{url}/api/model/unload", {}).status == 202
        eventually(lambda: state() == "unloaded", within_s=20, what="the model is freed")
        assert http(f"{url}/models").json()["data"][0]["status"]["value"] == "unloaded"  # pyright: ignore[reportIndexIssue, reportUnknownVariableType]  # any JSON
        told = http(f"{url}/v1/execute", {"model": model, "prompt": QUESTION, "temperature": 0})
        result = told.json()
        assert (told.status, result["result"]) == (200, PARIS)
        stages = {stage["name"]: stage["seconds"] for stage in result["stages"]}  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]  # any JSON
        assert stages["load"] > 0 and stages["decode"] > 0
        assert http(f"{url}/api/model/load", {"model": model}).status == 202
        assert state() == "loaded"
        status = http(f"{url}/v1/status").json()
        assert status["health"] == {"status": "ok", "reasons": []}
