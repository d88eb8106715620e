"""The OpenAPI document's part that handlers do not tell by themselves: what is sent, and how one is let in."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from closeloop.api.approvals import DecisionNote
from closeloop.api.messages import MOST_TOKEN_ROWS, SINGLE_PATHS
from closeloop.models.decisions import DecisionMessage, DiscoveryMessage, TradeChangeMessage
from closeloop.models.forecasts import Forecast
from closeloop.models.inbox import MOST_ITEMS, Kind, ProducerSignal
from closeloop.models.market_levers import LeversRequest
from closeloop.models.market_tokens import TokenSpan
from closeloop.models.overrides import OverrideMatchRequest
from closeloop.models.positions import ClosedPosition
from closeloop.models.producers import Heartbeat

MESSAGES: dict[Kind, type[BaseModel]] = {
    Kind.positions: ClosedPosition,
    Kind.forecasts: Forecast,
    Kind.heartbeats: Heartbeat,
    Kind.signals: ProducerSignal,
    Kind.thesis_decision: DecisionMessage,
    Kind.discovery_data: DiscoveryMessage,
    Kind.trade_outcome: TradeChangeMessage,
}
QUESTIONS: dict[str, type[BaseModel]] = {
    "/v1/levers": LeversRequest,
    "/v1/overrides:match": OverrideMatchRequest,
    **{f"/v1/approvals/{{kind}}/{{book}}/{{id}}:{v}": DecisionNote for v in ("approve", "reject", "revert")},
}
_PREFIX = "#/components/schemas/"


def with_messages(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the bodies of requests and the bearer token."""
    models: list[type[BaseModel]] = list(dict.fromkeys((*MESSAGES.values(), *QUESTIONS.values(), TokenSpan)))
    names, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=_PREFIX + "{model}"
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(definitions.get("$defs", {}))
    references = {model: names[model, "validation"] for model in models}
    for kind, path in SINGLE_PATHS.items():
        if path in document["paths"] and kind in MESSAGES:
            one = references[MESSAGES[kind]]
            many = {"type": "array", "items": one, "minItems": 1, "maxItems": MOST_ITEMS}
            _asks(document, path, {"anyOf": [one, many]})
    for path, model in QUESTIONS.items():
        _asks(document, path, references[model])
    item = {
        "type": "object",
        "required": ["kind", "message"],
        "properties": {
            "kind": {"enum": [kind.value for kind in MESSAGES]},
            "id": {"type": "string", "minLength": 1, "maxLength": 200},
            "message": {"type": "object"},
        },
    }
    row = references[TokenSpan]
    rows = {"type": "array", "items": row, "minItems": 1, "maxItems": MOST_TOKEN_ROWS}
    _asks(document, "/v1/market/tokens", {"anyOf": [row, rows]})
    _asks(document, "/v1/batch", {"type": "array", "items": item, "minItems": 1, "maxItems": MOST_ITEMS})
    document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"token": []}]
    return document


def _asks(document: dict[str, Any], path: str, schema: dict[str, Any]) -> None:
    document["paths"][path]["post"]["requestBody"] = {
        "required": True,
        "content": {"application/json": {"schema": schema}},
    }
