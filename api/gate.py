"""What every request passes: its id, its token, its measure. Its span is FastAPI's own."""

import logging
import re
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from closeloop.api.authentication import Tokens
from closeloop.api.measures import Measures
from closeloop.api.problems import Problem, answer, problem_of

logger = logging.getLogger(__name__)

LONGEST_TARGET = 8 * 1024
"""Most bytes of a request's path and query."""
OPEN_ON_LOOPBACK = frozenset({"/healthz", "/readyz", "/metrics"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Gate:
    """Names the request, finds its token, and answers what fails before or beside a handler."""

    def __init__(self, app: ASGIApp, tokens: Tokens, measures: Measures, loopback: bool) -> None:
        self._app = app
        self._tokens = tokens
        self._measures = measures
        self._loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began = time.perf_counter()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope["closeloop.request_id"] = request_id
        scope["closeloop.began"] = began
        sent = _Sent(send, request_id)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            await self._enter(scope, headers)
            await self._app(scope, receive, sent)
        except Exception as error:
            if sent.status:
                raise  # half an answer cannot be mended: the server closes the connection
            await answer(problem_of(error), scope["path"])(scope, receive, sent)
        finally:
            self._measures.answered(scope, sent.status, time.perf_counter() - began)
            structlog.contextvars.unbind_contextvars("request_id")
        return None

    async def _enter(self, scope: Scope, headers: Headers) -> None:
        if len(scope["raw_path"]) + len(scope["query_string"]) > LONGEST_TARGET:
            raise Problem(414, f"The path and query are longer than {LONGEST_TARGET} bytes.")
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:  # PostgreSQL has no such text
            raise Problem(422, "The path and query must not hold a NUL character.")
        header = headers.get("authorization")
        if header is None and self._loopback and scope["path"] in OPEN_ON_LOOPBACK:
            return
        address = scope["client"][0] if scope.get("client") else "unknown"
        scope["closeloop.token"] = await self._tokens.of_header(header, address)
        self._measures.heard(headers.get("closeloop-client"))


class _Sent:
    """Sends an answer with the headers that each has; ``status`` is 0 until it began."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self._request_id
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


def request_id_of(request: Request) -> str:
    """The id of a request, as its answer and the log lines name it."""
    return str(request.scope["closeloop.request_id"])
