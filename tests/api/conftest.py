"""One API process on the session's database and Temporal, for the tests that need no other."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from closeloop.workers.settings import Settings
from tests.api.doors import ApiProcess, api_on


@pytest.fixture(scope="session")
async def api(dsn: str, settings: Settings, home: Path) -> AsyncIterator[ApiProcess]:
    """An API process. Each test makes tokens of its own, and so has limits of its own."""
    async with api_on(dsn, str(home)) as api:
        yield api
