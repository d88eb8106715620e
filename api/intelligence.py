"""What an engine polls for: parameters, insights, recommendations (seeds 001 and 003)."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from closeloop.api.door import door_of
from closeloop.api.problems import documented
from closeloop.api.reads import OneBook, reading
from closeloop.models.door import READS
from closeloop.models.parameters import ModeView
from closeloop.services import parameters

router = APIRouter(tags=["intelligence"], prefix="/learning/intelligence")

_READ: dict[int | str, dict[str, Any]] = documented(401, 403, 414, 422, 429, 500, 503)
_POLLED: dict[int | str, dict[str, Any]] = _READ | {304: {"description": "As If-None-Match names it"}}
Symbol = Annotated[str | None, Query(min_length=1, max_length=200, description="The symbol, for the arm of a test.")]
Regime = Annotated[str | None, Query(min_length=1, max_length=200, description="The market's regime.")]


async def _adaptive(request: Request, book: str, symbol: str | None, regime: str | None) -> Response:
    door = reading(request, book)
    request.scope["closeloop.kind"] = READS

    async def load() -> Any:
        async with door.session() as session:
            return await parameters.adaptive(session, book, symbol, regime, datetime.now(UTC))

    asked = ("adaptive", book, symbol or "", regime or "")
    return await door.memory.answer(request, asked, load, door.measures.from_memory)


@router.get("/adaptive-params", response_model=None, responses=_POLLED)
async def adaptive_params(
    request: Request, book: OneBook = "default", symbol: Symbol = None, regime: Regime = None
) -> Response:
    """Parameters for a symbol in a regime, and which arm of the book's test they are of."""
    return await _adaptive(request, book, symbol, regime)


@router.get("/adaptive-discovery-params", response_model=None, responses=_POLLED)
async def adaptive_discovery_params(
    request: Request, book: OneBook = "default", symbol: Symbol = None, regime: Regime = None
) -> Response:
    """The same, under the name that seed 003 gives it."""
    return await _adaptive(request, book, symbol, regime)


@router.get("/pattern-insights", response_model=None, responses=_POLLED)
async def pattern_insights(request: Request, book: OneBook = "default") -> Response:
    """What patterns have come to, each with n, interval and q."""
    door = reading(request, book)
    request.scope["closeloop.kind"] = READS

    async def load() -> Any:
        async with door.session() as session:
            return await parameters.insights(session, book)

    return await door.memory.answer(request, ("insights", book), load, door.measures.from_memory)


@router.get("/current-recommendations", response_model=None, responses=_POLLED)
async def current_recommendations(request: Request, book: OneBook = "default") -> Response:
    """Recommendations in six blocks; one of which nothing is computed says "too little data"."""
    door = reading(request, book)
    request.scope["closeloop.kind"] = READS

    async def load() -> Any:
        async with door.session() as session:
            return await parameters.recommendations(session, book, datetime.now(UTC))

    return await door.memory.answer(request, ("recommendations", book), load, door.measures.from_memory)


@router.get("/mode", response_model=ModeView, responses=_READ | documented(404))
async def mode(request: Request, book: OneBook = "default") -> ModeView:
    """Whether engines read the learned parameters of a book."""
    reading(request, book)
    async with door_of(request).session() as session:
        return await parameters.mode(session, book)
