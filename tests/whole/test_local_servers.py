"""Several llama-servers of one PC behind the hub: started by the agent, by hand, and by a stranger."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import cast

from tests.whole.support import Chorus, chat, cluster, eventually, http, run_chorus

WEAK = Path(__file__).parents[2] / "docs" / "hardware" / "weak.toml"
PARIS = "The capital of France is Paris."


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def servers_file(folder: Path) -> Path:
    """Two servers on the bundled engine; only the first starts by itself."""
    params = {"ctx-size": "2048", "parallel": "2", "threads": "1"}
    servers = [
        {
            "name": name,
            "llama_server_path": "bundled",
            "server_host": "127.0.0.1",
            "server_port": free_port(),
            "gguf_file": f"{model}-q8_0.gguf",
            "auto_start": auto_start,
            "server_params": params,
        }
        for name, model, auto_start in (("kitchen", "demo-tiny", True), ("study", "demo-small", False))
    ]
    port = servers[0]["server_port"]
    endpoint = {"default_local_server": "kitchen", "api_base_url": f"http://127.0.0.1:{port}/v1", "api_key": "EMPTY"}
    path = folder / "servers.json"
    path.write_text(json.dumps({"local_llm_servers": servers, "llm_endpoint": endpoint}), encoding="utf-8")
    return path


def models_of(url: str) -> set[str]:
    rows = cast("list[dict[str, object]]", http(f"{url}/v1/models").json()["data"])
    return {str(row["id"]) for row in rows}


def start(chorus: Chorus, file: Path) -> str:
    return str(chorus.up(f"--servers-file={file}", f"--hardware={WEAK}").ready()["http_url"])


def test_servers_of_one_pc_are_replicas_of_its_node(tmp_path: Path) -> None:
    file = servers_file(tmp_path)
    with cluster(tmp_path) as chorus:
        url = start(chorus, file)
        eventually(lambda: "kitchen" in models_of(url), within_s=20, what="the server with auto_start is a model")
        assert chat(url, "kitchen", "What is the capital of France?") == PARIS
        eventually(lambda: "local-default" in models_of(url), within_s=20, what="the default server has a name")
        assert chat(url, "local-default", "What is the capital of France?") == PARIS
        assert "study" not in models_of(url)
        state = f"--state-dir={chorus.state_dir}"
        started = run_chorus("server", f"--config={file}", state, "start", "study", "--force")
        try:
            assert started.code == 0, started.err
            eventually(lambda: "study" in models_of(url), within_s=20, what="a server started by hand is a model")
            assert chat(url, "study", "What is the capital of France?") == PARIS
        finally:
            stopped = run_chorus("server", f"--config={file}", state, "stop", "study")
        assert stopped.code == 0, stopped.err
        eventually(lambda: "study" not in models_of(url), within_s=20, what="a stopped server is no model any more")
        assert chat(url, "kitchen", "What is the capital of France?") == PARIS
