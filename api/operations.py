"""Whether the service lives, what it can reach, what it counted, and how it is."""

import asyncio
import contextlib
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from closeloop import store
from closeloop.api.authentication import require
from closeloop.api.door import Door, door_of
from closeloop.api.problems import Documented, documented
from closeloop.api.reads import reading
from closeloop.models.health import LearningHealth
from closeloop.models.tokens import Scope
from closeloop.services import health
from closeloop.store.errors import DATABASE_ERRORS

router = APIRouter(tags=["operations"])

REACHED_WITHIN_SECONDS = 2.0


class Reached(BaseModel):
    """What the door can reach. Without Temporal it still takes messages in; workflows then start later."""

    database: bool
    schema_is_ours: bool
    temporal: bool


@router.get("/healthz", response_model=None, responses=documented(401, 414))
async def healthz(request: Request) -> Response:
    """The process lives."""
    _look(request)
    return JSONResponse({"alive": True})


_READY: Documented = documented(401, 403, 414) | {503: {"model": Reached}}


@router.get("/readyz", response_model=Reached, responses=_READY)
async def readyz(request: Request) -> Response:
    """What the door can reach; 503 where it can take nothing in."""
    _look(request)
    door = door_of(request)
    database, temporal = await asyncio.gather(_schema_of(door), _temporal(door))
    reached = Reached(database=database is not None, schema_is_ours=bool(database), temporal=temporal)
    ready = reached.database and reached.schema_is_ours
    headers = {} if ready else {"Retry-After": "1"}
    return JSONResponse(reached.model_dump(), 200 if ready else 503, headers)


async def _schema_of(door: Door) -> bool | None:
    """Whether the schema is this version's; None where the database is away."""
    try:
        async with asyncio.timeout(REACHED_WITHIN_SECONDS), door.session() as session:
            return await store.schema.revision(session) == store.schema.newest()
    except DATABASE_ERRORS:
        return None


async def _temporal(door: Door) -> bool:
    try:
        async with asyncio.timeout(REACHED_WITHIN_SECONDS):
            return await door.client.service_client.check_health()
    except Exception:  # whatever it is, Temporal is not reached
        return False


@router.get("/metrics", response_model=None, responses=documented(401, 403, 414, 503))
async def metrics(request: Request) -> Response:
    """What this process counted, for Prometheus, and figures of the inbox from the database."""
    _look(request)
    door = door_of(request)
    measures = door.measures
    measures.refused.set(door.tokens.refused)
    now = datetime.now(UTC)
    with contextlib.suppress(*DATABASE_ERRORS):  # without the database, what the process knows is told
        async with asyncio.timeout(REACHED_WITHIN_SECONDS), door.session() as session:
            oldest = await store.positions.oldest_unattributed(session)
            measures.oldest.set(0.0 if oldest is None else max(0.0, (now - oldest).total_seconds()))
            midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
            for kind, number in (await store.inbox.counts(session, midnight)).items():
                measures.accepted.labels(kind).set(number)
    return Response(generate_latest(measures.registry), media_type=CONTENT_TYPE_LATEST)


@router.get(
    "/learning/health",
    response_model=None,
    responses=documented(401, 403, 414, 429, 500, 503) | {200: {"model": LearningHealth}},
)
async def learning_health(request: Request) -> Response:
    """The health of the whole service."""
    door = reading(request)

    async def load() -> LearningHealth:
        async with door.session() as session:
            clients = door.measures.clients()
            return await health.learning_health(session, datetime.now(UTC), clients, door.connections_in_use())

    return await door.memory.answer(request, ("health",), load, lambda: None)


def _look(request: Request) -> None:
    """These need a token only where the server can be reached from elsewhere: then one that may read."""
    if "closeloop.token" in request.scope:
        require(request, Scope.read)
