"""Every route and what it takes and gives. A test walks the routes: none may be missing here, none be left over.

Longer than others, because it is one table, and a reader looks for a route in one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from chorus_http.chats import bodies as chats
from chorus_http.fits import Fits
from chorus_http.joining import JoinAnswer, TokenMade
from chorus_http.model_status import ModelStatus
from chorus_http.openapi import answers
from chorus_http.rag import bodies
from chorus_http.routes.backends import RegisterRequest, UnregisterRequest
from chorus_http.routes.dashboard import SessionAnswer
from chorus_http.routes.execute import ClusterStatus
from chorus_http.routes.fleet import TransferRequest
from chorus_http.routes.join import TokenRequest
from chorus_http.routes.keys import KeyList, KeyMade, KeyRequest, KeyRow
from chorus_http.routes.llama_router import Done, RouterModels, RouterRequest
from chorus_http.routes.model import LoadRequest, ModelList, OrderReply, UnloadRequest
from chorus_http.routes.ollama import ShowRequest
from chorus_http.routes.ollama_models import CopyRequest, NamedRequest, PullRequest
from chorus_http.routes.servers import DefaultRequest, StartRequest, StopAnswer
from chorus_http.servers_door import ServerList, StartAnswer
from chorus_http.tasks import TaskResult
from chorus_proto.dialects import (
    anthropic_request,
    embeddings_request,
    ollama_embed_request,
    ollama_request,
    openai_request,
    query_request,
    responses_request,
)
from chorus_proto.dialects.chorus_fields import ChorusFields
from chorus_proto.dialects.task_request import TaskRequest

JSON = "application/json"
FORM = "multipart/form-data"
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
TEXT = "text/plain"
MARKDOWN = "text/markdown"
PEM = "application/x-pem-file"
HTML = "text/html"
SCRIPT = "text/javascript"
STYLE = "text/css"
SVG = "image/svg+xml"
NOTHING = ""
"""An answer without a body."""

Kind = type[msgspec.Struct]

REQUESTS: Mapping[str, Kind] = {
    "ChatCompletionRequest": openai_request.CHAT_FIELDS,
    "CompletionRequest": openai_request.COMPLETION_FIELDS,
    "MessagesRequest": anthropic_request.MESSAGES_FIELDS,
    "CountRequest": anthropic_request.COUNT_FIELDS,
    "OllamaChatRequest": ollama_request.CHAT_FIELDS,
    "OllamaGenerateRequest": ollama_request.GENERATE_FIELDS,
    "OllamaOptions": ollama_request.OPTIONS_FIELDS,
    "QueryRequest": query_request.QUERY_FIELDS,
    "TaskRequest": TaskRequest,
    "LoadRequest": LoadRequest,
    "UnloadRequest": UnloadRequest,
    "ShowRequest": ShowRequest,
    "PullRequest": PullRequest,
    "NamedRequest": NamedRequest,
    "CopyRequest": CopyRequest,
    "RouterRequest": RouterRequest,
    "ChorusFields": ChorusFields,
    "EmbeddingsRequest": embeddings_request.EMBEDDINGS_FIELDS,
    "RerankRequest": embeddings_request.RERANK_FIELDS,
    "OllamaEmbedRequest": ollama_embed_request.EMBED_FIELDS,
    "OllamaEmbeddingsRequest": ollama_embed_request.EMBEDDINGS_FIELDS,
    "ResponsesRequest": responses_request.RESPONSES_FIELDS,
    "DocumentRequest": bodies.NewText,
    "ChatOption": bodies.ChatOption,
    "FolderRequest": bodies.FolderBody,
    "SearchRequest": bodies.SearchBody,
    "AskRequest": bodies.AskBody,
    "SessionRequest": chats.NewSession,
    "SessionChange": chats.SessionChange,
    "TitleRequest": chats.TitleBody,
    "NamingRequest": chats.NamingBody,
    "HeadRequest": chats.HeadBody,
    "AnswerRequest": chats.AnswerBody,
    "MessageRequest": chats.MessageBody,
    "ImportRequest": chats.ImportBody,
    "RegisterRequest": RegisterRequest,
    "UnregisterRequest": UnregisterRequest,
    "TransferRequest": TransferRequest,
    "KeyRequest": KeyRequest,
    "TokenRequest": TokenRequest,
    "StartRequest": StartRequest,
    "DefaultRequest": DefaultRequest,
}
"""What checks a request, by its name in the document. Fields beyond these are refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One operation. `answer` is the JSON of a 2xx (several: one of them), `also` the other types that may come."""

    summary: str
    tag: str
    request: tuple[str, ...] = ()
    """Names in `REQUESTS`, of which the body is one."""
    form: Kind | None = None
    """The fields of a form that may come instead, with files beside them."""
    body_optional: bool = False
    answer: tuple[Kind, ...] = ()
    status: int = 200
    also: tuple[str, ...] = ()
    query: tuple[tuple[str, str], ...] = ()
    """Name and JSON type of each query parameter; none is required."""
    refused: Kind = answers.OpenAIError
    errors: tuple[int, ...] = ()
    """Statuses beside those that any route may have."""


def _openai(summary: str, request: str | None = None, *answer: Kind, also: tuple[str, ...] = ()) -> Told:
    return Told(summary=summary, tag="OpenAI", request=(request,) if request else (), answer=answer, also=also)


def _ollama(summary: str, request: str | None = None, *answer: Kind, also: tuple[str, ...] = ()) -> Told:
    return Told(
        summary=summary,
        tag="Ollama",
        request=(request,) if request else (),
        answer=answer,
        also=also,
        refused=answers.OllamaError,
    )


def _anthropic(summary: str, request: str, *answer: Kind, also: tuple[str, ...] = ()) -> Told:
    return Told(
        summary=summary,
        tag="Anthropic",
        request=(request,) if request else (),
        answer=answer,
        also=also,
        refused=answers.AnthropicError,
    )


def _documents(
    summary: str, request: str | None = None, *answer: Kind, status: int = 200, errors: tuple[int, ...] = ()
) -> Told:
    also = (NOTHING,) if status == 204 else (EVENTS,) if request == "AskRequest" else ()
    taken = (request,) if request else ()
    form = bodies.UploadForm if request == "DocumentRequest" else None
    return Told(
        summary=summary,
        tag="Documents",
        request=taken,
        form=form,
        answer=answer,
        status=status,
        also=also,
        errors=errors,
    )


def _chat(
    summary: str,
    request: str | None = None,
    *answer: Kind,
    status: int = 200,
    also: tuple[str, ...] = (),
    query: tuple[tuple[str, str], ...] = (),
    body_optional: bool = False,
) -> Told:
    return Told(
        summary=summary,
        tag="Chat sessions",
        request=(request,) if request else (),
        answer=answer,
        status=status,
        also=also,
        query=query,
        body_optional=body_optional,
        errors=(409, 507),
    )


OPERATIONS: Mapping[str, Told] = {
    "GET /": Told(
        summary="What this is, and its routes; for a browser the web page",
        tag="Cluster",
        answer=(answers.Description,),
        also=(TEXT, HTML),
    ),
    "GET /ui/<build>/<path:name>": Told(
        summary="A file of the web page", tag="Web page", also=(SCRIPT, STYLE, SVG, TEXT)
    ),
    "GET /session": Told(summary="Who this browser is to the server", tag="Web page", answer=(SessionAnswer,)),
    "POST /session": Told(
        summary="Begin a session of a browser with the key in the Authorization header",
        tag="Web page",
        answer=(SessionAnswer,),
    ),
    "DELETE /session": Told(summary="End it", tag="Web page", status=204, also=(NOTHING,)),
    "GET /health": Told(summary="Is this process alive", tag="Cluster", answer=(answers.HealthAnswer,)),
    "GET /readyz": Told(
        summary="Can a model answer; 503 with the reason when none can",
        tag="Cluster",
        answer=(answers.Readiness,),
    ),
    "GET /join/ca": Told(
        summary="The certificate of the hub's authority; 404 when it is not encrypted", tag="Cluster", also=(PEM,)
    ),
    "GET /status": Told(summary="Every PC with its score and models", tag="Cluster", answer=(answers.StatusAnswer,)),
    "GET /metrics": Told(summary="Prometheus metrics", tag="Cluster", also=(TEXT,)),
    "POST /reassign": Told(summary="Place the models anew", tag="Cluster", answer=(answers.Reassigned,)),
    "POST /query": Told(
        summary="Ask several PCs at once",
        tag="Cluster",
        request=("QueryRequest",),
        answer=(answers.QueryAnswer,),
        also=(EVENTS,),
    ),
    "POST /v1/execute": Told(
        summary="Run one task, on the largest loaded model when none is named",
        tag="Cluster",
        request=("TaskRequest",),
        answer=(TaskResult,),
        also=(EVENTS,),
    ),
    "GET /v1/status": Told(
        summary="Health, model states, queue depths and metrics", tag="Cluster", answer=(ClusterStatus,)
    ),
    "GET /queue/status": Told(summary="Who waits and who runs", tag="Cluster", answer=(answers.Queue,)),
    "GET /events": Told(summary="What happens, as it happens; see docs/live.md", tag="Cluster", also=(EVENTS,)),
    "POST /route/explain": Told(
        summary="Where this request would go, and why",
        tag="Cluster",
        request=("ChatCompletionRequest", "CompletionRequest"),
        answer=(answers.Explained,),
    ),
    "GET /backends": Told(summary="Servers without an agent", tag="Cluster", answer=(answers.Backends,)),
    "POST /backends/register": Told(
        summary="Take a server that speaks OpenAI's API as a node",
        tag="Cluster",
        request=("RegisterRequest",),
        answer=(answers.BackendChanged,),
    ),
    "POST /backends/unregister": Told(
        summary="Forget such a server", tag="Cluster", request=("UnregisterRequest",), answer=(answers.BackendChanged,)
    ),
    "GET /openapi.json": Told(summary="This document", tag="Cluster", also=(JSON,)),
    "GET /docs": Told(summary="This document, for people", tag="Cluster", also=(HTML,)),
    "POST /v1/chat/completions": _openai("Chat", "ChatCompletionRequest", answers.ChatCompletion, also=(EVENTS,)),
    "POST /v1/completions": _openai("Complete a text", "CompletionRequest", answers.Completion, also=(EVENTS,)),
    "POST /v1/embeddings": _openai("Texts as vectors", "EmbeddingsRequest", answers.Embeddings),
    "POST /v1/rerank": _openai("Documents by their nearness to a query", "RerankRequest", answers.Ranked),
    "POST /v1/responses": _openai("Responses", "ResponsesRequest", answers.OpenAIResponse, also=(EVENTS,)),
    "GET /v1/responses/<response_id>": _openai("A kept response", None, answers.OpenAIResponse, also=(EVENTS,)),
    "DELETE /v1/responses/<response_id>": _openai("Forget a response", None, answers.ResponseDeleted),
    "POST /v1/responses/<response_id>/cancel": _openai("End a response", None, answers.OpenAIResponse),
    "GET /v1/models": _openai("Models that can answer now", None, answers.OpenAIModels),
    "GET /v1/models/<path:name>": _openai("One model", None, answers.OpenAIModel),
    "POST /rag/documents": _documents(
        "Add a document; several at once as files of a form",
        "DocumentRequest",
        bodies.AddedReply,
        bodies.IngestReply,
        errors=(202, 409, 415, 422, 507),
    ),
    "GET /rag/documents": Told(
        summary="Documents, page by page",
        tag="Documents",
        answer=(bodies.DocumentsReply,),
        query=(("collection", "string"), ("limit", "integer"), ("after", "string")),
    ),
    "GET /rag/documents/<document_id>": _documents("One document", None, bodies.DocumentReply),
    "DELETE /rag/documents/<document_id>": _documents("Delete a document", status=204),
    "POST /rag/folders": _documents(
        "Take in a folder of the server's PC", "FolderRequest", bodies.IngestReply, errors=(202,)
    ),
    "GET /rag/collections": _documents("Collections", None, bodies.CollectionsReply),
    "DELETE /rag/collections/<name>": _documents("Delete a collection", status=204),
    "GET /rag/ingests": _documents("What comes in, and what came in lately", None, bodies.IngestsReply),
    "GET /rag/ingests/<ingest_id>": _documents("How far an ingest is", None, bodies.IngestReply),
    "GET /rag/ingests/<ingest_id>/events": Told(
        summary="An ingest's progress until its end, as events", tag="Documents", also=(EVENTS,)
    ),
    "DELETE /rag/ingests/<ingest_id>": _documents("End an ingest", None, bodies.IngestReply),
    "POST /rag/search": _documents("Passages by words and meaning", "SearchRequest", bodies.SearchReply, errors=(409,)),
    "POST /rag/ask": _documents("An answer with citations", "AskRequest", bodies.AskReply, errors=(409,)),
    "GET /chat/sessions": _chat(
        "One's sessions, last changed first",
        None,
        chats.SessionsReply,
        query=(("limit", "integer"), ("offset", "integer")),
    ),
    "POST /chat/sessions": _chat(
        "Begin a session", "SessionRequest", chats.WholeSessionReply, status=201, body_optional=True
    ),
    "POST /chat/sessions/import": _chat(
        "Take in an exported session", "ImportRequest", chats.WholeSessionReply, status=201
    ),
    "GET /chat/search": _chat(
        "Find titles and messages by words", None, chats.FoundReply, query=(("q", "string"), ("limit", "integer"))
    ),
    "GET /chat/events": _chat("Which of one's sessions change, as they do", also=(EVENTS,)),
    "GET /chat/sessions/<session_id>": _chat(
        "A session and its messages", None, chats.RunningSessionReply, query=(("branches", "boolean"),)
    ),
    "PATCH /chat/sessions/<session_id>": _chat(
        "Change title, model or system prompt", "SessionChange", chats.SessionReply, body_optional=True
    ),
    "DELETE /chat/sessions/<session_id>": _chat("Delete a session", None, chats.SessionDeleted),
    "PUT /chat/sessions/<session_id>/title": _chat("Name a session", "TitleRequest", chats.SessionReply),
    "POST /chat/sessions/<session_id>/title": _chat(
        "Have a model name a session", "NamingRequest", chats.SessionReply, body_optional=True
    ),
    "PUT /chat/sessions/<session_id>/head": _chat(
        "Show the branch of a message", "HeadRequest", chats.WholeSessionReply
    ),
    "POST /chat/sessions/<session_id>/messages": _chat(
        "Say something", "MessageRequest", chats.SaidReply, also=(EVENTS,)
    ),
    "POST /chat/sessions/<session_id>/messages/<message_id>/regenerate": _chat(
        "Answer anew, beside the answers that there are",
        "AnswerRequest",
        chats.SaidReply,
        also=(EVENTS,),
        body_optional=True,
    ),
    "POST /chat/sessions/<session_id>/stop": _chat("End the answer that is being made", None, chats.StoppedReply),
    "GET /chat/sessions/<session_id>/events": _chat("What happens in a session, as it does", also=(EVENTS,)),
    "GET /chat/sessions/<session_id>/export": _chat(
        "The session as a document", None, chats.ExportReply, also=(MARKDOWN,), query=(("format", "string"),)
    ),
    "POST /v1/messages": _anthropic("Messages", "MessagesRequest", answers.AnthropicMessage, also=(EVENTS,)),
    "POST /v1/messages/count_tokens": _anthropic("Count a prompt's tokens", "CountRequest", answers.AnthropicCount),
    "POST /api/chat": _ollama("Chat", "OllamaChatRequest", answers.OllamaChat, also=(LINES,)),
    "POST /api/generate": _ollama(
        "Answer a prompt; without one, load or free the model",
        "OllamaGenerateRequest",
        answers.OllamaGenerated,
        also=(LINES,),
    ),
    "POST /api/show": _ollama("What a model is", "ShowRequest", answers.OllamaShown),
    "GET /api/tags": _ollama("Every model", None, answers.OllamaTags),
    "GET /api/ps": _ollama("Loaded models", None, answers.OllamaPs),
    "GET /api/version": _ollama("The version of Ollama's API", None, answers.OllamaVersion),
    "POST /api/embed": _ollama("Texts as vectors", "OllamaEmbedRequest", answers.OllamaEmbedded),
    "POST /api/embeddings": _ollama("One text as a vector", "OllamaEmbeddingsRequest", answers.OllamaVector),
    "POST /api/pull": _ollama("Bring a model onto a PC", "PullRequest", answers.OllamaPulled, also=(LINES,)),
    "DELETE /api/delete": _ollama("Delete a model that came by a pull or copy", "NamedRequest", also=(NOTHING,)),
    "POST /api/copy": _ollama("Give a model a further name", "CopyRequest", also=(NOTHING,)),
    "POST /api/create": _ollama("Refused: models are made elsewhere"),
    "POST /api/push": _ollama("Refused: no model leaves the cluster"),
    "GET /api/blobs/<digest>": _ollama("Always 404: blobs are not kept"),
    "POST /api/blobs/<digest>": _ollama("Always 404: blobs are not taken"),
    "POST /api/model/load": Told(
        summary="Begin to load a model; answers at once",
        tag="Models",
        request=("LoadRequest",),
        answer=(OrderReply,),
        status=202,
        also=(EVENTS,),
        refused=answers.OllamaError,
    ),
    "GET /api/model/status": Told(
        summary="How far a model is, or all of them",
        tag="Models",
        answer=(ModelStatus, ModelList),
        also=(EVENTS,),
        query=(("model", "string"), ("stream", "boolean")),
        refused=answers.OllamaError,
    ),
    "POST /api/model/generate": Told(
        summary="A text by a model, the largest loaded one when none is named",
        tag="Models",
        request=("TaskRequest",),
        answer=(TaskResult,),
        also=(EVENTS,),
        refused=answers.OllamaError,
    ),
    "POST /api/model/unload": Told(
        summary="Begin to free a model",
        tag="Models",
        request=("UnloadRequest",),
        body_optional=True,
        answer=(OrderReply,),
        status=202,
        refused=answers.OllamaError,
    ),
    "GET /models/fit": Told(
        summary="The memory of every model, and on which PCs it fits",
        tag="Models",
        answer=(Fits,),
        query=(("context_tokens", "integer"), ("slots", "integer")),
    ),
    "GET /transfers": Told(summary="Models on their way to PCs", tag="Models", answer=(answers.Transfers,)),
    "POST /transfers": Told(
        summary="Begin to bring a model onto a PC's disk, from another PC or from the network",
        tag="Models",
        request=("TransferRequest",),
        answer=(answers.TransferShown,),
        status=202,
    ),
    "DELETE /transfers/<transfer_id>": Told(
        summary="Stop one; what came stays for another try", tag="Models", answer=(answers.TransferShown,)
    ),
    "POST /nodes/<node>/wake": Told(
        summary="Send a sleeping PC a wake-on-LAN packet", tag="Cluster", answer=(answers.WakeSent,)
    ),
    "GET /join": Told(summary="How another PC joins", tag="Cluster", answer=(JoinAnswer,)),
    "POST /join/tokens": Told(
        summary="Make a token that admits PCs; its text is told this once",
        tag="Cluster",
        request=("TokenRequest",),
        answer=(TokenMade,),
        status=201,
    ),
    "GET /keys": Told(summary="Every API key, without its secret", tag="Keys", answer=(KeyList,)),
    "POST /keys": Told(
        summary="Make an API key; its secret is told this once",
        tag="Keys",
        request=("KeyRequest",),
        answer=(KeyMade,),
        status=201,
    ),
    "DELETE /keys/<key>": Told(
        summary="Revoke a key, by id or name, and end what runs for it", tag="Keys", answer=(KeyRow,)
    ),
    "GET /servers": Told(summary="The local servers of the hub's PC", tag="Servers", answer=(ServerList,)),
    "POST /servers/<name>/start": Told(
        summary="Start one; without `force` not where somebody should decide first",
        tag="Servers",
        request=("StartRequest",),
        body_optional=True,
        answer=(StartAnswer,),
    ),
    "POST /servers/<name>/stop": Told(summary="Stop one that Chorus started", tag="Servers", answer=(StopAnswer,)),
    "PUT /servers/default": Told(
        summary="Make one the default", tag="Servers", request=("DefaultRequest",), answer=(ServerList,)
    ),
    "GET /models": Told(summary="Every model and whether it is loaded", tag="llama.cpp", answer=(RouterModels,)),
    "POST /models": Told(
        summary="Begin to bring a model onto a PC", tag="llama.cpp", request=("RouterRequest",), answer=(Done,)
    ),
    "DELETE /models": Told(
        summary="Delete a model that came by a pull or copy",
        tag="llama.cpp",
        answer=(Done,),
        query=(("model", "string"),),
    ),
    "POST /models/load": Told(
        summary="Begin to load a model", tag="llama.cpp", request=("RouterRequest",), answer=(Done,)
    ),
    "POST /models/unload": Told(
        summary="Begin to free a model", tag="llama.cpp", request=("RouterRequest",), answer=(Done,)
    ),
    "GET /models/sse": Told(summary="What changes, as it does", tag="llama.cpp", also=(EVENTS,)),
    "GET /props": Told(summary="That this is a router", tag="llama.cpp", answer=(answers.RouterProps,)),
}
"""`METHOD rule`, as in `rights.py`. HEAD goes with GET."""
