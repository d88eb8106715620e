"""What handlers need, made once for the process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import Request
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.pool import QueuePool
from temporalio.client import Client

from closeloop.api.authentication import Tokens
from closeloop.api.limits import Limiter
from closeloop.api.measures import Measures
from closeloop.api.memory import Memory
from closeloop.api.starting import Starter
from closeloop.models.policy import LearningPolicy
from closeloop.models.weights import Preset
from closeloop.services.approvals import Subjects
from closeloop.store.database import Sessions


@dataclass(frozen=True)
class Door:
    """See the module. ``client`` connects to Temporal when it is first asked for something."""

    engine: AsyncEngine
    sessions: Sessions
    client: Client
    policy: LearningPolicy
    preset: Preset
    subjects: Subjects
    limiter: Limiter
    tokens: Tokens
    measures: Measures
    starter: Starter
    memory: Memory

    def connections_in_use(self) -> int | None:
        """Connections of this process's pool that are in use; None where the pool does not say."""
        pool = self.engine.pool
        return pool.checkedout() if isinstance(pool, QueuePool) else None

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """A session to read with."""
        async with self.sessions() as session:
            yield session


def door_of(request: Request) -> Door:
    """The door of the app that a request is for."""
    door = request.app.state.door
    assert isinstance(door, Door), "build_app made it"
    return door
