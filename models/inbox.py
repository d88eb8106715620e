"""Messages that come in by the HTTP door: their kinds, the receipts that answer them, and the record of each."""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Column, DateTime, Index, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from closeloop.models.positions import NotedField
from closeloop.models.values import BookId, Identifier, SignalDirection, UnitFloat, Utc

MOST_ITEMS = 500
"""Most messages of one request."""


class Kind(StrEnum):
    """What a message is: the last segment of the path that takes it."""

    positions = "positions"
    forecasts = "forecasts"
    heartbeats = "heartbeats"
    signals = "signals"
    thesis_decision = "thesis-decision"
    discovery_data = "discovery-data"
    trade_outcome = "trade-outcome"


class ReceiptStatus(StrEnum):
    """What became of a message."""

    accepted = "accepted"
    duplicate = "duplicate"
    conflict = "conflict"
    refused = "refused"


class Receipt(BaseModel):
    """The answer to one message. ``accepted``: it is committed in PostgreSQL, and what follows from it will be done.

    ``duplicate``: it is on record as sent, and nothing changed. ``conflict``: other content is on record under its id;
    ``refused``: it can never be taken in as it was sent. ``reason`` names the fields of both.
    """

    id: str
    kind: str
    status: ReceiptStatus
    received_at: datetime
    reason: str | None = None
    noted: list[NotedField] = Field(default_factory=list, description="Optional fields that were left out, and why.")


def message_id(book: str, kind: str, body: Mapping[str, Any]) -> str:
    """The id of a message that brings none: 32 hex digits of the SHA-256 of its book, kind and body as canonical JSON.

    Keys are sorted, there are no spaces, numbers are written as Python's ``json`` writes them.

    >>> message_id("default", "thesis-decision",
    ...            {"symbol": "ADA/BTC", "thesis": {"recommendation": "BUY", "confidence": 0.7, "thesis": "volume"}})
    '054e2683b775ac4d4ed66a86abe964d3'
    """
    whole = {"book": book, "kind": kind, "body": body}
    canonical = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class ProducerSignal(BaseModel):
    """What a producer called for at an instant, by itself and not as part of a close. ``at`` null: when it arrived."""

    model_config = ConfigDict(frozen=True)

    book: BookId = "default"
    signal_id: Identifier
    producer_id: Identifier
    symbol: Identifier
    domain: Identifier | None = None
    direction: SignalDirection
    confidence: UnitFloat | None = Field(default=None, description="In [0, 1].")
    at: Utc | None = None


class InboxMessage(SQLModel, table=True):
    """A message that was accepted, in the transaction that wrote it into the table that it belongs to.

    ``message``: what was sent, of a kind that has no table of its own. ``token_id``: who sent it. ``request_id``: of
    the HTTP request, as the logs and the answer name it.
    """

    __tablename__ = "inbox"
    __table_args__ = (Index("inbox_received", "kind", "received_at"),)

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    kind: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    message_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    received_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    message: dict[str, Any] | None = Col(default=None, sa_column=Column(JSONB(none_as_null=True)))
    token_id: str | None = Col(default=None, sa_column=Column(Text(collation="C")))
    request_id: str | None = Col(default=None, sa_column=Column(Text))
