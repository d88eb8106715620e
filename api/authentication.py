"""Who asks: the token of a request, and what it may do."""

import asyncio
import contextlib
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime

from fastapi import Request

from closeloop import store
from closeloop.api.limits import Limiter
from closeloop.models.errors import NotAllowed, NotAuthenticated
from closeloop.models.tokens import Scope, TokenView
from closeloop.services import tokens
from closeloop.store.database import Sessions
from closeloop.store.errors import DATABASE_ERRORS

logger = logging.getLogger(__name__)

REMEMBERED_SECONDS = 1.0
"""For how long a token that was looked up is not looked up again: a revocation counts everywhere within it."""
MOST_REMEMBERED = 1_000
USED_EVERY_SECONDS = 30.0
SCHEME = "bearer "
MOST_CHARACTERS = 200  # of a token


class Tokens:
    """Looks tokens up, remembers them for a second, and records when they were last used."""

    def __init__(self, sessions: Sessions, limiter: Limiter) -> None:
        self._sessions = sessions
        self._limiter = limiter
        self._known: OrderedDict[bytes, tuple[TokenView, float]] = OrderedDict()
        self._used: set[str] = set()
        self.refused = 0

    async def of_header(self, header: str | None, address: str) -> TokenView:
        """The token of an ``Authorization`` header. Raises NotAuthenticated, Problem."""
        if header is None:
            raise NotAuthenticated("A token is needed: send 'Authorization: Bearer TOKEN'.")
        secret = header[len(SCHEME) :].strip()
        if header[: len(SCHEME)].lower() != SCHEME or len(secret) > MOST_CHARACTERS:
            raise self._failed(address, _no_token())
        digest = hashlib.sha256(secret.encode()).digest()
        known = self._known.get(digest)
        if known is None and tokens.id_of(secret) is None:
            raise self._failed(address, _no_token())
        if known is not None and time.monotonic() - known[1] < REMEMBERED_SECONDS:
            if reason := tokens.no_longer(known[0], datetime.now(UTC)):
                raise NotAuthenticated(f"T{reason[1:]}: make another one with 'closeloop tokens add'.")
            self._used.add(known[0].token_id)
            return known[0]
        if known is None:
            self._limiter.check_logins(address)
        try:
            async with self._sessions() as session:
                token = await tokens.authenticate(session, secret)
        except NotAuthenticated as error:
            self._known.pop(digest, None)
            raise self._failed(address, error) from None
        self._known[digest] = token, time.monotonic()
        self._known.move_to_end(digest)
        if len(self._known) > MOST_REMEMBERED:
            self._known.popitem(last=False)
        self._used.add(token.token_id)
        return token

    def _failed(self, address: str, error: NotAuthenticated) -> NotAuthenticated:
        self.refused += 1
        self._limiter.failed_login(address)
        return error

    async def record_uses(self) -> None:
        """Record every half minute which tokens were used; for ever."""
        while True:
            await asyncio.sleep(USED_EVERY_SECONDS)
            used, self._used = self._used, set()
            if not used:
                continue
            with contextlib.suppress(*DATABASE_ERRORS):  # the next use tells again
                async with self._sessions.begin() as session:
                    await store.tokens.used(session, sorted(used), datetime.now(UTC))


def _no_token() -> NotAuthenticated:
    return NotAuthenticated("That is no token: 'closeloop tokens add' makes one.")


def token_of(request: Request) -> TokenView:
    """The token of a request that was let in."""
    token = request.scope.get("closeloop.token")
    if not isinstance(token, TokenView):  # /metrics on loopback, and the like
        raise NotAuthenticated("A token is needed: send 'Authorization: Bearer TOKEN'.")
    return token


def require(request: Request, scope: Scope, book: str | None = None) -> TokenView:
    """The token of a request, which has to have this scope, and be for this book. Raises NotAllowed."""
    token = token_of(request)
    if scope not in token.scopes:
        has = ", ".join(token.scopes)
        raise NotAllowed(f"The token {token.name} has no scope {scope}: it has {has}.")
    if book is not None and (reason := tokens.not_for(token, scope, book)):
        raise NotAllowed(f"T{reason[1:]}.")
    return token


def books_of(request: Request, book: str | None) -> Sequence[str | None]:
    """The books that a list is asked of: the named one, those of the token, or all (a None). Raises NotAllowed."""
    token = require(request, Scope.read, book)
    if book is not None:
        return [book]
    return [None] if token.books is None else sorted(set(token.books))
