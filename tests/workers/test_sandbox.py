"""Every workflow that there is is registered, and runs in the sandbox without importing C extensions again."""

import importlib
import inspect
import pkgutil

from temporalio import workflow

from closeloop import workflows
from closeloop.workers.settings import Settings
from closeloop.workers.wiring import WORKFLOWS
from tests.workers.processes import line, script


async def test_every_workflow_runs_beside_a_live_asyncpg_pool(book: str, settings: Settings) -> None:
    async with script("tests.workers.every_workflow", book, home=settings.home) as process:
        ran = []
        while printed := await line(process):
            ran += [printed.removeprefix("ran ")] if printed.startswith("ran ") else []
        assert ran == [found.__name__ for found in WORKFLOWS]
        assert await process.wait() == 0


def test_every_workflow_is_registered() -> None:
    defined = {
        member
        for module in pkgutil.iter_modules(workflows.__path__)
        for _, member in inspect.getmembers(
            importlib.import_module(f"closeloop.workflows.{module.name}"), inspect.isclass
        )
        if workflow._Definition.from_class(member) is not None
    }
    assert set(WORKFLOWS) == defined
