"""Messages of engines: each is answered once it is committed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import DBAPIError
from starlette.responses import JSONResponse, Response

from closeloop.api.authentication import require
from closeloop.api.bodies import KIB, json_body
from closeloop.api.door import Door, door_of
from closeloop.api.gate import request_id_of
from closeloop.api.problems import Problem, documented
from closeloop.models.errors import NotAllowed
from closeloop.models.inbox import MOST_ITEMS, Kind, Receipt, ReceiptStatus
from closeloop.models.market_tokens import TokenSpan, TokensReport
from closeloop.models.refusals import describe
from closeloop.models.tokens import Scope, TokenView
from closeloop.services import market_tokens
from closeloop.services.inbox import INTAKES, Answer, Arrived, Sender, TakenIn, Unreadable, book_of, fields_of, take_in
from closeloop.store.errors import LOST_TO_OTHERS_TRIES, is_lost_to_others

router = APIRouter()

LIMIT_BYTES = 1024 * KIB
DISCOVERY_LIMIT_BYTES = 4 * 1024 * KIB
MOST_TOKEN_ROWS = 5_000
SINGLE_PATHS = {
    Kind.discovery_data: "/learning/collect/discovery-data",
    Kind.thesis_decision: "/learning/collect/thesis-decision",
    Kind.trade_outcome: "/learning/collect/trade-outcome",
    Kind.positions: "/v1/positions",
    Kind.forecasts: "/v1/forecasts",
    Kind.signals: "/v1/signals",
    Kind.heartbeats: "/v1/heartbeats",
}
_STATUSES = {
    ReceiptStatus.accepted: 202,
    ReceiptStatus.duplicate: 200,
    ReceiptStatus.conflict: 409,
    ReceiptStatus.refused: 422,
}


class Receipts(BaseModel):
    """The receipts of a batch, in the order of its messages."""

    results: list[Receipt]


Idempotency = Annotated[
    str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200, description="The message's id, if none.")
]


async def collect(request: Request, kind: Kind, idempotency_key: str | None) -> Response:
    """Take in what was sent to the path of a kind: a message, or an array of them."""
    token = require(request, Scope.ingest)
    request.scope["closeloop.kind"] = kind
    limit = DISCOVERY_LIMIT_BYTES if kind is Kind.discovery_data else LIMIT_BYTES
    body = await json_body(request, limit)
    if not isinstance(body, list):
        return await _single(request, token, Arrived(kind, body, idempotency_key))
    if idempotency_key is not None:
        raise Problem(422, "Idempotency-Key names one message: in an array, each has an id of its own.")
    return await _batch(request, token, [Arrived(kind, one) for one in body])


async def collect_batch(request: Request) -> Response:
    """Take in messages of several kinds: ``[{"kind", "id", "message"}]``, the door of an engine's spool."""
    token = require(request, Scope.ingest)
    request.scope["closeloop.kind"] = "batch"
    body = await json_body(request, LIMIT_BYTES)
    if not isinstance(body, list):
        raise Problem(422, 'Send an array of {"kind", "id", "message"}.')
    arrived = []
    for item in body:
        if not isinstance(item, dict):
            arrived.append(Arrived("", item))
            continue
        kind, given = item.get("kind"), item.get("id")
        name = given if isinstance(given, str) and given else None
        arrived.append(Arrived(kind if isinstance(kind, str) else "", item.get("message"), name))
    return await _batch(request, token, arrived)


async def _single(request: Request, token: TokenView, arrived: Arrived) -> Response:
    door = door_of(request)
    door.limiter.items(token.token_id, 1)
    _check_book(token, arrived)
    taken = await _take_in(door, request, token, [arrived])
    [answer] = taken.answers
    for close in taken.closes:
        door.starter.alone(close)
    status = _STATUSES[answer.receipt.status]
    if status >= 400:
        raise Problem(status, answer.receipt.reason or answer.receipt.status, answer.errors)
    return JSONResponse(_plain(answer), status)


async def _batch(request: Request, token: TokenView, arrived: Sequence[Arrived]) -> Response:
    door = door_of(request)
    if len(arrived) > MOST_ITEMS:
        raise Problem(413, f"{len(arrived)} messages are more than {MOST_ITEMS}: send fewer at once.")
    if not arrived:
        raise Problem(422, "The array is empty: there is nothing to take in.")
    door.limiter.items(token.token_id, len(arrived))
    foreign = 0
    for one in arrived:
        try:
            _check_book(token, one)
        except NotAllowed as error:
            foreign += 1
            if foreign == len(arrived):
                raise error from None
    taken = await _take_in(door, request, token, arrived)
    door.starter.together(taken.closes)
    return JSONResponse({"results": [_plain(answer) for answer in taken.answers]}, 202)


def _check_book(token: TokenView, arrived: Arrived) -> None:
    """Refuse a message for a book that the token is not for. Raises NotAllowed."""
    if token.books is None or not isinstance(arrived.body, dict):
        return
    try:
        book = book_of(arrived.body)
    except Unreadable:
        return  # it is refused when it is read
    if book not in token.books:
        raise NotAllowed(f"book: the token {token.name} is not for book {book}: it is for {', '.join(token.books)}.")


async def _take_in(door: Door, request: Request, token: TokenView, arrived: Sequence[Arrived]) -> TakenIn:
    sender = Sender(token, request_id_of(request))
    for attempt in range(LOST_TO_OTHERS_TRIES):
        try:
            async with door.sessions.begin() as session:
                taken = await take_in(session, arrived, sender, datetime.now(UTC), INTAKES)
            break
        except DBAPIError as error:
            if attempt + 1 == LOST_TO_OTHERS_TRIES or not is_lost_to_others(error):
                raise
    counted = Counter((answer.receipt.kind, answer.receipt.status) for answer in taken.answers)
    for (kind, status), number in counted.items():
        door.measures.took_in(kind if kind in INTAKES else "unknown", status, number)
    return taken


def _plain(answer: Answer) -> dict[str, Any]:
    return answer.receipt.model_dump(mode="json", exclude_defaults=True)


def _handler(kind: Kind) -> Any:
    async def handler(request: Request, idempotency_key: Idempotency = None) -> Response:
        return await collect(request, kind, idempotency_key)

    return handler


for _kind in INTAKES:
    router.add_api_route(
        SINGLE_PATHS[Kind(_kind)],
        _handler(Kind(_kind)),
        methods=["POST"],
        status_code=202,
        summary=f"Take in {_kind}: one, or an array of at most {MOST_ITEMS}",
        description=INTAKES[_kind].__doc__ or "",
        operation_id=f"collect-{_kind}",
        response_model=None,
        tags=["messages"],
        responses={
            202: {"model": Receipt | Receipts, "description": "Committed: a receipt, or those of an array"},
            200: {"model": Receipt, "description": "It was on record as sent; nothing changed"},
            **documented(400, 401, 403, 408, 409, 413, 414, 415, 422, 429, 500, 503),
        },
    )


@router.post(
    "/v1/batch",
    status_code=202,
    operation_id="collect-batch",
    response_model=None,
    tags=["messages"],
    responses={
        202: {"model": Receipts, "description": "Receipts, in the order of the messages"},
        **documented(400, 401, 403, 408, 413, 414, 415, 422, 429, 500, 503),
    },
)
async def batch(request: Request) -> Response:
    """Take in messages of several kinds, in order: an array of at most 500 {kind, id, message}."""
    return await collect_batch(request)


@router.post(
    "/v1/market/tokens",
    operation_id="say-market-tokens",
    response_model=TokensReport,
    tags=["messages"],
    responses=documented(400, 401, 403, 408, 413, 414, 415, 422, 429, 500, 503),
)
async def say_market_tokens(request: Request) -> TokensReport:
    """Say which tokens the market's buckets are made of, and since when: a row, or an array of at most 5,000.

    As ``closeloop market tokens import``: a row that is refused stops no other. The buckets are of all books.
    """
    token = require(request, Scope.ingest)
    if token.books is not None:
        raise NotAllowed("The market's buckets are of all books: this takes a token that is not for some of them only.")
    body = await json_body(request, LIMIT_BYTES)
    rows = body if isinstance(body, list) else [body]
    if not 1 <= len(rows) <= MOST_TOKEN_ROWS:
        raise Problem(413 if rows else 422, f"Send from 1 to {MOST_TOKEN_ROWS:,} rows at once.")
    door = door_of(request)
    door.limiter.items(token.token_id, len(rows))
    async with door.sessions.begin() as session:
        report = await market_tokens.record(session, _spans(rows))
    if not isinstance(body, list) and report.rejected:
        reason = report.rejected[0].reason
        raise Problem(422, reason, fields_of(reason))
    return report


def _spans(rows: Sequence[Any]) -> Iterator[tuple[int, TokenSpan | str]]:
    for number, row in enumerate(rows):
        try:
            yield number, TokenSpan.model_validate(row)
        except ValidationError as error:
            yield number, describe(error)
