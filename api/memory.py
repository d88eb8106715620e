"""Answers that engines poll for, kept for a second, with their tags: most polls cost no query."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic_core import to_json
from starlette.responses import Response

KEPT_SECONDS = 1.0
MOST_KEPT = 10_000
STALE_IF_ERROR_SECONDS = 86_400


@dataclass(frozen=True)
class Kept:
    """An answer's body and tag, and until when it is given (s, monotonic clock)."""

    body: bytes
    tag: str
    until: float


class Memory:
    """Answers by what was asked."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, ...], Kept] = OrderedDict()

    async def answer(
        self, request: Request, asked: tuple[str, ...], load: Callable[[], Awaitable[Any]], on_hit: Callable[[], None]
    ) -> Response:
        """The answer to what was asked: from memory, or loaded; 304 where the engine has it already.

        ``on_hit`` is called where no query was needed, or nothing but the tag is sent.
        """
        kept = self._kept.get(asked)
        fresh = kept is not None and time.monotonic() < kept.until
        if kept is None or not fresh:
            body = to_json(await load(), inf_nan_mode="null")
            kept = Kept(body, tag_of(body), time.monotonic() + KEPT_SECONDS)
            self._kept[asked] = kept
            self._kept.move_to_end(asked)
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        headers = {"ETag": kept.tag, "Cache-Control": f"private, no-cache, stale-if-error={STALE_IF_ERROR_SECONDS}"}
        same = has_tag(request.headers.get("if-none-match"), kept.tag)
        if fresh or same:
            on_hit()
        if same:
            return Response(status_code=304, headers=headers)
        return Response(kept.body, media_type="application/json", headers=headers)


def tag_of(body: bytes) -> str:
    """The ETag of an answer. Versions and hashes of policies are part of every answer, so it changes with them."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def has_tag(header: str | None, tag: str) -> bool:
    """Whether an ``If-Match`` or ``If-None-Match`` header names a tag."""
    if header is None:
        return False
    return any(one.strip().removeprefix("W/") in (tag, "*") for one in header.split(","))
