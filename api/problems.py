"""Errors as problem documents (RFC 9457), without tracebacks or SQL."""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from temporalio.service import RPCError

from closeloop.models.errors import NotOnRecord, ServiceError
from closeloop.services.inbox import FieldError, Unreadable, errors_of, fields_of
from closeloop.store.errors import DATABASE_ERRORS, is_permanent, is_unreachable

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 1


class ProblemError(BaseModel):
    """What is wrong with a field of the request."""

    field: str
    message: str


class ProblemDocument(BaseModel):
    """Why a request was not done, as RFC 9457 says it. ``detail`` is a sentence for a person."""

    type: str = Field(default="about:blank")
    title: str
    status: int
    detail: str
    instance: str
    errors: list[ProblemError] = Field(default_factory=list)


class Problem(Exception):
    """An answer that is a problem document."""

    def __init__(
        self, status: int, detail: str, errors: Sequence[FieldError] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})


def answer(problem: Problem, instance: str) -> Response:
    """The problem as a response; ``instance`` is the path that was asked."""
    document = ProblemDocument(
        title=HTTPStatus(problem.status).phrase,
        status=problem.status,
        detail=problem.detail,
        instance=_readable(instance),
        errors=[ProblemError(field=error.field, message=error.message) for error in problem.errors],
    )
    return JSONResponse(document.model_dump(), problem.status, problem.headers, MEDIA_TYPE)


def problem_of(error: BaseException) -> Problem:
    """What an error is for who asked. One that is a defect of ours is logged, and told without its insides."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, ServiceError):
        headers = {"WWW-Authenticate": "Bearer"} if error.http_status == HTTPStatus.UNAUTHORIZED else {}
        if error.http_status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        return Problem(error.http_status, str(error), fields_of(str(error)), headers)
    if isinstance(error, Unreadable):
        return Problem(422, str(error), error.errors)
    if isinstance(error, RequestValidationError):
        found = [FieldError(str(item["loc"][-1]), str(item["msg"])) for item in error.errors()[:20]]
        return Problem(422, "; ".join(f"{one.field}: {one.message}" for one in found), found)
    if isinstance(error, ValidationError):
        found = errors_of(error)
        return Problem(422, "; ".join(f"{one.field}: {one.message}" for one in found), found)
    if isinstance(error, ClientDisconnect):
        return Problem(400, "The connection was closed before the body had come whole.")  # nobody reads it
    if isinstance(error, HTTPException):
        return Problem(error.status_code, str(error.detail), headers=error.headers)
    if isinstance(error, RPCError | PoolTimeout) or _is_away(error):
        # The database or Temporal is away, or every connection is taken: it may answer in a moment.
        logger.warning("answered 503", extra={"reason": type(error).__name__})
        return Problem(
            503, "closeloop cannot do this at the moment: try again.", headers={"Retry-After": str(RETRY_AFTER_SECONDS)}
        )
    logger.error("a defect: answered 500", exc_info=error)
    return Problem(500, "This is a defect of closeloop: its log tells more under this request's X-Request-ID.")


def _is_away(error: BaseException) -> bool:
    if isinstance(error, RuntimeError):
        return "Failed client connect" in str(error)
    return is_unreachable(error) or (isinstance(error, DATABASE_ERRORS) and not is_permanent(error))


def _readable(instance: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in instance[:300])


def answer_with_problems(app: FastAPI) -> None:
    """Have every error of a handler answered as a problem document."""

    async def handle(request: Request, error: Exception) -> Response:
        token = request.scope.get("closeloop.token")
        if isinstance(error, NotOnRecord) and token is not None and token.books is not None:
            error = Problem(404, "It is not on record.")  # the sentence may name what is others'
        return answer(problem_of(error), request.url.path)

    kinds: tuple[type[Exception], ...] = (
        Problem, ServiceError, Unreadable, RequestValidationError, ValidationError, HTTPException, RPCError,
        PoolTimeout, RuntimeError, *DATABASE_ERRORS,
    )  # fmt: skip
    for kind in kinds:
        app.add_exception_handler(kind, handle)


Documented = dict[int | str, dict[str, Any]]
"""What FastAPI is told of a route's answers."""


def documented(*statuses: int) -> Documented:
    """The problem documents that a route may answer with, for the OpenAPI document."""
    return {
        status: {"model": ProblemDocument, "description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {}}}
        for status in statuses
    }
