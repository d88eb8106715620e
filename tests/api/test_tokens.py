"""Who may what: every path of the OpenAPI document, without a token and with each that is not right."""

import asyncio
from typing import Any

import pytest

from closeloop.models.tokens import Scope
from tests.api.doors import Answered, ApiProcess
from tests.closes import message
from tests.store.databases import query

OPEN = {"/healthz", "/readyz", "/metrics"}
ANY_TOKEN = {"/openapi.json", "/docs"}
FILLED = {"{kind}": "weights", "{book}": "default", "{id}": "2026-W48"}


async def operations(api: ApiProcess) -> list[tuple[str, str, set[str]]]:
    """Method, path with its parameters filled in, and documented statuses, of every operation."""
    told = await api.ask("GET", "/openapi.json", token=await api.token(Scope.read))
    found = []
    for path, methods in told.body["paths"].items():
        for method, operation in methods.items():
            whole = path
            for name, value in FILLED.items():
                whole = whole.replace(name, value)
            needed = [
                one["name"] for one in operation.get("parameters", []) if one["in"] == "query" and one["required"]
            ]
            whole += "?" + "&".join(f"{name}=x" for name in needed) if needed else ""
            found.append((method.upper(), whole, set(operation["responses"])))
    return found


def scope_of(method: str, path: str) -> Scope:
    """The scope that an operation needs."""
    if path.endswith((":approve", ":reject", ":revert")):
        return Scope.operate
    if method == "POST" and path not in ("/v1/levers", "/v1/overrides:match"):
        return Scope.ingest
    return Scope.read


def is_problem(answered: Answered, status: int) -> None:
    assert answered.status == status, answered
    assert answered.headers["content-type"] == "application/problem+json"
    assert answered.body["status"] == status
    assert answered.body["title"]
    assert answered.body["detail"]


async def test_every_path_refuses_every_token_that_is_not_right(api: ApiProcess) -> None:
    wide = (Scope.ingest, Scope.read, Scope.operate)
    good = await api.token(*wide)
    gone, brief = await api.token(*wide), await api.token(*wide, seconds=1)
    await api.revoke(gone)
    await asyncio.sleep(1.1)
    bad: dict[str, str | None] = {
        "none": None,
        "garbage": "clp_x_y",
        "its checksum": good[:-1] + ("0" if good[-1] != "0" else "1"),
        "revoked": gone,
        "expired": brief,
        "not ASCII": "clp_\xe9",
    }
    missing = {scope: await api.token(*(other for other in Scope if other != scope)) for scope in Scope}
    asked = await operations(api)
    assert len(asked) > 45
    for method, path, documented in asked:
        body: Any = {} if method == "POST" else None
        for name, token in bad.items():
            if token is None and path in OPEN:
                continue
            answered = await api.ask(method, path, body, token)
            assert answered.status == 401, (name, method, path, answered)
            is_problem(answered, 401)
            assert answered.headers["www-authenticate"].startswith("Bearer")
            assert "401" in documented
        if path not in ANY_TOKEN:
            answered = await api.ask(method, path, body, missing[scope_of(method, path)])
            if path == "/healthz":
                assert answered.status in (200, 403)
                continue
            is_problem(answered, 403)
            assert scope_of(method, path) in answered.body["detail"]
            assert "403" in documented, path


async def test_a_token_of_other_books_neither_sends_nor_reads_nor_decides(api: ApiProcess, book: str) -> None:
    other = await api.token(Scope.ingest, Scope.read, Scope.operate, books=[f"{book}-other"])
    for method, path, body, headers in (
        ("POST", "/v1/positions", message(book), {}),
        ("POST", "/v1/positions", [message(book, "p-1"), message(book, "p-2")], {}),
        ("POST", "/v1/batch", [{"kind": "positions", "message": message(book)}], {}),
        ("POST", "/learning/collect/thesis-decision", {"book": book, "symbol": "X"}, {}),
        ("POST", "/v1/heartbeats", {"producer_id": "p"}, {}),  # no book is the book default
        ("GET", f"/v1/weights?book={book}", None, {}),
        ("GET", f"/v1/outcomes?book={book}", None, {}),
        ("POST", "/v1/overrides:match", {"book": book, "pattern_key": "a", "action_category": "b", "scope": {}}, {}),
        ("POST", f"/v1/levers?book={book}", {"bucket": "nano", "timeframe": "1h"}, {}),
        ("POST", f"/v1/approvals/weights/{book}/2026-W01:approve", {}, {"If-Match": '"x"'}),
    ):
        is_problem(await api.ask(method, path, body, other, headers), 403)
    assert await query(api.sessions, "SELECT position_id FROM positions WHERE book_id = :book", book=book) == []
    named = await api.ask("GET", f"/v1/approvals/weights/{book}/2026-W01", None, other)
    assert named.status in (403, 404)


async def test_what_is_of_other_books_is_refused_beside_what_is_not(api: ApiProcess, book: str) -> None:
    token = await api.token(Scope.ingest, Scope.read, books=[book])
    sent = [message(book, "mine"), message(f"{book}-other", "theirs"), message(book, "mine too")]
    answered = await api.ask("POST", "/v1/positions", sent, token)
    assert answered.status == 202
    results = answered.body["results"]
    assert [one["status"] for one in results] == ["accepted", "refused", "accepted"]
    assert results[1]["reason"].startswith("book: ")
    listed = await api.ask("GET", "/v1/books", None, token)
    assert [one["book"] for one in listed.body] == [book]
    rows = await query(api.sessions, "SELECT position_id FROM positions WHERE book_id LIKE :book", book=f"{book}%")
    assert {row["position_id"] for row in rows} == {"mine", "mine too"}


@pytest.mark.parametrize("kind", ["Basic", "bearer", "BEARER"])
async def test_the_scheme_may_be_written_as_the_sender_likes(api: ApiProcess, kind: str) -> None:
    token = await api.token(Scope.read)
    answered = await api.ask("GET", "/v1/approvals", headers={"Authorization": f"{kind} {token}"})
    assert answered.status == (401 if kind == "Basic" else 200)


async def test_a_token_that_is_revoked_ends_within_a_second(api: ApiProcess) -> None:
    token = await api.token(Scope.read)
    assert (await api.ask("GET", "/v1/approvals", token=token)).status == 200
    await api.revoke(token)
    await asyncio.sleep(1.1)
    assert (await api.ask("GET", "/v1/approvals", token=token)).status == 401


async def test_no_answer_tells_the_token_that_asked(api: ApiProcess, book: str) -> None:
    token = await api.token(Scope.ingest, Scope.read, Scope.operate)
    asked = [
        await api.ask("GET", f"/v1/weights?book={book}", token=token),
        await api.ask("POST", "/v1/positions", {"book": book}, token),
        await api.ask("GET", "/v1/nothing", token=token),
        await api.ask("POST", "/v1/batch", [{"kind": "none", "message": {}}], token),
        await api.ask("POST", f"/v1/approvals/weights/{book}/x:approve", {}, token, {"If-Match": '"x"'}),
    ]
    random = token.split("_", 2)[2]
    assert [one.status for one in asked] == [404, 422, 404, 202, 404]
    assert all(random not in f"{one.headers} {one.body}" for one in asked)
