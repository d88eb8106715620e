"""What operators do over HTTP: a decision is bound to what was seen, its operator is the token's name."""

import asyncio
import json
import uuid
from datetime import UTC, datetime

import pytest
from temporalio.client import Client

from closeloop import store
from closeloop.models.policy import LearningPolicy
from closeloop.models.tokens import Scope
from closeloop.services import meta, weights
from tests.activities.attributing import attributed
from tests.activities.weighing import AS_OF, history
from tests.api.doors import Answered, ApiProcess
from tests.api.test_tokens import is_problem
from tests.store.databases import query
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture
async def token(api: ApiProcess) -> str:
    return await api.token(Scope.read, Scope.operate)


@pytest.fixture
async def path(api: ApiProcess, client: Client, book: str) -> str:
    """Of a proposal that waits: that the book's meta-producer leaves shadow."""
    async with api.sessions.begin() as session:
        await store.books.hold(session, book)
    found = await meta.propose(client, api.sessions, LearningPolicy(), book, datetime.now(UTC))
    return f"/v1/approvals/{found.workflow_id}"


async def seen(api: ApiProcess, path: str, token: str) -> dict[str, str]:
    return {"If-Match": (await api.ask("GET", path, None, token)).headers["etag"]}


async def mode(api: ApiProcess, book: str, token: str) -> str:
    return str((await api.ask("GET", f"/v1/meta?book={book}", None, token)).body["mode"])


async def test_a_decision_needs_what_was_seen_and_is_carried_out_under_the_tokens_name(
    api: ApiProcess, token: str, book: str, path: str
) -> None:
    listed = await api.ask("GET", f"/v1/approvals?book={book}", None, token)
    assert ["/v1/approvals/{kind}/{book}/{id}".format(**one) for one in listed.body] == [path]
    is_problem(await api.ask("POST", f"{path}:approve", {"note": "n"}, token), 428)
    for stale in ('"stale"', "stale", '"*"'):
        is_problem(await api.ask("POST", f"{path}:approve", {"note": "n"}, token, {"If-Match": stale}), 412)
    assert await mode(api, book, token) == "shadow"
    looked = await seen(api, path, token)
    answered = await api.ask("POST", f"{path}:approve", {"note": "looks right"}, token, looked)
    assert answered.status == 200
    assert answered.body["accepted"] is True
    assert answered.body["operator"] == api.names[token]
    assert await mode(api, book, token) == "live"
    shown = (await api.ask("GET", path, None, token)).body
    assert (shown["decision"]["operator"], shown["decision"]["note"]) == (api.names[token], "looks right")
    is_problem(await api.ask("POST", f"{path}:reject", {}, token, looked), 412)
    is_problem(await api.ask("POST", f"{path}:reject", {}, token, await seen(api, path, token)), 409)
    reverted = await api.ask("POST", f"{path}:revert", {"note": "worse"}, token, await seen(api, path, token))
    assert (reverted.status, reverted.body["accepted"]) == (200, True)
    assert await mode(api, book, token) == "shadow"
    is_problem(await api.ask("POST", f"{path}:revert", {}, token, await seen(api, path, token)), 409)


async def test_the_operator_cannot_be_typed(api: ApiProcess, token: str, path: str) -> None:
    looked = await seen(api, path, token)
    for body in ({"operator": "bob"}, {"by": "bob"}, {"note": 7}, [], "note", {"note": "n" * 4_001}):
        answered = await api.ask("POST", f"{path}:approve", json.dumps(body).encode(), token, looked)
        assert answered.status == 422, answered
    assert (await api.ask("POST", f"{path}:approve", b"", token, looked)).status == 400
    assert (await api.ask("POST", f"{path}:approve", b" " * 17_000, token, looked)).status == 413
    assert (await api.ask("GET", path, None, token)).body["state"] == "pending"


async def test_of_two_operators_at_once_one_decides(api: ApiProcess, token: str, book: str, path: str) -> None:
    other = await api.token(Scope.read, Scope.operate)
    looked = await seen(api, path, token)
    verdicts = [("approve", token), ("reject", other), ("approve", other), ("reject", token)]
    answers: list[Answered] = await asyncio.gather(
        *(api.ask("POST", f"{path}:{verdict}", {}, who, looked) for verdict, who in verdicts)
    )
    assert sorted(one.status for one in answers)[0] == 200
    assert [one.status for one in answers].count(200) == 1
    assert all(one.status in (409, 412) for one in answers if one.status != 200)
    events = await query(
        api.sessions,
        "SELECT type FROM events WHERE payload ->> 'book' = :book AND type SIMILAR TO '%(approved|rejected).v1'",
        book=book,
    )
    assert len(events) == 1


async def test_a_token_that_may_only_read_or_is_of_another_book_decides_nothing(
    api: ApiProcess, token: str, book: str, path: str
) -> None:
    looked = await seen(api, path, token)
    for who in (await api.token(Scope.read), await api.token(Scope.operate, books=[f"{book}-other"])):
        is_problem(await api.ask("POST", f"{path}:approve", {}, who, looked), 403)
    # What is not there and what is others' look alike to a token that is for some books only.
    limited = await api.token(Scope.read, Scope.operate, books=[f"{book}-other"])
    nothing = await api.ask("GET", f"/v1/approvals/meta/{book}-other/99", None, limited)
    is_problem(nothing, 404)
    assert nothing.body["detail"] == "It is not on record."


async def test_weights_are_approved_and_reverted(api: ApiProcess, token: str, book: str, client: Client) -> None:
    await attributed(api.sessions, *history(book))
    cycle = await weights.run_cycle(client, api.sessions, book, AS_OF)
    path = f"/v1/approvals/{cycle.workflow_id}"
    before = await api.ask("GET", f"/v1/weights?book={book}", None, token)
    answered = await api.ask("POST", f"{path}:approve", {}, token, await seen(api, path, token))
    assert answered.status == 200, answered

    async def weighed() -> Answered:
        return await api.ask("GET", f"/v1/weights?book={book}", None, token, {"If-None-Match": before.headers["etag"]})

    changed = await eventually(weighed, lambda found: found.status == 200)
    assert changed.body["weights"] == cycle.new
    back = await api.ask("POST", f"{path}:revert", {"note": "worse"}, token, await seen(api, path, token))
    assert (back.status, back.body["accepted"]) == (200, True)
    await asyncio.sleep(1.1)
    assert (await api.ask("GET", f"/v1/weights?book={book}", None, token)).body["weights"] == before.body["weights"]


async def test_what_is_not_on_record_is_told(api: ApiProcess, token: str) -> None:
    unknown = uuid.uuid4().hex
    for path in (f"/v1/approvals/meta/{unknown}/1", f"/v1/approvals/{unknown}/b/1", "/v1/approvals/weights/b/never"):
        is_problem(await api.ask("GET", path, None, token), 404)
        is_problem(await api.ask("POST", f"{path}:approve", {}, token, {"If-Match": '"x"'}), 404)
