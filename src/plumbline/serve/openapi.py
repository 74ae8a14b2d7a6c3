"""The document of our API, `/openapi.json`, made of the models that read a request and of the shapes of `shapes.py`.

OpenAPI 3.2, since no earlier version can say what the events of a stream hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from plumbline import __version__
from plumbline.serve import shapes
from plumbline.serve.feedback import Said
from plumbline.serve.label import Claiming, Ranked, Skipped
from plumbline.serve.requests import Chat, Completions, Embeddings

WHERE = "#/components/schemas/{model}"
REFUSALS = {
    400: "The body or a field of it cannot be followed; `param` names the field.",
    401: "The key is missing, unknown, revoked or too old.",
    403: "This key may not do this, or another site's page or another host's name asks.",
    404: "What is named is not here.",
    408: "The body did not come in time.",
    409: "There is no answer to speak of, or it was not kept.",
    413: "The body or the prompt is too long.",
    429: "More than the key's share, or too many wait already.",
    500: "A mistake of ours; the server's log has it under `X-Request-Id`.",
    502: "The endpoint behind the model failed.",
    503: "It cannot be done at the moment: a rail, the disk, the engine or a place is missing.",
    504: "The answer took too long.",
}
ANY = (401, 403, 429, 500)
BODY = (400, 404, 408, 413, *ANY, 503)
ASKED = (*BODY, 502, 504)
WAITS = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}}}
NAMED = {
    "X-Request-Id": {"description": "The request in the server's log.", "required": True, "schema": {"type": "string"}}
}


@dataclass(frozen=True)
class Operation:
    """What can be done at an address."""

    name: str
    path: str
    summary: str
    gives: type[BaseModel]
    refuses: tuple[int, ...]
    takes: type[BaseModel] | None = None
    streams: type[BaseModel] | None = None
    """An event, where the answer may be a stream."""
    scope: str = "chat"

    @property
    def method(self) -> str:
        return "get" if self.takes is None else "post"


OPERATIONS = (
    Operation(
        "chat", "/v1/chat/completions", "Answer a conversation", shapes.ChatCompletion, ASKED, Chat, shapes.ChatChunk
    ),
    Operation(
        "completions",
        "/v1/completions",
        "Go on with a text",
        shapes.TextCompletion,
        ASKED,
        Completions,
        shapes.TextChunk,
    ),
    Operation("embeddings", "/v1/embeddings", "Give vectors of texts", shapes.EmbeddingList, ASKED, Embeddings),
    Operation(
        "feedback",
        "/v1/feedback",
        "Say what one thinks of an answer",
        shapes.Stored,
        (*BODY, 409),
        Said,
        scope="feedback",
    ),
    Operation("claim", "/v1/label/claim", "Get a set to rank", shapes.Claim, BODY, Claiming, scope="label"),
    Operation("rank", "/v1/label/rank", "Rank a set", shapes.Ranking, BODY, Ranked, scope="label"),
    Operation("skip", "/v1/label/skip", "Give a set back", shapes.Skip, BODY, Skipped, scope="label"),
    Operation("models", "/v1/models", "List what is served", shapes.ModelList, ANY),
    Operation("model", "/v1/models/{model}", "Look at one model", shapes.Model, (404, *ANY)),
)


@cache
def document(*, keys: bool) -> dict[str, Any]:
    """The whole of it, for a server that asks for keys or does not."""
    paths: dict[str, dict[str, Any]] = {}
    for each in OPERATIONS:
        paths.setdefault(each.path, {})[each.method] = described(each, keys=keys)
    return {
        "openapi": "3.2.0",
        "info": {
            "title": "Plumbline",
            "version": __version__,
            "description": "OpenAI's API over a model of this project, and feedback on what it answered.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}] if keys else [],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "`plumb keys add NAME`"}},
        },
    }


def described(operation: Operation, *, keys: bool) -> dict[str, Any]:
    """One operation. Without keys nothing is refused for the want of one."""
    refused = [status for status in sorted(operation.refuses) if keys or status != 401]
    answered: dict[str, Any] = {"application/json": {"schema": reference(operation.gives)}}
    if operation.streams is not None:
        answered["text/event-stream"] = {"itemSchema": event(operation.streams)}
    told: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        **({"description": f"A key needs the scope `{operation.scope}`."} if keys else {}),
        "responses": {
            "200": {"description": "It is done.", "headers": NAMED, "content": answered},
            **{str(status): refusal(status) for status in refused},
        },
    }
    if operation.takes is not None:
        content = {"application/json": {"schema": reference(operation.takes)}}
        told["requestBody"] = {"required": True, "content": content}
    if "{model}" in operation.path:
        told["parameters"] = [
            {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        ]
    return told


def refusal(status: int) -> dict[str, Any]:
    headers = NAMED | (WAITS if status in (429, 503) else {})
    content = {"application/json": {"schema": reference(shapes.Error)}}
    return {"description": REFUSALS[status], "headers": headers, "content": content}


def event(shape: type[BaseModel]) -> dict[str, Any]:
    """An event of a stream: a piece, an error that breaks the answer off, or the word that all is said."""
    piece = {"anyOf": [reference(shape), reference(shapes.Error)]}
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": piece}
    return {
        "type": "object",
        "properties": {"data": {"anyOf": [data, {"const": "[DONE]"}]}},
        "required": ["data"],
    }


def reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": WHERE.format(model=model.__name__)}


def schemas() -> dict[str, Any]:
    """Every model that an operation takes or gives, and what those are made of."""
    taken = [each.takes for each in OPERATIONS if each.takes is not None]
    given = [model for each in OPERATIONS for model in (each.gives, each.streams) if model is not None]
    models = [(model, "validation") for model in (*taken, *given, shapes.Error)]
    found: dict[str, Any] = models_json_schema(models, ref_template=WHERE)[1]["$defs"]  # type: ignore[arg-type]
    return found
