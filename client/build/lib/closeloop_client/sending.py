"""Sending what is spooled: which answer takes which message out of the spool."""

from __future__ import annotations

import json
from enum import Enum
from typing import Any, NamedTuple

from closeloop_client.spool import Item, Spool
from closeloop_client.transport import Reply, Transport

MOST_IN_A_BATCH = 500
BATCH_BYTES = 900 * 1024
SINGLE_PATHS = {"discovery-data": "/learning/collect/discovery-data"}
_STATUSES = {"accepted", "duplicate", "conflict", "refused"}


class Next(Enum):
    """What follows from an answer."""

    GO_ON = "go on"
    FEWER = "send fewer at once"
    PAUSE = "pause"
    FAILED = "failed"


class Sent(NamedTuple):
    """What became of a batch. ``pause``: for how many seconds the server is left alone; None: the caller decides."""

    then: Next
    done: int = 0
    duplicates: int = 0
    refused: int = 0
    pause: float | None = None
    reason: str = ""


def send(spool: Spool, transport: Transport, most: int = MOST_IN_A_BATCH) -> Sent | None:
    """Send the head of the spool, at most so many messages; None where it is empty. Raises Unanswered."""
    items = spool.head(min(most, MOST_IN_A_BATCH), BATCH_BYTES)
    if not items:
        return None
    first = items[0]
    if len(items) == 1 and len(first.body) > BATCH_BYTES and first.kind in SINGLE_PATHS:
        headers = {"Idempotency-Key": first.id}
        reply = transport.ask("POST", SINGLE_PATHS[first.kind], first.body.encode(), headers)
        return _of_single(spool, first, reply)
    parts = (f'{{"kind":{json.dumps(i.kind)},"id":{json.dumps(i.id)},"message":{i.body}}}' for i in items)
    reply = transport.ask("POST", "/v1/batch", f"[{','.join(parts)}]".encode())
    return _of_batch(spool, items, reply)


def _of_batch(spool: Spool, items: list[Item], reply: Reply) -> Sent:
    if reply.status == 202:
        receipts = _json(reply)
        results = receipts.get("results") if isinstance(receipts, dict) else None
        if not isinstance(results, list) or len(results) != len(items):
            return Sent(Next.FAILED, reason="the answer is no list of receipts")
        return _settled(spool, list(zip(items, results, strict=True)))
    if reply.status in (400, 413, 422) and reply.is_problem:
        if len(items) > 1:
            return Sent(Next.FEWER)
        spool.settle([], [(items[0], _detail(reply))])
        return Sent(Next.GO_ON, refused=1)
    return _else(reply)


def _of_single(spool: Spool, item: Item, reply: Reply) -> Sent:
    if reply.status in (200, 202):
        return _settled(spool, [(item, _json(reply))])
    if reply.status in (400, 409, 413, 422) and reply.is_problem:
        spool.settle([], [(item, _detail(reply))])
        return Sent(Next.GO_ON, refused=1)
    return _else(reply)


def _settled(spool: Spool, answered: list[tuple[Item, Any]]) -> Sent:
    """Take out what a well-formed receipt of its own names; the rest stays."""
    done: list[Item] = []
    refused: list[tuple[Item, str]] = []
    duplicates = 0
    for item, receipt in answered:
        if not isinstance(receipt, dict) or receipt.get("status") not in _STATUSES or receipt.get("id") != item.id:
            continue
        if receipt["status"] in ("accepted", "duplicate"):
            duplicates += receipt["status"] == "duplicate"
            done.append(item)
        else:
            refused.append((item, f"{receipt['status']}: {receipt.get('reason') or 'no reason was given'}"))
    spool.settle(done, refused)
    if not done and not refused:
        return Sent(Next.FAILED, reason="the answer has no receipt for what was sent")
    return Sent(Next.GO_ON, len(done), duplicates, len(refused))


def _else(reply: Reply) -> Sent:
    if reply.status == 429:
        return Sent(Next.PAUSE, pause=reply.retry_after, reason="too many requests")
    if 400 <= reply.status < 500:  # a revoked token, another book, another server: what was accepted stays
        return Sent(Next.PAUSE, reason=f"answered with {reply.status}: {_detail(reply)}")
    return Sent(Next.FAILED, reason=f"answered with {reply.status}")


def _json(reply: Reply) -> Any:
    try:
        return json.loads(reply.body)
    except (ValueError, RecursionError):
        return None


def _detail(reply: Reply) -> str:
    found = _json(reply) if reply.is_problem else None
    return str(found.get("detail"))[:500] if isinstance(found, dict) else "no reason was given"
