"""What is read: bounded lists that page, cheap polling, questions, and what every answer carries."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from closeloop.api.reads import LISTS
from closeloop.models.parameters import ModeRequest, ParameterMode
from closeloop.models.positions import ClosedPosition
from closeloop.models.tokens import Scope
from closeloop.services import parameters
from closeloop.workers.settings import Settings
from tests.activities.patterning import learn
from tests.api.doors import ApiProcess, api_on
from tests.closes import series
from tests.store.databases import scratch_database


@pytest.fixture
async def token(api: ApiProcess) -> str:
    return await api.token(Scope.ingest, Scope.read)


@pytest.fixture
async def closes(api: ApiProcess, book: str) -> list[ClosedPosition]:
    """Thirty closes of the book, attributed."""
    made = series(book, 30)
    await learn(api.sessions, made)
    return made


@pytest.mark.usefixtures("closes")
async def test_every_list_answers_for_a_book_and_is_bounded(api: ApiProcess, token: str, book: str) -> None:
    for name in LISTS:
        answered = await api.ask("GET", f"/v1/{name}?book={book}&limit=5", None, token)
        assert answered.status == 200, (name, answered)
        assert isinstance(answered.body, list), name
        assert len(answered.body) <= 5
        for limit in ("0", "-1", "1001", "many"):
            assert (await api.ask("GET", f"/v1/{name}?limit={limit}", None, token)).fields == ["limit"]
        unknown = await api.ask("GET", f"/v1/{name}?book={book}-none", None, token)
        assert unknown.status == 404, name


async def test_a_list_pages_backwards_to_its_beginning(
    api: ApiProcess, token: str, book: str, closes: list[ClosedPosition]
) -> None:
    seen: list[str] = []
    before = ""
    while True:
        answered = await api.ask("GET", f"/v1/outcomes?book={book}&limit=8{before}", None, token)
        assert answered.status == 200, answered
        page = answered.body
        if not page:
            break
        seen = [one["position_id"] for one in page] + seen
        before = f"&before={page[0]['position_id']}"
    assert seen == [close.position_id for close in closes]
    nothing = await api.ask("GET", f"/v1/outcomes?book={book}&before={book}/none", None, token)
    assert nothing.status == 404


@pytest.mark.usefixtures("closes")
async def test_polling_costs_a_304_until_the_answer_changes(api: ApiProcess, token: str, book: str) -> None:
    for path in (
        f"/v1/weights?book={book}",
        f"/v1/overrides:match?book={book}&pattern=a&action=entry&scope=chain%3Dsolana",
        f"/learning/intelligence/adaptive-params?book={book}&symbol=X",
        f"/learning/intelligence/pattern-insights?book={book}",
        f"/learning/intelligence/current-recommendations?book={book}",
    ):
        first = await api.ask("GET", path, None, token)
        assert first.status == 200, (path, first)
        assert "stale-if-error" in first.headers["cache-control"]
        tag = first.headers["etag"]
        for header in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            same = await api.ask("GET", path, None, token, {"If-None-Match": header})
            assert (same.status, same.body, same.headers["etag"]) == (304, "", tag), path
        assert (await api.ask("GET", path, None, token, {"If-None-Match": '"other"'})).status == 200
        await asyncio.sleep(1.1)  # after which it was computed anew: what did not change has the same tag
        assert (await api.ask("GET", path, None, token, {"If-None-Match": tag})).status == 304, path


@pytest.mark.usefixtures("closes")
async def test_a_change_is_seen_within_a_second(api: ApiProcess, token: str, book: str) -> None:
    path = f"/learning/intelligence/adaptive-params?book={book}&symbol=X"
    first = await api.ask("GET", path, None, token)
    assert first.body["arm"] == "default"
    async with api.sessions() as session:
        await parameters.set_mode(session, ModeRequest(book=book, mode=ParameterMode.live, operator="ann"))
    await asyncio.sleep(1.1)
    second = await api.ask("GET", path, None, token, {"If-None-Match": first.headers["etag"]})
    assert (second.status, second.body["arm"]) == (200, "learned")


@pytest.mark.usefixtures("closes")
async def test_questions_are_answered_as_the_commands_answer_them(api: ApiProcess, token: str, book: str) -> None:
    levers = await api.ask("POST", "/v1/levers", {"bucket": "nano", "timeframe": "1h"}, token)
    assert levers.status == 200
    assert 0 <= levers.body["A"] <= 1
    given = await api.ask("POST", f"/v1/levers?book={book}", {"bucket": "nano", "timeframe": "1h"}, token)
    assert given.body["levers_id"]
    for asked in ({"bucket": "huge", "timeframe": "1h"}, {"timeframe": "1h", "intent": {"hi_buy": 7}}, [], "x"):
        assert (
            await api.ask("POST", "/v1/levers", asked if isinstance(asked, dict | list) else b'"x"', token)
        ).status == 422
    wanted = {"book": book, "pattern_key": "a", "action_category": "entry", "scope": {"chain": "solana"}}
    by_body = await api.ask("POST", "/v1/overrides:match", wanted, token)
    asked_of = f"/v1/overrides:match?book={book}&pattern=a&action=entry&scope="
    by_query = await api.ask("GET", f"{asked_of}chain%3Dsolana", None, token)
    assert by_body.body == by_query.body
    assert by_body.body["size_multiplier"] == 1.0
    for scope in ("chain", "%3Dx", "a%3Db,,"):
        assert (await api.ask("GET", f"{asked_of}{scope}", None, token)).fields == ["scope"], scope
    summary = await api.ask("GET", f"/v1/outcomes/summary?book={book}", None, token)
    assert summary.body["count"] == 30
    events = await api.ask("GET", f"/v1/events?book={book}&type=position.closed.v1&limit=3", None, token)
    assert [one["type"] for one in events.body] == ["position.closed.v1"] * len(events.body)


async def test_what_is_of_no_book(api: ApiProcess, token: str, book: str) -> None:
    for path in ("prices", "prices/failing", "prices/affected", "market/tokens", "market/states", "books"):
        answered = await api.ask("GET", f"/v1/{path}", None, token)
        assert answered.status == 200, answered
        assert isinstance(answered.body, list)
    storage = await api.ask("GET", "/v1/storage", None, token)
    assert "inbox" in {table["table"] for table in storage.body["tables"]}
    limited = await api.token(Scope.read, books=[book])
    assert (await api.ask("GET", "/v1/prices/affected", None, limited)).body == []


async def test_every_answer_has_a_request_id_and_opens_nothing_to_browsers(api: ApiProcess, token: str) -> None:
    for method, path, given in (
        ("GET", "/healthz", "mine-1"),
        ("GET", "/v1/nothing", "mine.2"),
        ("DELETE", "/v1/weights", "mine_3"),
        ("POST", "/v1/positions", "mine4"),
    ):
        answered = await api.ask(
            method, path, None, token, {"X-Request-ID": given, "Origin": "http://elsewhere.example"}
        )
        assert answered.headers["x-request-id"] == given
        assert not [name for name in answered.headers if name.startswith("access-control")]
        assert answered.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answered.headers
    for bad in ("a b", "x" * 65, "<script>"):
        made = (await api.ask("GET", "/healthz", headers={"X-Request-ID": bad})).headers["x-request-id"]
        assert made != bad
        assert len(made) == 32
    preflight = await api.ask(
        "OPTIONS", "/v1/positions", None, token, {"Origin": "http://x", "Access-Control-Request-Method": "POST"}
    )
    assert preflight.status == 405


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/nothing", 404),
        ("/v1/weights/", 404),
        ("/v1/weights?book=" + "x" * 9_000, 414),
        ("/v1/weights?book=%27%3B%20drop%20table%20positions%3B--", 422),
        ("/v1/weights?book=%00", 422),
        ("/v1/outcomes?before=%00", 422),
        ("/v1/approvals/weights/default/%00", 422),
        ("/v1/approvals/nothing/default/x", 404),
        ("/v1/approvals/weights/a%2Fb/x", 404),
        ("/v1/market/states?driver=DOGE", 422),
        ("/v1/calibration?producer=", 422),
    ],
)
async def test_a_path_that_leads_nowhere_is_told_in_a_problem_document(
    api: ApiProcess, token: str, path: str, status: int
) -> None:
    answered = await api.ask("GET", path, None, token)
    assert answered.status == status, answered
    assert answered.headers["content-type"] == "application/problem+json"
    assert "sqlalchemy" not in str(answered.body).lower()


async def test_the_document_and_its_page_tell_every_path(api: ApiProcess, token: str) -> None:
    document = (await api.ask("GET", "/openapi.json", None, token)).body
    page = await api.ask("GET", "/docs", None, token)
    assert page.headers["content-type"].startswith("text/html")
    assert "script" not in page.headers["content-security-policy"]
    for path, methods in document["paths"].items():
        assert path in page.body
        for operation in methods.values():
            assert operation.get("summary") or operation.get("description"), path
            assert {"401"} <= set(operation["responses"]), path


async def test_metrics_and_health_tell_what_was_taken_in(dsn: str, settings: Settings, tmp_path: Path) -> None:
    async with scratch_database(dsn) as scratch, api_on(scratch, str(settings.home)) as api:
        token = await api.token(Scope.ingest, Scope.read)
        before = await api.ask("GET", "/learning/health", None, token)
        assert before.status == 200
        thesis = {"symbol": "X", "thesis": {"recommendation": "BUY", "confidence": 0.5}}
        client = {"Closeloop-Client": "engine;open;3;17;1"}
        for _ in range(2):
            assert (await api.ask("POST", "/learning/collect/thesis-decision", thesis, token, client)).status in (
                200,
                202,
            )
        await api.ask("POST", "/learning/collect/thesis-decision", {}, token)
        await api.ask("GET", "/v1/approvals", token="clp_wrong")
        metrics: Any = (await api.ask("GET", "/metrics")).body
        for line in (
            'closeloop_messages_total{kind="thesis-decision",status="accepted"} 1.0',
            'closeloop_messages_total{kind="thesis-decision",status="duplicate"} 1.0',
            'closeloop_requests_total{route="/learning/collect/thesis-decision",status="422"} 1.0',
            'closeloop_inbox_messages_today{kind="thesis-decision"} 1.0',
            "closeloop_tokens_refused 1.0",
        ):
            assert line in metrics, line
        assert all(line.startswith(("closeloop", "#")) for line in metrics.splitlines())
        await asyncio.sleep(1.1)  # an answer is at most a second old
        health = (await api.ask("GET", "/learning/health", None, token)).body
        [told] = health["circuit_breaker_status"]
        assert (told["name"], told["state"], told["opens"], told["spooled"], told["refused"]) == (
            "engine",
            "open",
            3,
            17,
            1,
        )
