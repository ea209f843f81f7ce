"""What the console writes: pure functions from values to lines. Words of other PCs cannot drive the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from chorus_proto.cluster import AskFinished, MemberAnswer
from chorus_proto.logs import escaped
from chorus_proto.values import ClusterState, ModelSummary, Node, Reassignment

NO_NODES = "No node is connected. Start one on each PC with: chorus agent --join HOST:PORT"
NO_MODELS = "No node has a model. Start an agent with --models-dirs FOLDER, where your .gguf files lie."

HELP = """\
Any line is a question to all nodes, unless it is one of:
  nodes              the PCs: state, score, model, load
  stats              requests and tokens of the whole cluster
  models             which model lies and runs where
  reassign           decide anew which node holds which model
  ask NODE PROMPT    ask one node; several: ask NODE NODE ... -- PROMPT
  ask all PROMPT     ask all nodes a question that looks like a command
  strategy [NAME]    how several answers become one: first, concat, longest, vote
  help               this
  quit               leave (also: exit, or the end of the input)
Ctrl-C cancels the running question; pressed again, it leaves."""


def printable(text: str) -> str:
    """`text` with its lines kept and every other control character escaped."""
    return "\n".join(escaped(line) for line in text.expandtabs(4).replace("\r\n", "\n").split("\n"))


def registered_lines(node: Node, total_clients: int, *, encoding: str = "utf-8") -> list[str]:
    """What the coordinator's terminal says when a node joins; plain ASCII where `encoding` has no check mark."""
    mark = "✅ "
    try:
        mark.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        mark = "[OK] "
    return [
        escaped(f"{mark}Client registered: {node.client_id}"),
        f"   Performance Score: {node.score.score:.1f}",
        escaped(f"   Assigned Model: {node.assigned_model or 'none'}"),
        f"   Total Clients: {total_clients}",
    ]


def node_lines(state: ClusterState) -> list[str]:
    if not state.nodes:
        return [NO_NODES]
    rows = [_node_row(node) for node in state.nodes]
    courtesies = [escaped(f"{node.name}: {node.courtesy.words}") for node in state.nodes if node.courtesy.words]
    headings = ("NODE", "STATE", "SCORE", "MODEL", "REPLICA", "BUSY", "TOK/S", "MEMORY FREE", "ADDRESS")
    return table(headings, rows) + courtesies


def _node_row(node: Node) -> tuple[str, ...]:
    replica = next((one for one in node.replicas if one.report.model == node.assigned_model), None)
    return (
        node.name,
        node.state,
        f"{node.score.score:.1f}",
        node.assigned_model or "-",
        replica.report.state if replica else "-",
        f"{replica.slots_busy}/{replica.report.slots}" if replica else "-",
        f"{replica.decode_tokens_per_s:.1f}" if replica and replica.decode_tokens_per_s else "-",
        size(node.ram_available_bytes),
        node.address,
    )


def model_lines(state: ClusterState) -> list[str]:
    if not state.models:
        return [NO_MODELS if state.nodes else NO_NODES]
    names = {node.node_id: node.name for node in state.nodes}

    def row(model: ModelSummary) -> tuple[str, ...]:
        ready = ", ".join(names.get(node_id, node_id) for node_id in model.ready_on)
        on_disk = ", ".join(names.get(node_id, node_id) for node_id in model.on_disk_at)
        kind = "embedding" if model.embedding else (model.tier or "-")
        return (model.name, kind, size(model.file_bytes), ready or "-", on_disk or "-")

    return table(("MODEL", "TIER", "SIZE", "READY ON", "ON DISK AT"), [row(model) for model in state.models])


def stats_lines(state: ClusterState) -> list[str]:
    alive = sum(node.state == "alive" for node in state.nodes)
    rows = [
        ("version", state.version),
        ("running for", f"{state.uptime_s:.0f} s"),
        ("nodes", f"{alive} alive of {len(state.nodes)}"),
        ("models ready", str(sum(bool(model.ready_on) for model in state.models))),
        ("requests running", str(state.running)),
        ("requests waiting", str(state.waiting)),
        ("finished", str(state.finished_total)),
        ("failed", str(state.failed_total)),
        ("cancelled", str(state.cancelled_total)),
        ("tokens written", str(sum(node.tokens_total for node in state.nodes))),
        ("routing", state.routing_strategy),
    ]
    return [*(f"{name:<17} {value}" for name, value in rows), *(["draining"] if state.draining else [])]


def reassignment_lines(reassignment: Reassignment) -> list[str]:
    if not reassignment.assignments:
        return [NO_NODES]
    lines: list[str] = []
    for one in reassignment.assignments:
        change = one.model or "no model"
        if one.previous_model != one.model:
            change = f"{one.previous_model or 'no model'} -> {change}"
        lines.append(escaped(f"{one.node_name}: {change}" + (f" ({one.reason})" if one.reason else "")))
    return lines


def member_line(answer: MemberAnswer) -> str:
    """One line as soon as a member is done."""
    who = f"{answer.node_name} ({answer.model})"
    if answer.error is not None:
        return escaped(f"{who} gave no answer: {answer.error.message}")
    return escaped(f"{who} is done: {_figures(answer)}")


def answer_heading(answer: MemberAnswer) -> str:
    return escaped(f"{answer.node_name}, {answer.model}, {_figures(answer)}")


def _figures(answer: MemberAnswer) -> str:
    speed = f", {answer.tokens_per_s:.1f} tokens/s" if answer.tokens_per_s else ""
    cut = ", cut at its token limit" if answer.finish_reason == "length" else ""
    return f"{answer.seconds:.1f} s, {answer.usage.completion_tokens} tokens{speed}{cut}"


def aggregate_heading(finished: AskFinished) -> str:
    answered = sum(member.error is None for member in finished.members)
    agreeing = round(finished.agreement * answered)
    return f"{finished.strategy}: {agreeing} of {answered} agree ({finished.agreement:.0%}), {finished.seconds:.1f} s"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns; nothing is cut, because a script may read them."""
    clean = [tuple(headings), *(tuple(escaped(str(cell)) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in clean) for column in range(len(headings))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in clean]


def size(count_bytes: int | None) -> str:
    """In powers of 1024, `-` when unknown."""
    if count_bytes is None:
        return "-"
    return f"{count_bytes / 2**30:.1f} GiB" if count_bytes >= 2**30 else f"{count_bytes / 2**20:.0f} MiB"
