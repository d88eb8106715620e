"""Tokens: making, listing and revoking them, and whether one may do what it is shown for.

A token is ``clp_``, its id (which is no secret), 256 random bits and a checksum, by which one that was cut or mistyped
is told without a look at the database. It is shown once; what is stored is its SHA-256: of so many random bits, a slow
hash protects no better. Those of before (``clt_``) have an argon2 hash (RFC 9106) and stay valid. Every door that asks
for a token comes by :func:`authenticate`.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
import zlib
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.errors import NotAcceptable, NotAllowed, NotAuthenticated, NotOnRecord, NotPossibleNow
from closeloop.models.events import EventType
from closeloop.models.tokens import NewToken, Scope, TokenRequest, TokenView

_SECRET = re.compile(r"clp_([0-9a-f]{12})_[A-Za-z0-9_-]{43}([0-9a-f]{8})")
_BEFORE = re.compile(r"clt_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_SHA256 = "sha256:"


async def create(session: AsyncSession, wanted: TokenRequest) -> NewToken:
    """Make a token. Its books need not exist yet: the first message of an engine makes its book. Commits.

    Raises NotAcceptable for an expiry that has passed, NotPossibleNow where a token of this name is there that was not
    revoked.
    """
    if wanted.expires_at is not None and wanted.expires_at <= datetime.now(UTC):
        raise NotAcceptable("The token would have expired already: give a time in the future.")
    token_id = secrets.token_hex(6)
    unchecked = f"clp_{token_id}_{secrets.token_urlsafe(32)}"
    secret = unchecked + _checksum(unchecked)
    if not await store.tokens.add(session, token_id, _hash(secret), wanted):
        raise NotPossibleNow(
            f"There is a token {wanted.name} already: 'closeloop tokens revoke {wanted.name}' makes room for a new one."
        )
    payload = wanted.model_dump(mode="json") | {"token_id": token_id}
    await store.events.append(session, (EventType.token_created, token_id, payload))
    held = await store.tokens.hold(session, token_id)
    assert held is not None, "it was just added"
    await session.commit()
    return NewToken(**held[0].model_dump(), token=secret)


async def unknown_books(session: AsyncSession, token: TokenView) -> list[str]:
    """Those of a token's books that are not on record yet, by name."""
    return sorted(set(token.books or []) - await store.books.existing(session, token.books or []))


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
    token = await authenticate(session, secret)
    if reason := not_for(token, scope, book):
        raise NotAllowed(f"T{reason[1:]}.")
    return token


async def authenticate(session: AsyncSession, secret: str) -> TokenView:
    """The token of a secret; it cannot be revoked before the transaction ends. Raises NotAuthenticated."""
    token_id = id_of(secret)
    held = await store.tokens.hold(session, token_id) if token_id else None
    if held is None or not await _is_of(held[1], secret):
        raise NotAuthenticated("The token is unknown here: 'closeloop tokens add NAME --scope operate' makes one.")
    if reason := no_longer(held[0], datetime.now(UTC)):
        raise NotAuthenticated(f"T{reason[1:]}: make another one with 'closeloop tokens add'.")
    return held[0]


def id_of(secret: str) -> str | None:
    """The id that a secret names; None where it cannot be one of ours: no look at the database is needed."""
    if named := _SECRET.fullmatch(secret):
        return named[1] if hmac.compare_digest(named[2], _checksum(secret[:-8])) else None
    named = _BEFORE.fullmatch(secret)
    return named[1] if named else None


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


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def _hash(secret: str) -> str:
    return _SHA256 + hashlib.sha256(secret.encode()).hexdigest()


async def _is_of(stored: str, secret: str) -> bool:
    if stored.startswith(_SHA256):
        return hmac.compare_digest(stored, _hash(secret))
    return await asyncio.to_thread(_is_of_argon2, stored, secret)


def _is_of_argon2(stored: str, secret: str) -> bool:
    import argon2  # most processes never see a token of before

    try:
        return argon2.PasswordHasher().verify(stored, secret)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False
