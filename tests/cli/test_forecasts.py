"""``closeloop forecasts``, ``prices``, ``producers`` and ``meta``: what an operator types, reads, and is refused."""

import asyncio
import gzip
import json
import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.activities.forecasting import HOUR, MINUTE, T0
from tests.activities.test_prices import true_price
from tests.faults.stack_process import StackProcess
from tests.gateways.binance_server import BinanceServer

BOOK = ("--book", "cli-f")
ASSET = "CLI/BTC"
AS_OF = ("--as-of", "2026-03-03T00:00:00Z")
FIVE = 5 * MINUTE
OUTCOME = {
    "forecast_id", "producer_id", "asset", "horizon", "action", "confidence", "price_at_issue", "price_at_target",
    "return_pct", "direction_correct", "brier_score", "regime", "resolved_at",
}  # fmt: skip
PRODUCER = {
    "producer_id", "outcomes", "hit_rate", "hit_low", "hit_high", "brier", "reliability", "resolution", "uncertainty",
    "within_bin_variance", "within_bin_covariance", "log_score", "calibration_error", "calibration_error_if_perfect",
    "correlation", "karma", "health",
}  # fmt: skip


def said(name: str, **changes: Any) -> dict[str, Any]:
    values = {
        "forecast_id": name,
        "book": "cli-f",
        "producer_id": "ta",
        "asset": ASSET,
        "horizon": "1h",
        "action": "long",
        "confidence": 0.7,
        "issued_at": T0.isoformat(),
    }
    return {key: value for key, value in (values | changes).items() if value is not None}


def lines(*rows: dict[str, Any]) -> str:
    return "\n".join(map(json.dumps, rows)) + "\n"


def candle_file(hours: int = 24) -> str:
    """Freqtrade's columns; the price rises by a hundredth in every odd hour and falls back in every even one."""
    rows = ["date,open,high,low,close,volume"]
    for i in range(hours * 12):
        close = "0.0101" if i // 12 % 2 else "0.01"
        rows.append(f"{(T0 - FIVE + i * FIVE).isoformat()},{close},{close},{close},{close},1.5")
    return "\n".join(rows) + "\n"


@pytest.fixture(scope="module")
async def resolved(stack: StackProcess, tmp_path_factory: pytest.TempPathFactory) -> StackProcess:
    """Two producers spoke every hour of a day; all of it is resolved."""
    file = tmp_path_factory.mktemp("prices") / "prices.csv"
    file.write_text(candle_file())
    imported = await stack.json("prices", "import", file, "--asset", ASSET, "--interval", "5m")
    assert (imported["imported"], imported["rejected"]) == (288, [])
    rows = [
        said(
            f"{producer}-{hour:02}",
            producer_id=producer,
            issued_at=(T0 + hour * HOUR).isoformat(),
            action="long" if producer == "bull" or hour % 2 == 0 else "short",
            confidence=0.6 + hour / 100,
            regime="CALM" if hour % 3 else None,
        )
        for producer, hour in product(("bull", "seer"), range(20))
    ]
    rows.append(said("silent", action="no_forecast", confidence=None, abstention_reason="no idea"))
    added = await stack.cli("forecasts", "add", "-", "--json", stdin=lines(*rows))
    assert (added.status, added.json()) == (0, {"added": 41, "already_recorded": 0, "rejected": []})
    report = await stack.json("forecasts", "resolve", *AS_OF)
    assert (report["resolved"], report["abstained"], report["pending"]) == (40, 1, 0)
    return stack


# -- forecasts ---------------------------------------------------------------------------------------------------------


async def test_outcomes(resolved: StackProcess) -> None:
    outcomes, one, listed, other = await asyncio.gather(
        resolved.json("forecasts", "outcomes", *BOOK),
        resolved.json("forecasts", "show", "bull-00", *BOOK),
        resolved.json("forecasts", "list", *BOOK, "--producer", "seer", "--last", "3"),
        resolved.json("forecasts", "list", *BOOK, "--state", "abstained"),
    )
    assert len(outcomes) == 40
    assert all(set(outcome) >= OUTCOME for outcome in outcomes)
    by_id = {outcome["forecast_id"]: outcome for outcome in outcomes}
    first = by_id["bull-00"]
    assert (first["price_at_issue"], first["price_at_target"]) == ("0.01", "0.0101")
    assert first["return_pct"] == pytest.approx(1.0)
    assert (first["direction_correct"], first["regime"], first["confidence"]) == (True, None, 0.6)
    assert first["brier_score"] == pytest.approx(0.16)
    assert datetime.fromisoformat(first["resolved_at"]).tzinfo is not None
    assert not by_id["bull-01"]["direction_correct"]
    assert all(outcome["direction_correct"] for name, outcome in by_id.items() if name.startswith("seer"))
    assert [outcome["target_at"] for outcome in outcomes] == sorted(outcome["target_at"] for outcome in outcomes)
    assert (one["state"], one["outcome"]) == ("resolved", first)
    assert [row["forecast_id"] for row in listed] == ["seer-17", "seer-18", "seer-19"]
    assert [(row["forecast_id"], row["abstention_reason"]) for row in other] == [("silent", "no idea")]
    page = await resolved.json("forecasts", "list", *BOOK, "--last", "2", "--before", "seer-18")
    assert [row["forecast_id"] for row in page] == ["seer-17", "bull-18"]
    page = await resolved.json("forecasts", "outcomes", *BOOK, "--last", "2", "--before", "bull-01")
    assert [row["forecast_id"] for row in page] == ["bull-00", "seer-00"]
    nowhere = await resolved.cli("forecasts", "list", *BOOK, "--before", "nobody")
    assert "There is no forecast nobody" in nowhere.sentence()
    shown = await resolved.cli("forecasts", "show", "bull-00", *BOOK)
    assert "right: 0.01" in shown.out
    assert "+1.000 %" in shown.out
    table = await resolved.cli("forecasts", "outcomes", *BOOK, "--last", "2")
    assert "seer-19" in table.out


async def test_sent_again_and_with_other_content(stack: StackProcess) -> None:
    first, other = said("again", book="cli-again"), said("again", book="cli-again", action="short")
    answers = []
    fresh = said("new", book="cli-again")
    for rows in ((first, first, other), (first,), (other, first, other), (fresh, first)):
        answers.append(await stack.cli("forecasts", "add", "-", "--json", stdin=lines(*rows)))
    counts = [(a.status, a.json()["added"], a.json()["already_recorded"]) for a in answers]
    assert counts == [(1, 1, 1), (0, 0, 1), (1, 0, 1), (0, 1, 1)]
    conflict = "this forecast is on record with other content; differing: action"
    assert answers[0].json()["rejected"] == [{"index": 2, "reason": conflict}]
    assert answers[2].json()["rejected"] == [{"index": i, "reason": conflict} for i in (0, 2)]
    await stack.cli("forecasts", "add", "-", stdin=lines(said("again", book="cli-again-2")))
    several = await stack.cli("forecasts", "show", "again")
    assert "Several books have a forecast again (cli-again, cli-again-2): say which with --book." in several.sentence()
    plain = await stack.cli("forecasts", "add", "-", stdin=lines(other))
    assert (plain.status, plain.out) == (1, "0 forecasts recorded, 0 were on record\n")
    assert plain.err == f"refused: row 0: {conflict}\n"


REFUSED: dict[str, tuple[Any, str]] = {
    "above 1": ({"confidence": 1.01}, "confidence: "),
    "below 0": ({"confidence": -0.01}, "confidence: "),
    "not a number": ({"confidence": float("nan")}, "confidence: "),
    "a text that is not a number": ({"confidence": "NaN"}, "confidence: "),
    "unknown action": ({"action": "hold"}, "action: "),
    "no time at all": ({"horizon": "0h"}, "horizon: "),
    "unknown unit": ({"horizon": "5x"}, "horizon: "),
    "over a year": ({"horizon": "366d"}, "horizon: must be at most 365d"),
    "naive": ({"issued_at": "2026-03-02T00:00:00"}, "issued_at: must carry a UTC offset"),
    "in the future": (
        {"issued_at": "2999-01-01T00:00:00Z"},
        "issued_at: must not be more than 5 minutes in the future",
    ),
    "over-long": ({"producer_id": "p" * 201}, "producer_id: must be 1 to 200 bytes long"),
}


async def test_what_is_refused_is_refused_with_its_reason(stack: StackProcess) -> None:
    rows = [said(f"r-{i}", book="cli-r", **change) for i, (change, _) in enumerate(REFUSED.values())]
    text = lines(*rows, said("good", book="cli-r")) + "{no json\n[]\n" + '"' + "x" * 300_000 + '"\n'
    result = await stack.cli("forecasts", "add", "-", "--json", stdin=text)
    answer = result.json()
    assert (result.status, answer["added"]) == (1, 1)
    reasons = {item["index"]: item["reason"] for item in answer["rejected"]}
    assert list(reasons) == [*range(len(REFUSED)), *range(len(REFUSED) + 1, len(REFUSED) + 4)]
    told = dict(zip(REFUSED, reasons.values(), strict=False))
    assert {name: reason for name, reason in told.items() if REFUSED[name][1] not in reason} == {}
    assert "256 KiB" in reasons[len(REFUSED) + 3]
    assert [row["forecast_id"] for row in await stack.json("forecasts", "list", "--book", "cli-r")] == ["good"]


async def test_every_door_reads_the_files_that_people_have(stack: StackProcess, tmp_path: Path) -> None:
    rows = [said(f"d-{i}", book="cli-d", horizon=horizon) for i, horizon in enumerate(("60m", "1h", "1m"))]
    file = tmp_path / "forecasts.json.gz"
    file.write_bytes(gzip.compress(json.dumps([*rows, {}], indent=2).encode("utf-16")))
    result = await stack.cli("forecasts", "add", str(file))
    assert (result.status, result.out) == (1, "3 forecasts recorded, 0 were on record\n")
    assert result.err.startswith("refused: row 3: forecast_id: ")
    shown = await stack.cli("forecasts", "show", "cli-d/d-0")
    assert f"sent as {rows[0]['asset']} over 60m" in shown.out
    file.write_bytes(file.read_bytes()[:-30])
    damaged = await stack.cli("forecasts", "add", str(file))
    assert damaged.status == 1
    assert "The input cannot be read to its end: the gzip file is damaged" in damaged.sentence()
    for door in ("positions close", "convictions add", "import jsonl"):
        answer = await stack.cli(*door.split(), str(file))
        assert (answer.status, "the gzip file is damaged" in answer.sentence()) == (1, True), door


async def test_prices_and_forecasts_meet_however_the_asset_is_spelled(stack: StackProcess) -> None:
    imported = await stack.cli(
        "prices", "import", "-", "--asset", "ltcusdt", "--interval", "5m", "--json", stdin=candle_file()
    )
    assert imported.json()["asset"] == "LTC/USDT"
    spelled = {"LTC/USDT": "1h", "LTCUSDT": "60m", "ltc-usdt": "1h"}
    rows = [
        said(
            f"{asset}-{i}",
            book="cli-s",
            producer_id=horizon,
            asset=asset,
            horizon=horizon,
            issued_at=(T0 + i * HOUR).isoformat(),
        )
        for asset, horizon in spelled.items()
        for i in range(4)
    ]
    await stack.cli("forecasts", "add", "-", stdin=lines(*rows))
    await stack.json("forecasts", "resolve", *AS_OF)
    for horizon, asset in (("1h", "LTC_USDT"), ("60m", "ltcusdt")):
        found = await stack.json("producers", "--book", "cli-s", "--horizon", horizon, "--asset", asset, *AS_OF)
        assert {row["producer_id"]: row["outcomes"] for row in found} == {"1h": 8, "60m": 4}
    [pair] = await stack.json("producers", "agreement", "--book", "cli-s")
    assert (pair["asset"], pair["horizon"], pair["samples"]) == ("LTC/USDT", "1h", 2)


async def test_what_nothing_matches_is_said_with_what_there_is(resolved: StackProcess) -> None:
    for option in (("--regime", "NONE"), ("--horizon", "17m")):
        answer = await resolved.cli("producers", *option, *AS_OF)
        assert f"No outcome in the rolling window matches {' '.join(option)}. There are assets: " in answer.out
    shown = await resolved.cli("producers", *AS_OF)
    assert shown.out.startswith("As of 2026-03-03 00:00 UTC")
    wrong = await resolved.cli("producers", "--horizon", "1x")
    assert (wrong.status, "horizon: must be a positive number of minutes" in wrong.sentence()) == (1, True)


async def test_pending_ones_tell_why_and_the_source_is_asked(resolved: StackProcess, exchange: BinanceServer) -> None:
    """Down: pending, with its reason. Well again: resolved, by one request."""
    book = ("--book", "cli-asked")
    rows = [said("ada", book="cli-asked", asset="ADA/BTC"), said("nobody", book="cli-asked", asset="NOBODY/BTC")]
    await resolved.cli("forecasts", "add", "-", stdin=lines(*rows))
    exchange.fail("internal error")
    down = await resolved.json("forecasts", "resolve", *AS_OF)
    assert down["reasons"]["Binance answers 500"] >= 2
    assert down["pending"] == sum(down["reasons"].values())
    pending = await resolved.json("forecasts", "list", *book, "--state", "pending")
    assert {row["reason"] for row in pending} == {"Binance answers 500"}
    assert all(row["next_attempt_at"] for row in pending)
    exchange.behave()
    before = len(exchange.asked)
    plain = await resolved.cli("forecasts", "resolve", *AS_OF)
    assert plain.status == 0
    assert plain.out.startswith("1 resolved as of 2026-03-03 00:00 UTC")
    assert "x the price source does not know NOBODY/BTC" in plain.out
    assert [a.parameters["symbol"] for a in exchange.asked[before:]].count("ADABTC") == 1
    [outcome] = await resolved.json("forecasts", "outcomes", *book)
    assert float(outcome["price_at_issue"]) == true_price("ADA/BTC", T0)
    assert float(outcome["price_at_target"]) == true_price("ADA/BTC", T0 + HOUR)
    shown = await resolved.cli("forecasts", "show", "nobody", *book)
    assert "pending: the price source does not know NOBODY/BTC" in shown.out
    given_up = await resolved.json("forecasts", "resolve", "--as-of", "2026-03-12T00:00:00Z")
    assert given_up["unresolvable"] >= 1
    [row] = await resolved.json("forecasts", "list", *book, "--state", "unresolvable")
    assert row["forecast_id"] == "nobody"


async def test_a_wrong_import_is_undone(stack: StackProcess, tmp_path: Path) -> None:
    """Replaced, listed, recomputed; deleted after a question, withdrawn."""
    wrong, right = tmp_path / "wrong.csv", tmp_path / "right.csv"
    header = "date,open,high,low,close,volume\n"
    for file, target in ((wrong, "90"), (right, "110")):
        closes = [(T0 - FIVE, "100"), (T0, "100"), (T0 + HOUR - FIVE, target), (T0 + HOUR, target)]
        rows = (f"{start:%Y-%m-%dT%H:%M:%SZ},{close},{close},{close},{close},1\n" for start, close in closes)
        file.write_text(header + "".join(rows))
    of, book = ("--asset", "UNDO/BTC"), ("--book", "cli-undo")
    await stack.json("prices", "import", wrong, *of, "--interval", "5m")
    await stack.cli("forecasts", "add", "-", stdin=lines(said("f", book="cli-undo", asset="UNDO/BTC", action="long")))
    await stack.json("forecasts", "resolve", *AS_OF)
    [outcome] = await stack.json("forecasts", "outcomes", *book)
    assert (outcome["return_pct"], outcome["direction_correct"], outcome["revision"]) == (-10.0, False, 0)
    assert (outcome["target_candle_seconds"], outcome["target_price_source"]) == (300, "import")
    assert outcome["target_candle_ends_at"] == "2026-03-02T01:00:00Z"
    shown = await stack.cli("forecasts", "show", "f", *book)
    assert "price at target: the 5m candle that ended 2026-03-02 01:00 UTC, from import" in shown.out
    refused = await stack.cli("prices", "import", right, *of, "--interval", "5m")
    assert "--replace" in refused.err
    replaced = await stack.json("prices", "import", right, *of, "--interval", "5m", "--replace")
    assert (replaced["replaced"], replaced["affected"], replaced["rejected"]) == (2, 1, [])
    [listed] = await stack.json("prices", "affected", *of)
    assert (listed["book"], listed["forecast_id"], listed["return_pct"]) == ("cli-undo", "f", -10.0)
    assert (await stack.json("forecasts", "outcomes", *book)) == [outcome]
    done = await stack.json("prices", "recompute", *of)
    assert done == {"corrected": 1, "unchanged": 0, "withdrawn": 0}
    [corrected] = await stack.json("forecasts", "outcomes", *book)
    assert (corrected["return_pct"], corrected["direction_correct"], corrected["revision"]) == (10.0, True, 1)
    [event] = await stack.json("events", "--type", "forecast.outcome_corrected.v1", *book)
    assert (event["payload"]["before"]["return_pct"], event["payload"]["after"]["return_pct"]) == (-10.0, 10.0)
    [row] = await stack.json("producers", *book)
    assert (row["outcomes"], row["correct"]) == (1, 1)
    assert await stack.json("prices", "affected", *of) == []

    delete = ("prices", "delete", *of, "--from", "2026-03-01T00:00:00Z", "--to", "2026-03-03T00:00:00Z")
    assert (await stack.cli(*delete, stdin="n\n")).status == 1
    assert (await stack.json(*delete, "--yes")) == {"asset": "UNDO/BTC", "deleted": 4, "affected": 1}
    assert (await stack.json("prices", "recompute", *of))["withdrawn"] == 1
    assert await stack.json("forecasts", "outcomes", *book) == []
    assert await stack.json("producers", *book) == []
    gone = await stack.cli(*delete, "--yes")
    assert (gone.status, "No candle of UNDO/BTC lies between" in gone.sentence()) == (1, True)


async def test_a_resolution_of_the_future_or_of_no_time_is_refused(stack: StackProcess) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    future = await stack.cli("forecasts", "resolve", "--as-of", tomorrow)
    assert "as_of: must not be in the future" in future.sentence()
    for wrong in ("yesterday", "2026-03-03T00:00:00", "0001-01-01T00:00:00Z"):
        result = await stack.cli("forecasts", "resolve", "--as-of", wrong)
        assert result.status == 2, result
        assert "Traceback" not in result.err


# -- prices ------------------------------------------------------------------------------------------------------------


async def test_prices_from_files(stack: StackProcess, tmp_path: Path) -> None:
    """Plain, compressed and from a pipe the same; what is damaged is told, what came before is in."""
    to = ("--asset", "FILE/BTC", "--interval", "5m")
    text = candle_file(2)
    plain, packed, damaged = (tmp_path / name for name in ("a.csv", "a.csv.gz", "b.csv.gz"))
    plain.write_text(text)
    packed.write_bytes(gzip.compress(text.encode()))
    damaged.write_bytes(gzip.compress(candle_file(200).encode())[:-2_000])
    first = await stack.json("prices", "import", plain, *to)
    assert (first["imported"], first["already_recorded"], first["rejected"]) == (24, 0, [])
    for source, given in ((packed, b""), ("-", packed.read_bytes()), ("-", text.encode())):
        again = await stack.cli("prices", "import", source, *to, "--json", stdin=given)
        assert (again.json()["imported"], again.json()["already_recorded"]) == (0, 24)
    other = text.replace("0.01,0.01,0.01,0.01", "0.02,0.02,0.02,0.02", 1) + "nonsense\n"
    differing = await stack.cli("prices", "import", "-", *to, stdin=other)
    assert "line 26: the line has 1 fields, the header 6" in differing.err
    assert "the candle that ended 2026-03-02 00:00 UTC is on record with other prices" in differing.err
    broken = await stack.cli("prices", "import", damaged, "--asset", "DAMAGED/BTC", "--interval", "5m")
    assert broken.status == 1
    assert "gzip file is damaged" in broken.err
    listed = {row["asset"]: row for row in await stack.json("prices", "list")}
    assert (listed["FILE/BTC"]["candles"], listed["FILE/BTC"]["interval_seconds"]) == (24, 300)
    assert listed["FILE/BTC"]["id"] == "FILE/BTC/300"
    earlier = await stack.json("prices", "list", "--before", "FILE/BTC/300")
    assert [row["asset"] for row in earlier] == sorted(asset for asset in listed if asset < "FILE/BTC")
    assert "There are no prices X" in (await stack.cli("prices", "list", "--before", "X")).sentence()
    naive = "Date,Time,Open,High,Low,Close\n2026-03-02,00:00,1,1,1,1\n2026-03-02,00:05,1,1,1,1\n"
    as_utc = ("prices", "import", "-", "--asset", "UTC/BTC", "--interval", "5m", "--json")
    assumed = await stack.cli(*as_utc, stdin=naive)
    assert (assumed.json()["imported"], "were read as UTC" in " ".join(assumed.err.split())) == (2, True)
    told = await stack.cli(*as_utc, "--timezone", "UTC", stdin=naive)
    assert (told.json()["already_recorded"], "UTC" in told.err) == (2, False)
    empty = await stack.cli("prices", "import", "-", *to, stdin="")
    assert "Nothing of the file was stored" in empty.sentence()
    for wrong in (("--interval", "7m"), ("--interval", "0m"), ("--interval", "5x"), ("--asset", "")):
        assert (await stack.cli("prices", "import", plain, *to, *wrong)).status == 2
    assert (await stack.cli("prices", "import", tmp_path / "missing.csv", *to)).status == 2


async def test_prices_that_come_late_are_used(stack: StackProcess, tmp_path: Path) -> None:
    book = ("--book", "cli-late")
    await stack.cli("forecasts", "add", "-", stdin=lines(said("late", book="cli-late", asset="LATE/BTC")))
    await stack.json("forecasts", "resolve", "--as-of", "2026-03-12T00:00:00Z")
    assert [r["state"] for r in await stack.json("forecasts", "list", *book)] == ["unresolvable"]
    imported = await stack.cli(
        "prices", "import", "-", "--asset", "LATE/BTC", "--interval", "5m", "--json", stdin=candle_file(3)
    )
    assert imported.json()["reopened"] == 1
    await stack.json("forecasts", "resolve", "--as-of", "2026-03-12T00:00:00Z")
    assert [r["state"] for r in await stack.json("forecasts", "list", *book)] == ["resolved"]


# -- producers ---------------------------------------------------------------------------------------------------------


async def test_producers_and_their_calibration(resolved: StackProcess, tmp_path: Path) -> None:
    await resolved.json("forecasts", "resolve", *AS_OF)
    rows = {row["producer_id"]: row for row in await resolved.json("producers", *BOOK)}
    assert set(rows) == {"bull", "seer", "ta"}
    assert all(set(row) >= PRODUCER for row in rows.values())
    seer, bull = rows["seer"], rows["bull"]
    assert (seer["outcomes"], seer["hit_rate"], bull["hit_rate"], rows["ta"]["abstentions"]) == (20, 1.0, 0.5, 1)
    assert 0.8 < seer["hit_low"] < seer["hit_high"] == 1.0
    assert seer["brier"] == pytest.approx(sum((0.4 - hour / 100) ** 2 for hour in range(20)) / 20)
    parts = [bull[name] for name in ("reliability", "resolution", "uncertainty")]
    within = bull["within_bin_variance"] - bull["within_bin_covariance"]
    assert bull["brier"] == pytest.approx(parts[0] - parts[1] + parts[2] + within, abs=1e-12)
    [calm] = [r for r in await resolved.json("producers", *BOOK, "--regime", "CALM") if r["producer_id"] == "seer"]
    assert calm["outcomes"] == 13
    before = [r["producer_id"] for r in await resolved.json("producers", *BOOK, "--before", "bull")]
    assert before == list(rows)[: list(rows).index("bull")]
    assert "There is no producer x" in (await resolved.cli("producers", *BOOK, "--before", "x")).sentence()
    [none] = [r for r in await resolved.json("producers", *BOOK, "--asset", "X") if r["producer_id"] == "seer"]
    assert (none["outcomes"], none["hit_rate"], none["bins"]) == (0, None, [])
    plain = await resolved.cli("producers", *BOOK)
    assert "seer" in plain.out
    assert (
        "The interval counts outcomes whose horizons overlap as fewer, by what they share with each other, and those "
        "of several assets or horizons as if all of them moved as one"
    ) in " ".join(plain.out.split())

    drawn = await resolved.cli("producers", "calibration", "seer", *BOOK, "--plot", tmp_path / "seer.svg", "--json")
    found = drawn.json()
    assert [b["outcomes"] for b in found["bins"]] == [0, 0, 0, 0, 0, 0, 10, 10, 0, 0]
    picture = ElementTree.parse(tmp_path / "seer.svg").getroot()  # noqa: S314 (we have just written it)
    assert picture.tag.endswith("svg")
    again = await resolved.cli("producers", "calibration", "seer", *BOOK, "--plot", tmp_path / "again.svg")
    assert again.status == 0
    assert (tmp_path / "again.svg").read_bytes() == (tmp_path / "seer.svg").read_bytes()
    assert "100.0%" in again.out
    for arguments, status, words in (
        (("seer", "--plot", tmp_path / "seer.txt"), 2, ".svg"),
        (("seer", "--plot", tmp_path / "no folder" / "seer.svg"), 1, "cannot be written"),
        (("ta", "--plot", tmp_path / "ta.svg"), 1, "nothing to draw"),
        (("nobody",), 1, "There is no producer nobody"),
    ):
        result = await resolved.cli("producers", "calibration", *arguments, *BOOK)
        assert (result.status, words in result.err, "Traceback" in result.err) == (status, True, False), result.err


async def test_agreement(resolved: StackProcess) -> None:
    [pair] = await resolved.json("producers", "agreement", *BOOK)
    assert (pair["first"], pair["second"], pair["asset"], pair["horizon"]) == ("bull", "seer", ASSET, "1h")
    # The last of each two hours is that of the odd one, in which the seer says what the bull does not.
    assert (pair["samples"], pair["agreement"]) == (10, 0.0)
    assert (pair["hit_first_disagreed"], pair["hit_second_disagreed"]) == (0.0, 1.0)
    assert "bull" in (await resolved.cli("producers", "agreement", *BOOK)).out
    assert await resolved.json("producers", "agreement", *BOOK, "--before", pair["id"]) == []
    assert "There is no pair x" in (await resolved.cli("producers", "agreement", "--before", "x")).sentence()


async def test_heartbeats(stack: StackProcess) -> None:
    book = ("--book", "cli-beats")
    beat = ("producers", "heartbeat", "engine", *book)
    assert (await stack.json(*beat, "--id", "one"))["counted"] is True
    assert (await stack.json(*beat, "--id", "one"))["counted"] is False
    assert (await stack.cli(*beat)).out == "counted\n"
    await stack.json(*beat, "--failures", "3", "--error", "timeout")
    [row] = await stack.json("producers", *book)
    health = row["health"]
    assert (health["successes"], health["failures"], health["last_error"]) == (2, 3, "timeout")
    assert (health["state"], health["score"]) == ("unknown", None)  # five observations are too few
    await stack.json(*beat, "--successes", "20")
    health = (await stack.json("producers", *book))[0]["health"]
    assert (health["state"], health["error_rate"]) == ("healthy", pytest.approx(3 / 25))
    assert 0 < health["score"] < 1 - 3 / 25
    for wrong in (("--failures", "-1"), ("--successes", "0"), ("--error", "x" * 1001), ("--book", "no book")):
        assert (await stack.cli(*beat, *wrong)).status == 2, wrong


# -- the meta-producer -------------------------------------------------------------------------------------------------


async def test_the_meta_producer_waits_for_an_operator(resolved: StackProcess) -> None:
    status = await resolved.json("meta", "status", *BOOK)
    gate = (status["mode"], status["gate_open"], status["outcomes"], status["outcomes_needed"])
    assert gate == ("shadow", False, 40, 500)
    assert (status["proposals"], status["shadow"], status["live"]) == ([], None, None)
    nothing = await resolved.cli("meta", "approve", "--by", "ann", *BOOK)
    assert "Nothing waits for a decision" in nothing.sentence()
    proposal = await resolved.json("meta", "propose", *BOOK)
    assert (await resolved.json("meta", "propose", *BOOK))["id"] == proposal["id"] == "1"
    plain = await resolved.cli("meta", "status", *BOOK)
    assert "Gate: closed, 40 of 500 outcomes: 460 more before it speaks" in plain.out
    assert "closeloop meta approve" in plain.out
    rejected = await resolved.cli("meta", "reject", "--by", "ann", "--note", "too early", *BOOK, "--json")
    assert (rejected.status, rejected.json()["state"]) == (0, "rejected")
    await resolved.json("meta", "propose", *BOOK)
    assert (await resolved.json("meta", "approve", "--by", "bob", *BOOK))["accepted"] is True
    live = await resolved.json("meta", "status", *BOOK)
    assert (live["mode"], live["decided_by"]) == ("live", "bob")
    assert "is live already" in (await resolved.cli("meta", "propose", *BOOK)).sentence()
    assert (await resolved.json("meta", "shadow", "--by", "cid", *BOOK))["changed"] is True
    assert (await resolved.json("meta", "shadow", "--by", "cid", *BOOK))["changed"] is False
    assert (await resolved.json("meta", "status", *BOOK))["mode"] == "shadow"
    assert (await resolved.cli("meta", "shadow", "--by", " ", *BOOK)).status == 2
    kinds = [event["type"] for event in await resolved.json("events", *BOOK) if "pproval" in event["type"]]
    assert kinds == ["learning.approval.rejected.v1", "learning.approval.approved.v1"]
    assert await resolved.json("meta", "decisions", *BOOK) == []
    for nothing in ("x", "0", "9" * 30):
        refused = await resolved.cli("meta", "decisions", *BOOK, "--before", nothing)
        assert f"There is no decision {nothing}" in refused.sentence()


async def test_the_gate_opens_and_outcomes_count_as_the_legend_says(stack: StackProcess, tmp_path: Path) -> None:
    """Seven producers, four forecasts an hour over one hour, of two assets that move as one: worth one an hour."""
    book, assets = ("--book", "cli-gate"), ("GATE/BTC", "GATE/ETH")
    (tmp_path / "prices.csv").write_text(candle_file())
    for asset in assets:
        await stack.json("prices", "import", tmp_path / "prices.csv", "--asset", asset, "--interval", "5m")
    rows = [
        said(
            f"{producer}-{asset}-{quarter}", book="cli-gate", producer_id=f"p{producer}", asset=asset,
            issued_at=(T0 + quarter * HOUR / 4).isoformat(),
        )
        for producer, asset, quarter in product(range(7), assets, range(80))
    ]  # fmt: skip
    assert (await stack.cli("forecasts", "add", "-", "--json", stdin=lines(*rows[:480]))).status == 0
    await stack.json("forecasts", "resolve", *AS_OF)
    closed = await stack.cli("meta", "status", *book)
    assert "Gate: closed, 480 of 500 outcomes: 20 more before it speaks." in closed.out
    assert (await stack.cli("forecasts", "add", "-", "--json", stdin=lines(*rows[480:]))).status == 0
    await stack.json("forecasts", "resolve", *AS_OF)
    plain = await stack.cli("meta", "status", *book)
    assert "Gate: open, passed with 1120 outcomes (500 are needed)." in plain.out
    assert "'closeloop meta propose --book cli-gate' proposes to leave shadow." in plain.out
    for narrowed, outcomes in (((), 160), (("--asset", assets[0]), 80)):
        scored = await stack.json("producers", *book, *narrowed)
        assert {(row["producer_id"], row["outcomes"], row["independent"]) for row in scored} == {
            (f"p{producer}", outcomes, 20) for producer in range(7)
        }


async def test_where_there_is_nothing(stack: StackProcess) -> None:
    book = ("--book", "cli-nothing")
    assert (await stack.cli("books", "add", "cli-nothing")).status == 0
    commands = (("forecasts", "list"), ("forecasts", "outcomes"), ("producers",), ("producers", "agreement"))
    for command in commands:
        assert await stack.json(*command, *book) == []
        plain = await stack.cli(*command, *book)
        assert (plain.status, plain.err, len(plain.out.splitlines())) == (0, "", 1), plain
    assert "There is no forecast x" in (await stack.cli("forecasts", "show", "x", *book)).sentence()
    assert "There is no book cli-nobody" in (await stack.cli("meta", "decisions", "--book", "cli-nobody")).sentence()
    assert (await stack.cli("forecasts", "list", "--state", "lost")).status == 2


async def test_an_older_resolution_leaves_the_scores_as_they_are(resolved: StackProcess) -> None:
    before = await resolved.json("producers", *BOOK)
    await resolved.cli("forecasts", "resolve", "--as-of", "2026-03-02T06:00:00Z")
    after = await resolved.json("producers", *BOOK)
    assert [row | {"health": None} for row in after] == [row | {"health": None} for row in before]
    assert [row["outcomes"] for row in after if row["outcomes"]] == [20, 20]
