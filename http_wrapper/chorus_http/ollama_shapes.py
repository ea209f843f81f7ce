"""The cluster's models as Ollama's API shows them: pure functions of its state."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from chorus_http.state import council_context_tokens, find_council, find_model
from chorus_proto.catalogue import shape_of
from chorus_proto.dialects.ollama_answer import instant, tagged
from chorus_proto.ids import ModelName
from chorus_proto.transfers import bare_digest
from chorus_proto.values import (
    ClusterState,
    CouncilSummary,
    EngineKind,
    ModelFile,
    ModelSummary,
    Node,
    ReplicaReport,
    ReplicaState,
    ThinkingStyle,
)

_QUANTIZATION = re.compile(
    r"(?:^|[-_.:])(iq\d\w*|q\d(?:_\w+)?|mxfp4|nvfp4|bf16|f16|f32|fp16|fp8|int4|int8)$", re.IGNORECASE
)
_TEMPLATE = "{{ .Prompt }}"
"""Without `.Suffix`: models tell nobody beforehand whether they fill in the middle."""
_COUNCIL = "council"
"""The architecture of what is no model: clients want one."""
_COUNCIL_DETAILS: Mapping[str, object] = {
    "parent_model": "",
    "format": "",
    "family": _COUNCIL,
    "families": [_COUNCIL],
    "parameter_size": "",
    "quantization_level": "",
}
_FOR_GOOD_S = 100 * 365 * 86_400.0
"""Ollama too shows a time in the far future for what stays."""


def files_of(state: ClusterState) -> dict[ModelName, ModelFile]:
    """One file for each name: that of the first node that has it."""
    files: dict[ModelName, ModelFile] = {}
    for node in state.nodes:
        for file in node.models:
            files.setdefault(file.name, file)
    return files


def tags(state: ClusterState, modified_unix_s: float) -> list[dict[str, object]]:
    """Every model that can be asked for: loaded somewhere, on a disk and loaded when somebody asks, or a council."""
    files = files_of(state)
    listed = [_listed(model, files.get(model.alias_of or model.name), modified_unix_s) for model in state.models]
    return listed + [_listed_council(council, modified_unix_s) for council in state.councils]


def _listed(model: ModelSummary, file: ModelFile | None, modified_unix_s: float) -> dict[str, object]:
    name = tagged(model.name)
    return {
        "name": name,
        "model": name,
        "modified_at": instant(modified_unix_s),
        "size": model.file_bytes,
        "digest": bare_digest(model.digest),
        "details": _details(model, file),
    }


def _listed_council(council: CouncilSummary, modified_unix_s: float) -> dict[str, object]:
    name = tagged(council.name)
    return {
        "name": name,
        "model": name,
        "modified_at": instant(modified_unix_s),
        "size": 0,
        "digest": "",
        "details": _COUNCIL_DETAILS,
    }


def _details(model: ModelSummary, file: ModelFile | None) -> dict[str, object]:
    shape = None if file is None else shape_of(file)
    family = "" if shape is None else shape.architecture
    found = _QUANTIZATION.search(model.name)
    return {
        "parent_model": "",
        "format": "safetensors" if file is not None and file.engine is EngineKind.TRANSFORMERS else "gguf",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": _parameter_size(model.parameters),
        "quantization_level": found[1].upper() if found else "unknown",
    }


def _parameter_size(parameters: int) -> str:
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= unit:
            return f"{parameters / unit:.1f}{letter}"
    return ""


def show(state: ClusterState, name: str, modified_unix_s: float) -> dict[str, object]:
    """Raises ModelNotFound."""
    if (council := find_council(state, name)) is not None:
        return _shown_council(state, council, modified_unix_s)
    model = find_model(state, name)
    file = files_of(state).get(model.alias_of or model.name)
    shape = None if file is None else shape_of(file)
    architecture = "unknown" if shape is None else shape.architecture
    context_tokens = model.context_tokens or (0 if shape is None else shape.trained_context_tokens)
    info: dict[str, object] = {
        "general.architecture": architecture,
        "general.basename": model.name.rpartition("/")[2].partition(":")[0],
        f"{architecture}.context_length": context_tokens,
    }
    if model.parameters:
        info["general.parameter_count"] = model.parameters
    if shape is not None:
        info[f"{architecture}.embedding_length"] = shape.embedding_length
        info[f"{architecture}.block_count"] = shape.layers
        info[f"{architecture}.attention.head_count"] = shape.heads
        info[f"{architecture}.attention.head_count_kv"] = shape.kv_heads
    return {
        "modelfile": f"# {tagged(model.name)}, served by Chorus\n",
        "parameters": _parameters(context_tokens),
        "template": _TEMPLATE,
        "license": "",
        "details": _details(model, file),
        "model_info": info,
        "capabilities": capabilities(model, file),
        "modified_at": instant(modified_unix_s),
    }


def _shown_council(state: ClusterState, council: CouncilSummary, modified_unix_s: float) -> dict[str, object]:
    context_tokens = council_context_tokens(state)
    return {
        "modelfile": f"# {council.name}: {council.strategy} of {council.members}\n",
        "parameters": _parameters(context_tokens),
        "template": _TEMPLATE,
        "license": "",
        "details": _COUNCIL_DETAILS,
        "model_info": {
            "general.architecture": _COUNCIL,
            "general.basename": council.name.rpartition("/")[2],
            f"{_COUNCIL}.context_length": context_tokens,
        },
        "capabilities": ["completion"],
        "modified_at": instant(modified_unix_s),
    }


def _parameters(context_tokens: int) -> str:
    """A line each, as in a Modelfile."""
    return f"num_ctx                        {context_tokens}" if context_tokens else ""


def capabilities(model: ModelSummary, file: ModelFile | None) -> list[str]:
    if model.embedding:
        return ["embedding"]
    found = ["completion"]
    if file is not None and file.tools:
        found.append("tools")
    if file is not None and file.thinking not in (None, ThinkingStyle.PLAIN):
        found.append("thinking")
    return found


def running(state: ClusterState, now_unix_s: float) -> list[dict[str, object]]:
    """Every loaded model, once for each node that holds it."""
    summaries = {model.name: model for model in state.models}
    files = files_of(state)
    return [
        _running(node, report, summaries.get(report.model), files.get(report.model), now_unix_s)
        for node, report in _ready(state)
    ]


def _ready(state: ClusterState) -> Iterator[tuple[Node, ReplicaReport]]:
    for node in state.nodes:
        for replica in node.replicas:
            if replica.report.state is ReplicaState.READY:
                yield node, replica.report


def _running(
    node: Node, report: ReplicaReport, model: ModelSummary | None, file: ModelFile | None, now_unix_s: float
) -> dict[str, object]:
    name = tagged(report.model)
    size = report.resident_bytes or report.expected_bytes or report.predicted_bytes or 0
    on_card = any(gpu.usable and not gpu.shares_host_memory for gpu in node.hardware.gpus)
    stays_s = _FOR_GOOD_S if report.keep_alive_s is None else report.keep_alive_s
    return {
        "name": name,
        "model": name,
        "size": size,
        "size_vram": size if on_card else 0,
        "digest": "" if model is None else bare_digest(model.digest),
        "details": {} if model is None else _details(model, file),
        "expires_at": instant(now_unix_s + stays_s),
        "context_length": report.context_tokens,
        "x_chorus": {"node_id": node.node_id, "node": node.name},
    }
