"""``positions close`` and ``convictions add``."""

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.closes import message
from tests.faults.stack_process import StackProcess
from tests.faults.trades import assert_attributed_once, jsonl, trades


def close(book: str, position_id: str = "p-1", **changes: Any) -> dict[str, Any]:
    """A close of the past, whatever today is."""
    times = {"opened_at": "2024-01-01T00:00:00Z", "closed_at": "2024-01-01T06:00:00Z"}
    return message(book, position_id, **(times | changes))


async def test_good_again_and_with_other_content(stack: StackProcess) -> None:
    row = close("pc-good")
    first = await stack.json("positions", "close", "-", stdin=json.dumps(row))
    assert first["rejected"] == []
    (report,) = first["closed"]
    assert report["already_attributed"] is False
    assert report["outcome"]["rr"] == 2.0
    assert report["outcome"]["realized_pnl"] == "10.0"

    again, other, text = await asyncio.gather(
        stack.json("positions", "close", "-", stdin=json.dumps(row)),
        stack.cli("positions", "close", "-", "--json", stdin=json.dumps(row | {"realized_pnl": "11", "size": "0.03"})),
        stack.cli("positions", "close", "-", stdin=json.dumps(row)),
    )
    assert [(r["already_attributed"], r["outcome"]) for r in again["closed"]] == [(True, report["outcome"])]
    assert other.status == 1
    refusal = other.json()
    assert refusal["closed"] == []
    assert "realized_pnl" in refusal["rejected"][0]["reason"]
    assert "size" in refusal["rejected"][0]["reason"]
    assert "entry_price" not in refusal["rejected"][0]["reason"]
    assert text.status == 0
    assert "p-1" in text.out
    assert "attributed before" in text.out
    row["conviction"] = None
    assert len(await stack.sql("SELECT 1 FROM attributions WHERE book_id = 'pc-good'")) == 1


async def test_every_bad_line_is_named_and_nothing_of_it_stored(stack: StackProcess, tmp_path: Path) -> None:
    bad: list[tuple[str, Any]] = [
        ("direction", "sideways"),
        ("direction", None),
        ("opened_at", "2024-01-01T00:00:00"),
        ("opened_at", 1704067200),
        ("closed_at", "2023-12-31T00:00:00Z"),
        ("closed_at", "2999-01-01T00:00:00Z"),
        ("realized_pnl", "NaN"),
        ("realized_pnl", "Infinity"),
        ("entry_price", "low"),
        ("exit_price", True),
        ("size", "-2"),
        ("symbol", ""),
        ("symbol", "a\nb"),
        ("position_id", "p" * 201),
        ("book", "a b"),
        ("book", "b" * 65),
        ("entry_context", {"note": "x" * 262_144}),
    ]
    lines = [json.dumps(close("pc-bad", f"bad-{i}") | {field: value}) for i, (field, value) in enumerate(bad)]
    lines.insert(3, json.dumps(close("pc-bad", "good")))
    lines.insert(5, "")
    lines.append("{not json")
    file = tmp_path / "closes.jsonl"
    file.write_text("\n".join(lines))
    result = await stack.cli("positions", "close", file, "--json")
    assert result.status == 1
    report = result.json()
    assert [r["outcome"]["position_id"] for r in report["closed"]] == ["good"]
    fields = [field for field, _ in bad]
    fields[3:3] = ["good"]
    fields[5:5] = ["blank"]
    by_index = {r["index"]: r["reason"] for r in report["rejected"] if r["position_id"] is None}
    for index, field in enumerate(fields):
        if field in ("good", "blank") or lines[index].find("2999") > 0:
            assert index not in by_index
        elif field == "entry_context":
            assert "256 KiB" in by_index[index]
        else:
            assert field in by_index[index], index
    assert "JSON" in by_index[len(fields)]
    future = [r for r in report["rejected"] if r["position_id"] is not None]
    assert len(future) == 1
    assert "closed_at" in future[0]["reason"]
    assert len(report["rejected"]) == len(bad) + 1
    assert all(line.startswith("refused: ") for line in result.err.splitlines())
    stored = await stack.sql("SELECT position_id FROM positions WHERE book_id IN ('pc-bad', 'a b')")
    assert [row[0] for row in stored] == ["good"]


async def test_a_bad_optional_field_is_noted_and_the_close_taken(stack: StackProcess) -> None:
    row = close("pc-noted") | {"risk": 0, "exit_reason": "", "signals": [{"signal_id": "s"}]}
    result = await stack.cli("positions", "close", "-", "--json", stdin=json.dumps(row))
    assert result.status == 0
    (report,) = result.json()["closed"]
    assert [note["field"] for note in report["noted"]] == ["risk", "exit_reason", "signals.0.producer_id"]
    assert report["outcome"]["rr"] is None
    assert "noted: p-1: risk was left out: " in result.err


async def test_of_different_closes_under_one_id_the_first_line_stays(stack: StackProcess) -> None:
    """Also where another one closed earlier; with opened_at in the key, all of them are positions of their own."""
    cycles = [
        close(
            "pc-first", opened_at=f"2024-01-0{day}T00:00:00Z", closed_at=f"2024-01-0{day}T06:00:00Z", realized_pnl=pnl
        )
        for day, pnl in ((3, "-7"), (1, "9"), (2, "4"))
    ]
    result = await stack.cli("positions", "close", "-", "--json", stdin=jsonl(cycles))
    assert result.status == 1
    report = result.json()
    assert [r["outcome"]["realized_pnl"] for r in report["closed"]] == ["-7"]
    assert [r["index"] for r in report["rejected"]] == [1, 2]
    assert all("other content" in r["reason"] for r in report["rejected"])
    keyed = jsonl([row | {"book": "pc-keyed"} for row in cycles])
    report = await stack.json("positions", "close", "-", "--position-key", "id+opened_at", stdin=keyed)
    assert [r["outcome"]["position_id"] for r in report["closed"]] == [f"p-1@2024-01-0{d}T00:00:00Z" for d in (3, 1, 2)]


async def test_of_two_currencies_the_first_line_stays(stack: StackProcess) -> None:
    rows = [close("pc-money", f"p-{c}", currency=c) for c in ("EUR", "BTC")]
    result = await stack.cli("positions", "close", "-", stdin=jsonl(rows))
    assert result.status == 1
    assert "EUR" in result.err
    assert "BTC" in result.err
    assert (await stack.json("outcomes", "summary", "--book", "pc-money"))["currency"] == "EUR"


async def test_one_position_in_several_lines(stack: StackProcess) -> None:
    """The same line again is harmless; one with other content is refused, whichever of the two comes first."""
    row = close("pc-twice")
    lines = jsonl([row, row, row | {"realized_pnl": "11.0"}, row])
    result = await stack.cli("positions", "close", "-", "--json", stdin=lines)
    assert result.status == 1
    report = result.json()
    assert len(report["closed"]) + len(report["rejected"]) == 4
    assert len({r["outcome"]["realized_pnl"] for r in report["closed"]}) == 1
    assert sum(not r["already_attributed"] for r in report["closed"]) == 1
    assert all("realized_pnl" in r["reason"] for r in report["rejected"])
    assert len(await stack.sql("SELECT 1 FROM attributions WHERE book_id = 'pc-twice'")) == 1


async def test_many_in_a_file(stack: StackProcess, tmp_path: Path) -> None:
    rows = trades("pc-many", 50)
    file = tmp_path / "many.jsonl"
    file.write_text(jsonl(rows))
    report = await stack.json("positions", "close", file)
    assert [r["outcome"]["position_id"] for r in report["closed"]] == [row["position_id"] for row in rows]
    await assert_attributed_once(stack, "pc-many", rows)


async def test_nothing_to_close(stack: StackProcess) -> None:
    result = await stack.cli("positions", "close", "-", "--json", stdin="\n \n")
    assert result.status == 0
    assert result.json() == {"closed": [], "rejected": []}


async def test_a_conviction_that_was_recorded_before(stack: StackProcess) -> None:
    conviction = {
        "book": "pc-conviction",
        "symbol": "BTC/USDT",
        "conviction_id": "c-1",
        "cycle_id": "y-1",
        "magnitude": 4.0,
        "domain_scores": {"onchain": 0.8, "social": -0.25},
    }
    line = json.dumps(conviction)
    assert await stack.json("convictions", "add", "-", stdin=line) == {
        "added": 1,
        "already_recorded": 0,
        "completed": 0,
        "rejected": [],
    }
    row = close("pc-conviction", conviction={"conviction_id": "c-1"})
    unknown = close("pc-conviction", "p-2", conviction={"conviction_id": "c-2"})
    closed, again = await asyncio.gather(
        stack.json("positions", "close", "-", stdin=jsonl([row, unknown])),
        stack.cli("convictions", "add", "-", "--json", stdin=f"{line}\n\n{line}\n{{not json\n{{}}\n"),
    )
    by_id, of_unknown = (r["outcome"] for r in closed["closed"])
    assert by_id["conviction_status"] == "recorded"
    assert by_id["domain_scores_at_entry"] == conviction["domain_scores"]
    assert of_unknown["conviction_status"] == "unknown"
    assert of_unknown["domain_scores_at_entry"] is None
    outcomes = await stack.sql("SELECT id, outcome FROM conviction_scores WHERE book_id = 'pc-conviction'")
    assert [tuple(found) for found in outcomes] == [("c-1", 1)]

    assert again.status == 1
    report = again.json()
    assert (report["added"], report["already_recorded"]) == (0, 2)
    assert [r["index"] for r in report["rejected"]] == [3, 4]
    assert "conviction_id" in report["rejected"][1]["reason"]

    came = conviction | {"conviction_id": "c-2", "cycle_id": "y-2", "domain_scores": {"onchain": -1.0}}
    late = await stack.cli("convictions", "add", "-", stdin=json.dumps(came))
    assert late.out.splitlines() == [
        "1 convictions recorded, 0 were on record",
        "completed 1 positions that had closed before their conviction came",
    ]
    rows = await stack.json("outcomes", "--book", "pc-conviction")
    assert {r["position_id"]: r["conviction_status"] for r in rows} == {
        row["position_id"]: "recorded",
        "p-2": "recorded",
    }
