"""Tokens: shown once, stored as a hash, valid for a scope, for books and for a time."""

import asyncio
import zlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from closeloop import store
from closeloop.models.errors import NotAcceptable, NotAllowed, NotAuthenticated, NotOnRecord, NotPossibleNow
from closeloop.models.tokens import NewToken, Scope, TokenRequest
from closeloop.services import tokens
from closeloop.store.database import Sessions
from tests.store.databases import query, scratch_database, sessions_on


@pytest.fixture
async def own(dsn: str) -> AsyncIterator[Sessions]:
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as sessions:
        async with sessions.begin() as session:
            for book in ("a", "b"):
                await store.books.hold(session, book)
        yield sessions


async def made(own: Sessions, name: str = "ann", **changes: object) -> NewToken:
    async with own() as session:
        wanted = TokenRequest.model_validate({"name": name, "scopes": [Scope.operate]} | changes)
        return await tokens.create(session, wanted)


async def verified(own: Sessions, secret: str, scope: Scope = Scope.operate, book: str = "a") -> str:
    async with own() as session:
        return (await tokens.verify(session, secret, scope, book)).name


async def test_a_token_is_known_by_its_secret_which_is_stored_nowhere(own: Sessions) -> None:
    token = await made(own)
    assert await verified(own, token.token) == "ann"
    [row] = await query(own, "SELECT * FROM api_tokens")
    assert row["secret_hash"].startswith("sha256:")
    random = token.token[17:]
    events = await query(own, "SELECT payload\\:\\:text AS text FROM events")
    assert all(random not in str(value) for value in [*row.values(), *(event["text"] for event in events)])
    async with own() as session:
        [shown] = await tokens.listing(session)
    assert token.model_dump(exclude={"token"}) == shown.model_dump()
    assert "secret" not in shown.model_dump_json()
    assert "clp_" not in shown.model_dump_json()


@pytest.mark.parametrize("spoil", [lambda s: s[:-1] + ("A" if s[-1] != "A" else "B"), lambda s: "", lambda s: s + "x"])
async def test_another_secret_is_unknown(spoil: object, own: Sessions) -> None:
    token = await made(own)
    assert callable(spoil)
    for secret in (spoil(token.token), "clt_" + "0" * 12 + "_" + token.token[17:60], token.token_id):
        with pytest.raises(NotAuthenticated, match="unknown"):
            await verified(own, secret)


async def test_one_token_does_not_open_with_the_secret_of_another(own: Sessions) -> None:
    ann, bob = await made(own), await made(own, "bob")
    mixed = f"clp_{ann.token_id}_{bob.token[17:60]}"
    mixed += f"{zlib.crc32(mixed.encode()):08x}"  # its checksum is right
    with pytest.raises(NotAuthenticated):
        await verified(own, mixed)


async def test_a_scope_a_book_and_an_expiry(own: Sessions) -> None:
    reader = await made(own, "reader", scopes=[Scope.read])
    with pytest.raises(NotAllowed, match=r"^The token reader has no scope operate: it has read\.$"):
        await verified(own, reader.token)
    of_a_book = await made(own, "of-a", books=["a"])
    assert await verified(own, of_a_book.token) == "of-a"
    with pytest.raises(NotAllowed, match="not for book b: it is for a"):
        await verified(own, of_a_book.token, book="b")
    short = await made(own, "short", expires_at=datetime.now(UTC) + timedelta(hours=1))
    assert await verified(own, short.token) == "short"
    await query(own, "UPDATE api_tokens SET expires_at = now() - interval '1 s' WHERE name = 'short'")
    with pytest.raises(NotAuthenticated, match=r"^The token short expired at .* UTC: make another one"):
        await verified(own, short.token)
    async with own() as session:
        assert [view.state for view in await tokens.listing(session)] == ["valid", "valid", "expired"]


async def test_a_book_may_come_after_its_token(own: Sessions) -> None:
    token = await made(own, books=["later", "a"])
    async with own() as session:
        assert await tokens.unknown_books(session, token) == ["later"]
    assert await verified(own, token.token, book="later") == "ann"


async def test_what_cannot_be_made(own: Sessions) -> None:
    with pytest.raises(NotAcceptable, match="expired already"):
        await made(own, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    await made(own)
    with pytest.raises(NotPossibleNow, match="tokens revoke ann"):
        await made(own)
    assert len(await query(own, "SELECT 1 FROM api_tokens")) == 1


async def test_two_of_a_name_at_once_are_one(own: Sessions) -> None:
    outcomes = await asyncio.gather(*(made(own) for _ in range(4)), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NewToken", *["NotPossibleNow"] * 3]


async def test_revoked_it_is_refused_and_its_name_is_free(own: Sessions) -> None:
    first = await made(own)
    async with own() as session:
        assert (await tokens.revoke(session, "ann")).state == "revoked"
        with pytest.raises(NotOnRecord, match="no token ann that could be revoked"):
            await tokens.revoke(session, "ann")
    with pytest.raises(NotAuthenticated, match="was revoked at"):
        await verified(own, first.token)
    second = await made(own)
    assert await verified(own, second.token) == "ann"
    with pytest.raises(NotAuthenticated):
        await verified(own, first.token)
    kinds = [row["type"] for row in await query(own, "SELECT type FROM events ORDER BY id")]
    assert kinds == ["token.created.v1", "token.revoked.v1", "token.created.v1"]
