"""Tokens: making, listing and revoking them, and whether one may do what it is shown for.

A secret is ``clt_``, the token's id (which is no secret), and 256 random bits. It is shown once; what is stored is its
argon2 hash (RFC 9106). Every door that asks for a token comes by :func:`verify`.
"""

import asyncio
import re
import secrets
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.errors import NotAcceptable, NotAllowed, NotAuthenticated, NotOnRecord, NotPossibleNow
from closeloop.models.events import EventType
from closeloop.models.tokens import NewToken, Scope, TokenRequest, TokenView
from closeloop.services import books

_SECRET = re.compile(r"clt_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")


async def create(session: AsyncSession, wanted: TokenRequest) -> NewToken:
    """Make a token. Commits.

    Raises NotOnRecord for a book that is not there, NotAcceptable for an expiry that has passed, NotPossibleNow where a
    token of this name is there that was not revoked.
    """
    for book in wanted.books or []:
        await books.find(session, book)
    if wanted.expires_at is not None and wanted.expires_at <= datetime.now(UTC):
        raise NotAcceptable("The token would have expired already: give a time in the future.")
    token_id = secrets.token_hex(6)
    secret = f"clt_{token_id}_{secrets.token_urlsafe(32)}"
    if not await store.tokens.add(session, token_id, await asyncio.to_thread(_hash, secret), wanted):
        raise NotPossibleNow(
            f"There is a token {wanted.name} already: 'closeloop tokens revoke {wanted.name}' makes room for a new one."
        )
    payload = wanted.model_dump(mode="json") | {"token_id": token_id}
    await store.events.append(session, (EventType.token_created, token_id, payload))
    held = await store.tokens.hold(session, token_id)
    assert held is not None, "it was just added"
    await session.commit()
    return NewToken(**held[0].model_dump(), secret=secret)


async def listing(session: AsyncSession) -> list[TokenView]:
    """Every token, the oldest first: those that were revoked or have expired, too."""
    return await store.tokens.listing(session)


async def revoke(session: AsyncSession, name: str) -> TokenView:
    """Revoke the token of a name: from now on it decides nothing, nor does what was recorded with it. Commits.

    Raises NotOnRecord where there is none of this name to revoke.
    """
    revoked = await store.tokens.revoke(session, name)
    if revoked is None:
        raise NotOnRecord(f"There is no token {name} that could be revoked: 'closeloop tokens list' shows them.")
    token_id, at = revoked
    payload = {"name": name, "token_id": token_id, "at": at.isoformat()}
    await store.events.append(session, (EventType.token_revoked, token_id, payload))
    held = await store.tokens.hold(session, token_id)
    assert held is not None, "it was just revoked"
    await session.commit()
    return held[0]


async def verify(session: AsyncSession, secret: str, scope: Scope, book: str) -> TokenView:
    """The token of a secret, for a scope in a book; it cannot be revoked before the transaction ends.

    Raises NotAuthenticated for a secret that is none of ours, expired or revoked; NotAllowed for another scope or book.
    """
    named = _SECRET.fullmatch(secret)
    held = await store.tokens.hold(session, named[1]) if named else None
    if held is None or not await asyncio.to_thread(_is_of, held[1], secret):
        raise NotAuthenticated("The token is unknown here: 'closeloop tokens create NAME --scope operate' makes one.")
    token = held[0]
    if reason := no_longer(token, datetime.now(UTC)):
        raise NotAuthenticated(f"T{reason[1:]}: make another one with 'closeloop tokens create'.")
    if reason := not_for(token, scope, book):
        raise NotAllowed(f"T{reason[1:]}.")
    return token


def no_longer(token: TokenView, at: datetime) -> str | None:
    """Why a token was no longer valid at an instant; None if it was. Revoked means revoked, whatever the instant."""
    if token.revoked_at is not None:
        return f"the token {token.name} was revoked at {token.revoked_at:%Y-%m-%d %H:%M:%S} UTC"
    if token.expires_at is not None and token.expires_at <= at:
        return f"the token {token.name} expired at {token.expires_at:%Y-%m-%d %H:%M:%S} UTC"
    return None


def not_for(token: TokenView, scope: Scope, book: str) -> str | None:
    """Why a token may not do something in a book; None if it may."""
    if scope not in token.scopes:
        return f"the token {token.name} has no scope {scope}: it has {', '.join(token.scopes)}"
    if token.books is not None and book not in token.books:
        return f"the token {token.name} is not for book {book}: it is for {', '.join(token.books)}"
    return None


def _hash(secret: str) -> str:
    import argon2  # most processes never see a token

    return argon2.PasswordHasher().hash(secret)


def _is_of(secret_hash: str, secret: str) -> bool:
    import argon2

    try:
        return argon2.PasswordHasher().verify(secret_hash, secret)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False
