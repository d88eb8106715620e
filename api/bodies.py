"""Reading what is sent, with limits that hold while it is read: nothing too long is ever held."""

import asyncio
from typing import Any

from fastapi import Request
from pydantic_core import from_json

from closeloop.api.problems import Problem

KIB = 1024
BODY_SECONDS = 15.0
"""A body that has not come whole within so many seconds is not waited for."""


async def json_body(request: Request, limit_bytes: int) -> Any:
    """The JSON of a request. Raises Problem: 413 for too much, 415 for what is no JSON, 400 for broken JSON."""
    kind = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, "Send JSON, with Content-Type: application/json.")
    raw = await _body(request, limit_bytes)
    try:  # it also refuses what is nested more than 200 levels deep
        return from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise Problem(400, f"The body is not JSON: {str(error)[:200]}.") from None


async def _body(request: Request, limit_bytes: int) -> bytes:
    too_long = Problem(
        413, f"The body is longer than {limit_bytes // KIB} KiB: send less at once.", headers={"Connection": "close"}
    )
    told = request.headers.get("content-length")
    if told is not None and (not told.isdigit() or int(told) > limit_bytes):
        raise too_long
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > limit_bytes:
                    raise too_long
                parts.append(part)
    except TimeoutError:
        reason = f"The body did not come within {BODY_SECONDS:.0f} s."
        raise Problem(408, reason, headers={"Connection": "close"}) from None
    return b"".join(parts)
