"""What the HTTP door counts of itself, so that its health can be told whichever process is asked."""

from datetime import datetime
from typing import Any

from sqlalchemy import Column, DateTime, Index, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

READS = "reads"
"""The kind under which reads of what was learned are counted."""

LATENCY_BOUNDS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)
"""Upper bounds of the classes in which latencies are counted (ms); a last class holds what took longer."""


class DoorMinute(SQLModel, table=True):
    """What one API process counted in a minute, by kind of message or ``reads``.

    ``counts``: how many answers of each status, how long they took in all (``ms``) and how many fell into each class of
    latency (``le``, see LATENCY_BOUNDS_MS). A process adds to its own row; rows are kept for 31 days.
    """

    __tablename__ = "door_minutes"
    __table_args__ = (Index("door_minutes_kind", "kind", "minute"),)

    minute: datetime = Col(sa_column=Column(DateTime(timezone=True), primary_key=True))
    kind: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    process: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    counts: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False, server_default=text("'{}'::jsonb")))
