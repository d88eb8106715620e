"""What engines send: receipts, ids, twice, conflicts, batches, and what is refused while it is read."""

import asyncio
import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from closeloop import store
from closeloop.models.inbox import MOST_ITEMS
from closeloop.models.tokens import Scope
from closeloop.services import positions
from closeloop.workers.settings import Settings
from tests.api.doors import Answered, ApiProcess, api_on, chunks
from tests.closes import message
from tests.ports import reserve_ports
from tests.store.databases import query, scratch_database
from tests.waiting import eventually

FORECAST = {
    "producer_id": "ta",
    "asset": "BTC/USDT",
    "horizon": "4h",
    "action": "long",
    "confidence": 0.6,
    "issued_at": "2026-01-01T00:00:00Z",
}
THESIS = {
    "symbol": "X",
    "timestamp": "2026-01-01T00:00:00Z",
    "thesis": {"recommendation": "buy more", "confidence": 0.6},
}
# Of each kind: its path, a message, the table that it belongs to and its id there, and a change of the message.
KINDS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "positions": ("/v1/positions", message("", "p-1"), "positions", {"size": "0.03"}),
    "forecasts": ("/v1/forecasts", {"forecast_id": "f-1", **FORECAST}, "forecasts", {"confidence": 0.7}),
    "signals": (
        "/v1/signals",
        {"signal_id": "s-1", "producer_id": "ta", "symbol": "X", "direction": "long"},
        "inbox",
        {"direction": "short"},
    ),
    "thesis-decision": (
        "/learning/collect/thesis-decision",
        {"decision_id": "d-1", **THESIS},
        "learning_decisions",
        {"symbol": "Y"},
    ),
    "discovery-data": (
        "/learning/collect/discovery-data",
        {"discovery_id": "n-1", "candidates": [{"symbol": "X", "score": 0.4, "features": {"volume": 2.0}}]},
        "learning_discoveries",
        {"universe_size": 7},
    ),
    "trade-outcome": (
        "/learning/collect/trade-outcome",
        {"change_id": "t-1", "symbol": "X", "change_type": "open", "timestamp": "2026-01-01T00:00:00Z"},
        "learning_trade_changes",
        {"change_type": "MODIFY"},
    ),
}


@pytest.fixture
async def token(api: ApiProcess) -> str:
    return await api.token(Scope.ingest, Scope.read)


def of_book(kind: str, book: str) -> tuple[str, dict[str, Any]]:
    path, body, _, _ = KINDS[kind]
    return path, {**body, "book": book}


async def rows_of(api: ApiProcess, table: str, book: str) -> int:
    [row] = await query(api.sessions, f"SELECT count(*) AS n FROM {table} WHERE book_id = :book", book=book)
    return int(row["n"])


@pytest.mark.parametrize("kind", KINDS)
async def test_a_message_is_committed_once_and_answered_as_what_it_is(
    api: ApiProcess, token: str, book: str, kind: str
) -> None:
    path, body = of_book(kind, book)
    table, change = KINDS[kind][2:]
    first = await api.ask("POST", path, body, token)
    assert (first.status, first.body["status"], first.body["kind"]) == (202, "accepted", kind), first
    assert await rows_of(api, table, book) == await rows_of(api, "inbox", book) == 1
    again = await api.ask("POST", path, body, token)
    assert (again.status, again.body["status"], again.body["id"]) == (200, "duplicate", first.body["id"])
    other = await api.ask("POST", path, body | change, token)
    assert other.status == 409
    assert other.fields == list(change)
    assert await rows_of(api, table, book) == await rows_of(api, "inbox", book) == 1
    [row] = await query(api.sessions, "SELECT * FROM inbox WHERE book_id = :book", book=book)
    assert (row["kind"], row["message_id"], row["request_id"]) == (
        kind,
        first.body["id"],
        first.headers["x-request-id"],
    )


async def test_a_heartbeat_counts_whenever_it_comes_and_one_with_an_id_once(
    api: ApiProcess, token: str, book: str
) -> None:
    beat = {"book": book, "producer_id": "ta"}
    for _ in range(2):
        assert (await api.ask("POST", "/v1/heartbeats", beat, token)).status == 202
    named = beat | {"heartbeat_id": "h-1"}
    assert (await api.ask("POST", "/v1/heartbeats", named, token)).status == 202
    assert (await api.ask("POST", "/v1/heartbeats", named, token)).status == 200
    assert await rows_of(api, "inbox", book) == 3


async def test_all_kinds_in_one_batch_each_answered_in_order(api: ApiProcess, token: str, book: str) -> None:
    sent = [{"kind": kind, "message": of_book(kind, book)[1]} for kind in reversed(KINDS)]
    sent += [
        {"kind": "positions", "message": message(book, "p-2", direction="up")},
        {"kind": "strange", "message": {}},
        {"kind": "positions", "message": message(book, "p-1")},
        {"kind": "positions", "message": message(book, "p-1", size="7")},
        {"kind": "positions", "message": "p"},
        {"kind": ["positions"], "message": {}},
        "positions",
    ]
    answered = await api.ask("POST", "/v1/batch", sent, token)
    assert answered.status == 202
    results = answered.body["results"]
    statuses = [one["status"] for one in results]
    assert statuses[:6] == ["accepted"] * 6
    assert statuses[6:] == ["refused", "refused", "duplicate", "conflict", "refused", "refused", "refused"]
    assert [one["kind"] for one in results[:6]] == list(reversed(KINDS))
    assert results[6]["id"] == "p-2"
    assert results[6]["reason"].startswith("direction: ")
    assert results[7]["reason"].startswith("kind: must be one of ")
    assert "size" in results[9]["reason"]
    assert await rows_of(api, "positions", book) == 1
    # Sent again whole, as a client does whose answer was lost: nothing changes.
    again = await api.ask("POST", "/v1/batch", sent, token)
    assert [one["status"] for one in again.body["results"]][:6] == ["duplicate"] * 6
    assert await rows_of(api, "inbox", book) == 6


async def test_of_messages_with_one_id_each_is_looked_at(api: ApiProcess, token: str, book: str) -> None:
    ahead = message(book, "p-1", closed_at="2999-01-01T00:00:00Z")
    right, other = message(book, "p-1"), message(book, "p-1", size="7")

    async def statuses(*sent: dict[str, Any]) -> list[str]:
        answered = await api.ask("POST", "/v1/positions", list(sent), token)
        return [one["status"] for one in answered.body["results"]]

    assert await statuses(ahead, right, ahead, right, other) == [
        "refused",
        "accepted",
        "refused",
        "duplicate",
        "conflict",
    ]
    assert await statuses(other, right, other) == ["conflict", "duplicate", "conflict"]
    assert await rows_of(api, "inbox", book) == await rows_of(api, "positions", book) == 1


async def test_a_change_that_is_not_taken_brings_no_close(api: ApiProcess, token: str, book: str) -> None:
    path = "/learning/collect/trade-outcome"

    def change(name: str, position: str, **changes: Any) -> dict[str, Any]:
        data = message(book, position, **changes)
        return {"book": book, "change_id": name, "symbol": "BTC/USDT", "change_type": "CLOSE", "change_data": data}

    assert (await api.ask("POST", path, change("c-1", "p-1"), token)).status == 202
    assert (await api.ask("POST", path, change("c-1", "p-2"), token)).status == 409
    assert (await api.ask("POST", path, change("c-2", "p-1", size="7"), token)).status == 409
    in_euros = await api.ask("POST", path, change("c-3", "p-3", currency="EUR"), token)
    assert (in_euros.status, in_euros.fields) == (422, ["currency"])
    assert await rows_of(api, "positions", book) == 1
    assert await rows_of(api, "learning_trade_changes", book) == await rows_of(api, "inbox", book) == 1
    assert (await api.ask("POST", path, change("c-3", "p-3"), token)).status == 202
    assert await rows_of(api, "positions", book) == await rows_of(api, "inbox", book) == 2


async def test_heartbeats_of_producers_whose_names_hold_a_slash(api: ApiProcess, token: str, book: str) -> None:
    sent = [
        {"book": book, "producer_id": "a/b", "heartbeat_id": "c"},
        {"book": book, "producer_id": "a", "heartbeat_id": "b/c", "at": "2999-01-01T00:00:00Z"},
    ]
    answered = await api.ask("POST", "/v1/heartbeats", sent, token)
    assert [one["status"] for one in answered.body["results"]] == ["accepted", "accepted"]
    assert await rows_of(api, "inbox", book) == 2
    [ahead] = await query(
        api.sessions,
        "SELECT last_success_at <= clock_timestamp() AS now_or_before FROM producer_health "
        "WHERE book_id = :book AND producer_id = 'a'",
        book=book,
    )
    assert ahead["now_or_before"] is True


async def test_the_order_of_a_candidates_features_is_no_difference(api: ApiProcess, token: str, book: str) -> None:
    path = "/learning/collect/discovery-data"

    def found(features: dict[str, float]) -> dict[str, Any]:
        return {"book": book, "discovery_id": "n", "candidates": [{"symbol": "X", "features": features}]}

    assert (await api.ask("POST", path, found({"a": 1.0, "b": 2.0}), token)).status == 202
    assert (await api.ask("POST", path, found({"b": 2.0, "a": 1.0}), token)).status == 200
    assert (await api.ask("POST", path, found({"b": 2.0, "a": 1.5}), token)).status == 409


async def test_the_id_of_a_message_without_one(api: ApiProcess, token: str, book: str) -> None:
    path, body = "/learning/collect/thesis-decision", {"book": book, **THESIS}
    by_content = await api.ask("POST", path, body, token)
    shuffled = json.dumps(dict(reversed(body.items())), indent=2).encode()
    again = await api.ask("POST", path, shuffled, token)
    assert len(by_content.body["id"]) == 32
    assert (again.status, again.body["id"]) == (200, by_content.body["id"])
    key = {"Idempotency-Key": "of the engine"}
    by_key = await api.ask("POST", path, body, token, key)
    assert (by_key.status, by_key.body["id"]) == (202, "of the engine")
    assert (await api.ask("POST", path, body, token, key)).status == 200
    differs = await api.ask("POST", path, body | {"symbol": "Z"}, token, key)
    assert (differs.status, differs.fields) == (409, ["symbol"])
    own = await api.ask("POST", path, body | {"decision_id": "own"}, token, key)
    assert own.body["id"] == "own"
    assert (await api.ask("POST", path, [body], token, key)).status == 422
    assert (await api.ask("POST", path, body, token, {"Idempotency-Key": "k" * 201})).status == 422


async def test_what_an_optional_field_lacks_is_noted_and_the_close_is_taken(
    api: ApiProcess, token: str, book: str
) -> None:
    spoiled = message(book, "noted", max_drawdown_pct="many")
    answered = await api.ask("POST", "/v1/positions", spoiled, token)
    assert answered.status == 202
    assert [one["field"] for one in answered.body["noted"]] == ["max_drawdown_pct"]


IMPOSSIBLE: Sequence[tuple[str, dict[str, Any], str]] = [
    ("positions", {"direction": "sideways"}, "direction"),
    ("positions", {"realized_pnl": "NaN"}, "realized_pnl"),
    ("positions", {"size": "-2"}, "size"),
    ("positions", {"symbol": "S" * 201}, "symbol"),
    ("positions", {"symbol": "a\0b"}, "symbol"),
    ("positions", {"closed_at": "2999-01-01T00:00:00Z"}, "closed_at"),
    ("positions", {"closed_at": "2026-01-01T06:00:00"}, "closed_at"),
    ("positions", {"book": "a/b"}, "book"),
    ("positions", {"book": None}, "book"),
    ("positions", {"position_id": ""}, "position_id"),
    ("forecasts", {"issued_at": "2026-01-01T00:00:00"}, "issued_at"),
    ("forecasts", {"confidence": 2}, "confidence"),
    ("thesis-decision", {"timestamp": "2026-01-01T00:00:00.123456"}, "timestamp"),
    ("thesis-decision", {"timestamp": "2999-01-01T00:00:00Z"}, "timestamp"),
    ("thesis-decision", {"thesis": {"recommendation": "PANIC"}}, "thesis.recommendation"),
    ("thesis-decision", {"thesis": {"recommendation": "BUY", "confidence": 7}}, "thesis.confidence"),
    ("thesis-decision", {"thesis": {"recommendation": "BUY", "further": "a\0b"}}, "thesis"),
    ("discovery-data", {"candidates": [{"symbol": "X"}, {"symbol": "X"}]}, "candidates.1.symbol"),
    ("discovery-data", {"candidates": [{"symbol": "X", "features": {"a": "b"}}]}, "candidates.0.features.a"),
    ("trade-outcome", {"change_type": "BURN"}, "change_type"),
    ("signals", {"direction": "up"}, "direction"),
]


@pytest.mark.parametrize(("kind", "change", "field"), IMPOSSIBLE)
async def test_what_can_never_be_taken_in_is_refused_in_words_that_name_the_field(
    api: ApiProcess, token: str, book: str, kind: str, change: dict[str, Any], field: str
) -> None:
    path, body = of_book(kind, book)
    answered = await api.ask("POST", path, body | change, token)
    assert answered.status == 422, answered
    assert answered.headers["content-type"] == "application/problem+json"
    assert any(name.startswith(field) for name in answered.fields), answered
    assert await rows_of(api, "inbox", book) == 0
    if change.get(field, "").__class__ is str and "2026" in str(change.get(field)):
        assert "offset" in answered.body["detail"]


async def test_an_array_holds_from_1_to_500_messages(api: ApiProcess, token: str, book: str) -> None:
    many = [message(book, f"p-{n}", signals=None, conviction=None) for n in range(MOST_ITEMS + 1)]
    assert (await api.ask("POST", "/v1/positions", many, token)).status == 413
    assert (await api.ask("POST", "/v1/positions", [], token)).status == 422
    assert (await api.ask("POST", "/v1/batch", [], token)).status == 422
    assert (await api.ask("POST", "/v1/batch", {"kind": "positions"}, token)).status == 422
    assert await rows_of(api, "positions", book) == 0
    taken = await api.ask("POST", "/v1/positions", many[:MOST_ITEMS], token)
    assert {one["status"] for one in taken.body["results"]} == {"accepted"}
    assert await rows_of(api, "positions", book) == MOST_ITEMS


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b'{"book": ', "application/json", 400),
        (b"", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b'{"a": NaN}', "application/json", 400),
        (b'{"a": "\\ud800"}', "application/json", 400),
        (b"[" * 5_000 + b"]" * 5_000, "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "application/x-www-form-urlencoded", 415),
        (b'"text"', "application/json", 422),
        (b"null", "application/json", 422),
        (b'{"size": 1' + b"0" * 4_000 + b"}", "application/json", 422),
    ],
)
async def test_a_body_that_is_no_message(api: ApiProcess, token: str, body: bytes, kind: str, status: int) -> None:
    answered = await api.ask("POST", "/v1/positions", body, token, kind=kind)
    assert answered.status == status, answered
    assert answered.body["status"] == status
    assert "Traceback" not in str(answered)


@pytest.mark.parametrize(("path", "limit"), [("/v1/positions", 1 << 20), ("/learning/collect/discovery-data", 4 << 20)])
async def test_what_is_too_long_is_refused_while_it_is_read(api: ApiProcess, token: str, path: str, limit: int) -> None:
    whole = b"[" + b" " * limit + b"]"
    for body in (whole, chunks(whole)):
        answered = await api.ask("POST", path, body, token)
        assert answered.status == 413
        assert f"{limit >> 10} KiB" in answered.body["detail"]
    # One that says that it will be long, and sends nothing, is answered at once.
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: 10000000000\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    writer.close()


async def test_a_removed_book_takes_nothing_in(api: ApiProcess, token: str, book: str) -> None:
    assert (await api.ask("POST", "/v1/positions", message(book), token)).status == 202
    await query(api.sessions, "UPDATE books SET archived_at = now(), archived_by = 'ann' WHERE book_id = :b", b=book)
    for kind in KINDS:
        path, body = of_book(kind, book)
        later = body | {f"{kind[:-1]}_id": "later"} if kind in ("positions", "forecasts") else body
        answered = await api.ask("POST", path, later, token)
        assert answered.status == 422, answered
        assert answered.fields == ["book"]


async def test_what_the_markets_buckets_are_made_of(dsn: str, settings: Settings) -> None:
    row = {"asset": "BONK/USDT", "bucket": "nano", "valid_from": "2026-01-01T00:00:00Z"}
    async with scratch_database(dsn) as scratch, api_on(scratch, str(settings.home)) as api:
        token = await api.token(Scope.ingest, Scope.read)
        path = "/v1/market/tokens"
        first = await api.ask("POST", path, row, token)
        assert (first.status, first.body["recorded"]) == (200, 1)
        rows: list[Any] = [
            row,
            row | {"asset": "WIF/USDT"},
            row | {"bucket": "huge"},
            7,
            row | {"valid_from": "2026-01-01"},
        ]
        answered = await api.ask("POST", path, rows, token)
        assert (answered.status, answered.body["recorded"], answered.body["already_recorded"]) == (200, 1, 1)
        assert [one["row"] for one in answered.body["rejected"]] == [2, 3, 4]
        alone = await api.ask("POST", path, row | {"bucket": "huge"}, token)
        assert (alone.status, alone.fields) == (422, ["bucket"])
        assert (await api.ask("POST", path, [], token)).status == 422
        assert (await api.ask("POST", path, [row] * 5_001, token)).status == 413
        listed = await api.ask("GET", path, None, token)
        assert sorted(one["asset"] for one in listed.body) == ["BONK/USDT", "WIF/USDT"]
        limited = await api.token(Scope.ingest, books=["b"])
        assert (await api.ask("POST", path, row, limited)).status == 403


def unattributed(answered: Answered) -> list[str]:
    return [one["id"] for one in answered.body["results"] if one["status"] == "accepted"]


async def attributed(api: ApiProcess, book: str) -> set[str]:
    rows = await query(api.sessions, "SELECT position_id FROM attributions WHERE book_id = :book", book=book)
    return {row["position_id"] for row in rows}


@pytest.mark.usefixtures("worker")
async def test_closes_are_attributed_after_their_answer(api: ApiProcess, token: str, book: str) -> None:
    assert (await api.ask("POST", "/v1/positions", message(book, "alone"), token)).status == 202
    together = await api.ask("POST", "/v1/positions", [message(book, f"p-{n}") for n in range(20)], token)
    change = {"book": book, "symbol": "BTC/USDT", "change_type": "CLOSE", "change_data": message(book, "by change")}
    assert (await api.ask("POST", "/learning/collect/trade-outcome", change, token)).status == 202
    expected = {"alone", "by change", *unattributed(together)}
    assert len(expected) == 22
    await eventually(lambda: attributed(api, book), lambda found: found == expected)
    karma = await api.ask("GET", f"/v1/karma?book={book}", None, token)
    assert [one["producer_id"] for one in karma.body] == ["ta"]


async def test_without_temporal_messages_are_taken_in_and_wait(dsn: str, tmp_path: Path) -> None:
    [nobody] = reserve_ports(1)
    async with (
        scratch_database(dsn) as scratch,
        api_on(scratch, str(tmp_path), TEMPORAL_ADDRESS=f"127.0.0.1:{nobody}") as api,
    ):
        token = await api.token(Scope.ingest, Scope.read, Scope.operate)
        ready = await api.ask("GET", "/readyz")
        assert (ready.status, ready.body) == (200, {"database": True, "schema_is_ours": True, "temporal": False})
        assert (await api.ask("POST", "/v1/positions", message("b"), token)).status == 202
        assert (await api.ask("POST", "/v1/positions", [message("b", "2"), message("b", "3")], token)).status == 202
        async with api.sessions() as session:
            waiting = await store.positions.unattributed(session, None, 10)
            assert len(waiting.rows) == 3
            assert await positions.unreadable(session) == []
        health = await api.ask("GET", "/learning/health", None, token)
        assert health.status == 200
        undecided = await api.ask("POST", "/v1/approvals/weights/b/2026-W01:approve", {}, token, {"If-Match": '"x"'})
        assert undecided.status in (404, 503)


async def test_without_a_database_it_says_when_to_try_again(dsn: str, settings: Settings, tmp_path: Path) -> None:
    async with scratch_database(dsn) as scratch, api_on(scratch, str(settings.home)) as api:
        token = await api.token(Scope.ingest, Scope.read)
        assert (await api.ask("GET", "/v1/approvals", token=token)).status == 200
        name = scratch.rsplit("/", 1)[1]
        admin = await asyncpg.connect(dsn)
        try:
            await admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false')
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            for asked in (
                await api.ask("POST", "/v1/positions", message("b"), token),
                await api.ask("GET", "/v1/outcomes", token=token),
                await api.ask("GET", "/readyz"),
            ):
                assert asked.status == 503, asked
                assert asked.headers["retry-after"]
            assert (await api.ask("GET", "/healthz")).status == 200
            assert (await api.ask("GET", "/metrics")).status == 200
            await admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS true')
            assert (await api.ask("POST", "/v1/positions", message("b"), token)).status == 202
        finally:
            await admin.close()


async def test_a_connection_that_brings_nothing_is_closed(api: ApiProcess) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    assert await asyncio.wait_for(reader.read(), 60) == b""
    writer.close()
    with socket.create_connection(("127.0.0.1", api.port), timeout=60) as silent:
        assert silent.recv(1) == b""
