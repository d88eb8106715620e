"""The application: routes, gate, problems, and the OpenAPI document."""

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from closeloop.api import approvals, intelligence, messages, operations, pages, reads
from closeloop.api.door import Door
from closeloop.api.gate import Gate
from closeloop.api.problems import answer_with_problems
from closeloop.api.schemas import with_messages

ABOUT = (
    "A durable learning service for trading engines. 202 means that a message is committed in PostgreSQL. "
    "Every error is a problem document (RFC 9457)."
)


def build_app(door: Door, *, loopback: bool) -> FastAPI:
    """The application of a door. ``loopback``: whether only this machine reaches it."""
    app = FastAPI(
        title="closeloop",
        version=version("closeloop"),
        description=ABOUT,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.door = door
    for router in (
        intelligence.router,  # what is polled comes first: routes are tried one after the other
        messages.router,
        approvals.router,
        reads.router,
        operations.router,
        pages.router,
    ):
        app.include_router(router)
    answer_with_problems(app)
    app.add_middleware(Gate, tokens=door.tokens, measures=door.measures, loopback=loopback)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, description=ABOUT, routes=app.routes)
            app.openapi_schema = with_messages(made)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app
