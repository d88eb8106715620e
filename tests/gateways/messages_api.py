"""A server on loopback that answers like the Anthropic Messages API, and misbehaves when told to."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

KEY = "sk-test-0123456789"
Json = dict[str, Any]
# What the real API's structured output does not take in a schema.
UNSUPPORTED = {"minLength", "maxLength", "maxItems", "minimum", "maximum", "pattern"}

READING = {"tags": ["trend-follow"], "observation": "It went up and was sold."}


@dataclass
class Reply:
    """What the server does with a request."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    before: float = 0.0  # seconds of silence before the first byte
    between: float = 0.0  # seconds of silence after each byte of the body
    cut: int | None = None  # the connection breaks after so many bytes of the body


def message(text: str, *, stop: str | None = "end_turn", tokens: tuple[int, int] = (1000, 200), **more: Any) -> Reply:
    """A message with one text block."""
    body = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-test",
        "content": [{"type": "text", "text": text}] if text else [],
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": tokens[0], "output_tokens": tokens[1]},
    }
    return Reply(body=json.dumps(body | more).encode(), headers={"content-type": "application/json"})


def answer(value: Any = READING, **more: Any) -> Reply:
    """A message whose text is this JSON."""
    return message(json.dumps(value), **more)


def error(status: int, kind: str, said: str = "an error", **headers: str) -> Reply:
    """An error of the API."""
    body = {"type": "error", "error": {"type": kind, "message": said}, "request_id": "req_1"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, json.dumps(body).encode(), {"content-type": "application/json"} | named)


RATE_LIMIT = error(429, "rate_limit_error", "slow down", retry_after="7")
OVERLOADED = error(529, "overloaded_error", "Overloaded")
BROKEN = error(500, "api_error", "Internal server error")
REFUSAL = message("", stop="refusal")
TRUNCATED = message('{"tags": ["trend', stop="max_tokens")
HANG = Reply(before=3600)


@dataclass
class MessagesApi:
    """The server. ``script`` comes first, reply by reply; then ``otherwise`` answers."""

    url: str = ""
    requests: list[Json] = field(default_factory=list)
    script: deque[Reply] = field(default_factory=deque)
    otherwise: Callable[[Json], Reply | Awaitable[Reply]] = lambda request: answer()
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    def says(self, *replies: Reply) -> None:
        """What it does with the next requests."""
        self.script.extend(replies)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, request after request."""
        self._open.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                reply = await self._reply(head[0], headers, body)
                await asyncio.sleep(reply.before)
                lines = [f"HTTP/1.1 {reply.status} x", f"content-length: {len(reply.body)}"]
                lines += [f"{name}: {value}" for name, value in reply.headers.items()]
                writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
                if reply.between:
                    for byte in reply.body:
                        writer.write(bytes([byte]))
                        await writer.drain()
                        await asyncio.sleep(reply.between)
                else:
                    writer.write(reply.body[: reply.cut])
                await writer.drain()
                if reply.cut is not None:
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _reply(self, line: str, headers: dict[str, str], body: bytes) -> Reply:
        if not line.startswith("POST /v1/messages "):
            return error(404, "not_found_error", line)
        key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        if key != KEY:
            return error(401, "authentication_error", f"invalid x-api-key {key}")
        request = json.loads(body)
        self.requests.append(request)
        if problem := problem_of(request, headers):
            return error(400, "invalid_request_error", problem)
        if self.script:
            return self.script.popleft()
        made = self.otherwise(request)
        return await made if isinstance(made, Awaitable) else made

    def stop(self) -> None:
        """Break every connection."""
        for writer in list(self._open):
            writer.transport.abort()


def problem_of(request: Json, headers: dict[str, str]) -> str | None:
    """What the real API would refuse."""
    if "anthropic-version" not in headers:
        return "anthropic-version: header is required"
    if not isinstance(request.get("model"), str) or request.get("max_tokens", 0) < 1:
        return "model, max_tokens: field required"
    if [m["role"] for m in request["messages"]] != ["user"]:
        return "messages: one user message was expected"
    output = request.get("output_config", {}).get("format", {})
    if output.get("type") != "json_schema":
        return "output_config.format: expected"
    todo: list[Any] = [output["schema"]]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            if item.get("type") == "object" and item.get("additionalProperties") is not False:
                return "output_config.format.schema: additionalProperties must be false"
            if found := UNSUPPORTED & item.keys():
                return f"output_config.format.schema: not supported: {found}"
            todo += item.values()
        elif isinstance(item, list):
            todo += item
    return None


@asynccontextmanager
async def messages_api() -> AsyncIterator[MessagesApi]:
    """A running server."""
    api = MessagesApi()
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0)
    api.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield api
    finally:
        server.close()
        api.stop()
