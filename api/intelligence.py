"""What an engine polls for: weights, sizes, parameters, insights, recommendations (seeds 001 and 003)."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from closeloop.api.door import door_of
from closeloop.api.problems import documented
from closeloop.api.reads import Name, OneBook, reading
from closeloop.models.door import READS
from closeloop.models.errors import NotAcceptable
from closeloop.models.overrides import OverrideMatchRequest
from closeloop.models.parameters import ModeView
from closeloop.services import overrides, parameters, weights

router = APIRouter(tags=["intelligence"])

_READ: dict[int | str, dict[str, Any]] = documented(401, 403, 414, 422, 429, 500, 503)
_POLLED: dict[int | str, dict[str, Any]] = _READ | documented(404) | {304: {"description": "As If-None-Match names it"}}
Symbol = Annotated[str | None, Query(min_length=1, max_length=200, description="The symbol, for the arm of a test.")]
Regime = Annotated[str | None, Query(min_length=1, max_length=200, description="The market's regime.")]


@router.get("/v1/weights", response_model=None, responses=_POLLED)
async def weights_in_force(request: Request, book: OneBook = "default") -> Response:
    """The domain weights of a book that are in force."""
    door = reading(request, book)

    async def load() -> Any:
        async with door.session() as session:
            return await weights.in_force(session, door.policy, door.preset, book)

    return await door.memory.answer(request, ("weights", book), load, door.measures.from_memory)


@router.get("/v1/overrides:match", response_model=None, responses=_POLLED)
async def match_by_query(
    request: Request,
    pattern: Name,
    action: Name,
    book: OneBook = "default",
    scope: Annotated[str, Query(max_length=4_000, description="Such as chain=solana,mcap_bucket=nano.")] = "",
) -> Response:
    """The size multiplier of an action in a scope, for polling."""
    door = reading(request, book)
    wanted = OverrideMatchRequest(book=book, pattern_key=pattern, action_category=action, scope=_scope_of(scope))

    async def load() -> Any:
        async with door.session() as session:
            return await overrides.match(session, wanted, datetime.now(UTC), door.policy)

    asked = ("match", book, pattern, action, scope)
    return await door.memory.answer(request, asked, load, door.measures.from_memory)


def _scope_of(text: str) -> dict[str, str]:
    found = {}
    for part in text.split(",") if text else []:
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise NotAcceptable("scope: must be name=value pairs with commas between them")
        found[name.strip()] = value.strip()
    return found


async def _adaptive(request: Request, book: str, symbol: str | None, regime: str | None) -> Response:
    door = reading(request, book)
    request.scope["closeloop.kind"] = READS

    async def load() -> Any:
        async with door.session() as session:
            return await parameters.adaptive(session, book, symbol, regime, datetime.now(UTC))

    asked = ("adaptive", book, symbol or "", regime or "")
    return await door.memory.answer(request, asked, load, door.measures.from_memory)


@router.get("/learning/intelligence/adaptive-params", response_model=None, responses=_POLLED)
async def adaptive_params(
    request: Request, book: OneBook = "default", symbol: Symbol = None, regime: Regime = None
) -> Response:
    """Parameters for a symbol in a regime, and which arm of the book's test they are of."""
    return await _adaptive(request, book, symbol, regime)


@router.get("/learning/intelligence/adaptive-discovery-params", response_model=None, responses=_POLLED)
async def adaptive_discovery_params(
    request: Request, book: OneBook = "default", symbol: Symbol = None, regime: Regime = None
) -> Response:
    """The same, under the name that seed 003 gives it."""
    return await _adaptive(request, book, symbol, regime)


@router.get("/learning/intelligence/pattern-insights", response_model=None, responses=_POLLED)
async def pattern_insights(request: Request, book: OneBook = "default") -> Response:
    """What patterns have come to, each with n, interval and q."""
    door = reading(request, book)
    request.scope["closeloop.kind"] = READS

    async def load() -> Any:
        async with door.session() as session:
            return await parameters.insights(session, book)

    return await door.memory.answer(request, ("insights", book), load, door.measures.from_memory)


@router.get("/learning/intelligence/current-recommendations", response_model=None, responses=_POLLED)
async def current_recommendations(request: Request, book: OneBook = "default") -> Response:
    """Recommendations in six blocks; one of which nothing is computed says "too little data"."""
    door = reading(request, book)
    request.scope["closeloop.kind"] = READS

    async def load() -> Any:
        async with door.session() as session:
            return await parameters.recommendations(session, book, datetime.now(UTC))

    return await door.memory.answer(request, ("recommendations", book), load, door.measures.from_memory)


@router.get("/learning/intelligence/mode", response_model=ModeView, responses=_READ | documented(404))
async def mode(request: Request, book: OneBook = "default") -> ModeView:
    """Whether engines read the learned parameters of a book."""
    reading(request, book)
    async with door_of(request).session() as session:
        return await parameters.mode(session, book)
