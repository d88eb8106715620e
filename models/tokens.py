"""Tokens by which an operator, or an engine, is known: what is stored of them, and what is shown."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Column, DateTime, Index, Text, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from closeloop.models.values import BookId, Identifier, Utc


class Scope(StrEnum):
    """What a token is for: to send messages, to read what is on record, to decide on what waits."""

    ingest = "ingest"
    read = "read"
    operate = "operate"


class TokenRequest(BaseModel):
    """Make a token. Its name is the operator's in the audit trail. Without books it holds for all of them."""

    model_config = ConfigDict(frozen=True)

    name: Annotated[Identifier, Field(max_length=200)]
    scopes: Annotated[list[Scope], Field(min_length=1)]
    books: Annotated[list[BookId], Field(min_length=1, max_length=100)] | None = None
    expires_at: Utc | None = None


class TokenView(BaseModel):
    """A token as it is shown: never its secret, never the hash of that. ``token_id`` is the part that is no secret."""

    token_id: str
    name: str
    scopes: list[Scope]
    books: list[str] | None = Field(description="Null: every book.")
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="At the HTTP door, to the minute.")
    state: str = Field(description="valid, expired or revoked.")


class NewToken(TokenView):
    """A token that was just made. ``token`` is the secret: it is shown this once, and stored nowhere."""

    token: str


class ApiToken(SQLModel, table=True):
    """A token; of its secret only the hash. One that is valid has a name of its own."""

    __tablename__ = "api_tokens"
    __table_args__ = (Index("api_tokens_name", "name", unique=True, postgresql_where=text("revoked_at IS NULL")),)

    token_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    name: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    secret_hash: str = Col(sa_column=Column(Text, nullable=False))
    scopes: list[str] = Col(sa_column=Column(ARRAY(Text), nullable=False))
    books: list[str] | None = Col(default=None, sa_column=Column(ARRAY(Text)))
    created_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )
    expires_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    revoked_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    last_used_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
