"""What is on record, as the commands of the same names print it with ``--json``; every list is bounded."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic_core import to_json
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from closeloop.api.authentication import books_of, require
from closeloop.api.bodies import KIB, json_body
from closeloop.api.door import Door, door_of
from closeloop.api.problems import Documented, documented
from closeloop.models.errors import NotOnRecord
from closeloop.models.market import Driver, Timeframe
from closeloop.models.market_levers import LeversRequest
from closeloop.models.overrides import OverrideMatchRequest
from closeloop.models.tokens import Scope
from closeloop.models.values import BOOK_PATTERN, Utc
from closeloop.services import (
    approvals,
    books,
    coefficients,
    decisions,
    events,
    forecasts,
    given_levers,
    karma,
    lessons,
    market_contexts,
    market_levers,
    market_states,
    market_tokens,
    meta,
    outcome_corrections,
    outcomes,
    overrides,
    positions,
    prices,
    producers,
    research,
    storage,
    weights,
)

router = APIRouter(tags=["reads"])

MOST_LISTED = 1_000
LISTED = 500
LARGEST_QUESTION = 64 * KIB
_ARRAY = {"application/json": {"schema": {"type": "array"}}}
_READ = documented(401, 403, 404, 414, 422, 429, 500, 503)
_LIST: Documented = _READ | {200: {"description": "The list", "content": _ARRAY}}

BookQuery = Annotated[
    str | None, Query(pattern=f"^{BOOK_PATTERN.pattern}$", description="Only this book. Default: all of the token's.")
]
OneBook = Annotated[str, Query(pattern=f"^{BOOK_PATTERN.pattern}$", description="The book.")]
Limit = Annotated[int, Query(ge=1, le=MOST_LISTED, description="At most the newest so many, of each book.")]
Before = Annotated[str | None, Query(max_length=500, description="Only what comes before this id: pages backwards.")]
Name = Annotated[str, Query(min_length=1, max_length=200)]
AsOf = Annotated[Utc | None, Query(description="As of this instant. Default: now.")]


def plain(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A value as the JSON that the commands print: money as strings, instants in UTC."""
    body = to_json(value, inf_nan_mode="null")
    return Response(body, status, headers, media_type="application/json")


def reading(request: Request, book: str | None = None) -> Door:
    """The door, for a read that is allowed and counted. Raises NotAllowed, Problem."""
    token = require(request, Scope.read, book)
    door = door_of(request)
    door.limiter.read(token.token_id)
    return door


@dataclass(frozen=True)
class Page:
    """What of a list is asked for."""

    door: Door
    session: AsyncSession
    book: str | None
    last: int
    before: str | None


Load = Callable[[Page], Awaitable[list[Any]] | AsyncIterator[Any]]


async def listed(request: Request, load: Load, book: str | None, limit: int, before: str | None) -> Response:
    """A list of the books that the token is for. Of a token's own books one that has nothing yet is empty."""
    asked = books_of(request, book)
    door = reading(request)
    found: list[Any] = []
    async with door.session() as session:
        for one in asked:
            rows = load(Page(door, session, one, limit, before))
            try:
                found += [row async for row in rows] if isinstance(rows, AsyncIterator) else await rows
            except NotOnRecord:
                if book is not None or one is None or before is not None:
                    raise
    return plain(found)


def _now() -> datetime:
    return datetime.now(UTC)


# What each list is: its path, and how it is loaded. All of them take book, limit and before.
LISTS: dict[str, tuple[str, Load]] = {
    "outcomes": (
        "Outcomes of closed positions, oldest first",
        lambda p: outcomes.listing(p.session, p.book, last=p.last, before=p.before),
    ),
    "karma": (
        "Trust in producers, the most trusted first",
        lambda p: karma.listing(p.session, p.book, last=p.last, before=p.before),
    ),
    "producers": (
        "What producers are worth by their forecasts",
        lambda p: producers.listing(p.session, p.door.policy, _now(), p.book, last=p.last, before=p.before),
    ),
    "producers/agreement": (
        "How often producers agree",
        lambda p: producers.agreement(p.session, p.book, last=p.last, before=p.before),
    ),
    "forecasts": (
        "Forecasts with their state",
        lambda p: forecasts.listing(p.session, p.book, last=p.last, before=p.before),
    ),
    "forecasts/outcomes": (
        "How forecasts turned out",
        lambda p: forecasts.outcomes(p.session, p.book, last=p.last, before=p.before),
    ),
    "decisions": (
        "Decisions, and what became of the market after them",
        lambda p: decisions.listing(p.session, p.book, last=p.last, before=p.before),
    ),
    "lessons": (
        "Lessons: in which circumstances trades went better or worse",
        lambda p: lessons.listing(p.session, p.book, last=p.last, before=p.before),
    ),
    "overrides": (
        "Overrides in force, and those that wait",
        lambda p: overrides.listing(p.session, p.book, last=p.last, before=p.before),
    ),
    "coefficients": (
        "Timeframe coefficients",
        lambda p: coefficients.listing(p.session, p.book, last=p.last, before=p.before),
    ),
    "research": (
        "Observations and hypotheses",
        lambda p: research.listing(p.session, p.book, last=p.last, before=p.before),
    ),
    "weights/proposals": (
        "Cycles whose proposals wait, with the evidence",
        lambda p: weights.proposals(p.session, p.book, p.last, p.before),
    ),
    "meta/decisions": (
        "What the meta-producer decided",
        lambda p: meta.decisions(p.session, p.book, last=p.last, before=p.before),
    ),
    "positions/unreadable": (
        "Positions on record that cannot be read as closes",
        lambda p: positions.unreadable(p.session, book=p.book, last=p.last, before=p.before),
    ),
    "approvals": (
        "What waits for an operator, the soonest deadline first",
        lambda p: approvals.waiting(p.session, p.door.subjects, book=p.book, last=p.last, before=p.before),
    ),
}


def _list_handler(load: Load) -> Any:
    async def handler(
        request: Request, book: BookQuery = None, limit: Limit = LISTED, before: Before = None
    ) -> Response:
        return await listed(request, load, book, limit, before)

    return handler


for _name, (_summary, _load) in LISTS.items():
    router.add_api_route(
        f"/v1/{_name}",
        _list_handler(_load),
        summary=_summary,
        operation_id=f"list-{_name.replace('/', '-')}",
        response_model=None,
        responses=_LIST,
    )


@router.get("/v1/events", response_model=None, responses=_READ)
async def list_events(
    request: Request,
    type: Annotated[str | None, Query(max_length=200, description="Only this type.")] = None,
    book: BookQuery = None,
    limit: Limit = LISTED,
    before: Before = None,
) -> Response:
    """The append-only record, oldest first."""

    def load(page: Page) -> AsyncIterator[Any]:
        return events.listing(page.session, kind=type, book=page.book, last=page.last, before=page.before)

    return await listed(request, load, book, limit, before)


@router.get("/v1/books", response_model=None, responses=_READ)
async def list_books(request: Request, limit: Limit = LISTED, before: Before = None) -> Response:
    """Books: one for each strategy."""
    door = reading(request)
    allowed = require(request, Scope.read).books
    async with door.session() as session:
        found = await books.listing(session, limit, before)
    return plain([one for one in found if allowed is None or one.book in allowed])


@router.get("/v1/outcomes/summary", response_model=None, responses=_READ)
async def outcomes_summary(request: Request, book: OneBook) -> Response:
    """Count, hit rate with its interval, PnL and R of a book."""
    door = reading(request, book)
    async with door.session() as session:
        return plain(await outcomes.summary(session, book))


@router.get("/v1/prices", response_model=None, responses=_READ)
async def list_prices(request: Request, limit: Limit = LISTED, before: Before = None) -> Response:
    """Series of candles on record."""
    door = reading(request)
    async with door.session() as session:
        return plain(await prices.listing(session, last=limit, before=before))


@router.get("/v1/prices/failing", response_model=None, responses=_READ)
async def list_failing_prices(request: Request, limit: Limit = LISTED, before: Before = None) -> Response:
    """Assets that the price source failed for the last time, and when they are asked for again."""
    door = reading(request)
    async with door.session() as session:
        return plain(await prices.failing(session, last=limit, before=before))


@router.get("/v1/prices/affected", response_model=None, responses=_READ)
async def list_affected_outcomes(request: Request, limit: Limit = LISTED, before: Before = None) -> Response:
    """Outcomes that prices imported since would change, and that nobody had recomputed yet."""
    door = reading(request)
    allowed = require(request, Scope.read).books
    async with door.session() as session:
        found = await outcome_corrections.affected(session, last=limit, before=before)
    return plain([one for one in found if allowed is None or one.book in allowed])


@router.get("/v1/storage", response_model=None, responses=_READ)
async def storage_report(request: Request) -> Response:
    """How much each table holds, what leaves it when, and where to."""
    door = reading(request)
    async with door.session() as session:
        return plain(await storage.report(session, door.policy.retention, _now(), None))


@router.get("/v1/weights/history", response_model=None, responses=_READ)
async def weights_history(
    request: Request, book: OneBook = "default", limit: Limit = LISTED, before: Before = None
) -> Response:
    """Every version of weights that was in force, and every cycle."""
    door = reading(request, book)
    async with door.session() as session:
        return plain(await weights.history(session, book, limit, before))


@router.get("/v1/calibration", response_model=None, responses=_READ)
async def calibration(request: Request, producer: Name, book: OneBook = "default", as_of: AsOf = None) -> Response:
    """A producer's reliability, and its recalibration."""
    door = reading(request, book)
    async with door.session() as session:
        return plain(await producers.calibration(session, door.policy, _now(), producer, book, as_of=as_of))


@router.get("/v1/meta", response_model=None, responses=_READ)
async def meta_status(request: Request, book: OneBook = "default") -> Response:
    """The meta-producer's record, and whether it may speak."""
    door = reading(request, book)
    async with door.session() as session:
        return plain(await meta.status(session, door.policy, book, _now()))


@router.get("/v1/market/states", response_model=None, responses=_READ)
async def states(
    request: Request,
    as_of: AsOf = None,
    driver: Annotated[Driver | None, Query(description="Only this driver.")] = None,
    timeframe: Annotated[Timeframe | None, Query(description="Only this timeframe.")] = None,
) -> Response:
    """The state of each driver on each timeframe."""
    door = reading(request)
    drivers = tuple(Driver) if driver is None else (driver,)
    timeframes = tuple(Timeframe) if timeframe is None else (timeframe,)
    async with door.session() as session:
        return plain(await market_states.as_of(session, as_of or _now(), door.policy, drivers, timeframes))


@router.get("/v1/market/tokens", response_model=None, responses=_READ)
async def list_tokens(request: Request, limit: Limit = LISTED, before: Before = None) -> Response:
    """Which tokens the buckets are made of."""
    door = reading(request)
    async with door.session() as session:
        return plain(await market_tokens.listing(session, last=limit, before=before))


@router.get("/v1/market/contexts", response_model=None, responses=_READ)
async def list_contexts(
    request: Request, book: OneBook = "default", limit: Limit = LISTED, before: Before = None
) -> Response:
    """What was filled in of the market that closes did not say."""
    door = reading(request, book)
    async with door.session() as session:
        return plain(await market_contexts.listing(session, book, limit, before))


_ASKED = _READ | documented(400, 408, 413, 415)


@router.post("/v1/levers", response_model=None, responses=_ASKED)
async def levers(request: Request, book: BookQuery = None, as_of: AsOf = None) -> Response:
    """A and E of a token: bucket, timeframe, intent, context. With ``book`` they are put on record."""
    door = reading(request, book)
    wanted = LeversRequest.model_validate(await json_body(request, LARGEST_QUESTION))
    if book is not None:
        async with door.sessions.begin() as session:
            return plain(await given_levers.give(session, book, wanted, as_of or _now(), door.policy.levers))
    async with door.session() as session:
        return plain(await market_levers.as_of(session, wanted, as_of or _now(), door.policy.levers))


@router.post("/v1/overrides:match", response_model=None, responses=_ASKED)
async def match(request: Request) -> Response:
    """The size multiplier of an action in a scope: book, pattern_key, action_category, scope."""
    door = reading(request)
    wanted = OverrideMatchRequest.model_validate(await json_body(request, LARGEST_QUESTION))
    require(request, Scope.read, wanted.book)
    async with door.session() as session:
        return plain(await overrides.match(session, wanted, _now(), door.policy))
