"""Tokens: their names, scopes and hashes."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.tokens import ApiToken, TokenRequest, TokenView
from closeloop.store.rows import execute, insertion

_SHOWN = (
    "token_id, name, scopes, books, created_at, expires_at, revoked_at, last_used_at, "
    "CASE WHEN revoked_at IS NOT NULL THEN 'revoked' "
    "WHEN expires_at <= clock_timestamp() THEN 'expired' ELSE 'valid' END AS state"
)


async def add(session: AsyncSession, token_id: str, secret_hash: str, wanted: TokenRequest) -> bool:
    """Store a token; False where one of this name is there that was not revoked."""
    row = {"token_id": token_id, "secret_hash": secret_hash, **wanted.model_dump(mode="json")}
    added = await execute(
        session,
        insertion(ApiToken, [row], on_conflict="(name) WHERE revoked_at IS NULL DO NOTHING", returning="token_id"),
    )
    return bool(added)


async def hold(session: AsyncSession, token_id: str) -> tuple[TokenView, str] | None:
    """A token and the hash of its secret, not to be revoked before the transaction ends; None where there is none."""
    result = await session.execute(
        text(f"SELECT {_SHOWN}, secret_hash FROM api_tokens WHERE token_id = :id FOR SHARE"),  # noqa: S608
        {"id": token_id},
    )
    row = result.mappings().one_or_none()
    return None if row is None else (TokenView.model_validate(dict(row)), str(row["secret_hash"]))


async def listing(session: AsyncSession) -> list[TokenView]:
    """Every token, the oldest first."""
    result = await session.execute(text(f"SELECT {_SHOWN} FROM api_tokens ORDER BY created_at, token_id"))  # noqa: S608
    return [TokenView.model_validate(dict(row)) for row in result.mappings()]


async def revoke(session: AsyncSession, name: str) -> tuple[str, datetime] | None:
    """Revoke the token of a name, now; its id and when. None where none of this name is left to revoke."""
    result = await session.execute(
        text(
            "UPDATE api_tokens SET revoked_at = clock_timestamp() WHERE name = :name AND revoked_at IS NULL "
            "RETURNING token_id, revoked_at"
        ),
        {"name": name},
    )
    row = result.one_or_none()
    return None if row is None else (row.token_id, row.revoked_at)


async def used(session: AsyncSession, token_ids: Sequence[str], at: datetime) -> None:
    """Record that tokens were used, those of which a use within the minute before is not on record already."""
    await session.execute(
        text(
            "UPDATE api_tokens SET last_used_at = :at WHERE token_id IN (SELECT token_id FROM api_tokens "
            "WHERE token_id = ANY(CAST(:ids AS text[])) "
            "AND (last_used_at IS NULL OR last_used_at < CAST(:at AS timestamptz) - interval '1 minute') "
            "ORDER BY token_id FOR NO KEY UPDATE)"
        ),
        {"at": at, "ids": list(token_ids)},
    )
