"""Which tokens a bucket is made of: rows as an engine sends them, spans on record, and what became of rows."""

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from closeloop.models.assets import canonical_asset
from closeloop.models.market import BUCKETS, Driver
from closeloop.models.values import Identifier, Utc

MAX_TOKEN_ROWS = 50_000
"""Rows of one import: they are compared with what is on record at once, in one transaction."""


class TokenSpan(BaseModel):
    """An asset belongs to a bucket from ``valid_from`` until before ``valid_to``; null: until further notice."""

    model_config = ConfigDict(frozen=True)

    asset: Identifier = Field(description="As its candles are named: BONK/USDT.")
    bucket: Driver = Field(description="nano, small, mid or big.")
    valid_from: Utc
    valid_to: Utc | None = None

    @field_validator("asset")
    @classmethod
    def _one_name(cls, asset: str) -> str:
        return canonical_asset(asset)

    @field_validator("bucket", mode="before")
    @classmethod
    def _bucket(cls, bucket: Any) -> Any:
        if bucket not in BUCKETS:
            raise ValueError(f"must be one of {', '.join(BUCKETS)}")
        return bucket

    @field_validator("valid_to", mode="before")
    @classmethod
    def _no_end(cls, end: Any) -> Any:
        return None if end == "" else end  # a table's empty cell

    @model_validator(mode="after")
    def _some_time(self) -> Self:
        if self.valid_to is not None and self.valid_to <= self.valid_from:
            raise ValueError("valid_to: must be after valid_from")
        return self


class TokenView(TokenSpan):
    """A span as it is shown. ``candles_until``: the end of the asset's newest one-minute candle, null without any: the
    bucket's index cannot hear of such a token."""

    id: str
    candles_until: datetime | None


class RejectedToken(BaseModel):
    """A row that was refused, and why. Rows are counted from 0."""

    row: int
    reason: str


class TokensReport(BaseModel):
    """What became of rows: ``recorded`` changed something, ``already_recorded`` said what was known."""

    recorded: int = 0
    already_recorded: int = 0
    ended: int = Field(default=0, description="Spans on record that end earlier than they did.")
    changed_from: datetime | None = Field(
        default=None, description="The earliest instant at which a bucket has other members: from there on it is anew."
    )
    rejected: list[RejectedToken] = []
