"""What must be on record after a fault campaign, computed from what was told, by the formulas alone: no line of the
project computes here. Each check returns the worst difference of a number (0 where nothing is a float), and fails where
anything is missing, doubled or different."""

import json
import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from tests.faults.campaign_data import CANDLE, DOMAINS, Message, when
from tests.faults.stack_process import StackProcess

TAU_DAYS = {"short": 14.0, "long": 90.0}
CLOSENESS = 1e-9
HORIZONS = {"15m": 15, "1h": 60, "4h": 240, "1d": 1440}
BALANCED = {"curator": 0.25, "onchain": 0.25, "tradfi": 0.20, "social": 0.15, "technical": 0.10, "events": 0.05}


def outcome(row: Message) -> int:
    return 1 if Decimal(row["realized_pnl"]) > 0 else -1


def apart(found: float | None, wanted: float | None) -> float:
    """How far a number is from what it must be, relative to numbers above 1."""
    if found is None or wanted is None:
        assert found is wanted, (found, wanted)
        return 0.0
    return abs(found - wanted) / max(1.0, abs(wanted))


def close_to(differences: Iterable[float], what: str) -> float:
    worst = max(differences, default=0.0)
    assert worst <= CLOSENESS, f"{what}: {worst} apart"
    return worst


def believed(row: Message, told_apart: Mapping[str, Message]) -> str:
    """What a close's attribution says of its conviction; what was formed after the entry was not believed then."""
    if (conviction := told_apart.get(row["position_id"])) is None:
        return "inline"
    formed = conviction.get("formed_at")
    return "formed_later" if formed is not None and when(formed) > when(row["opened_at"]) else "recorded"


async def attributions(
    stack: StackProcess, book: str, rows: Sequence[Message], told_apart: Mapping[str, Message]
) -> float:
    """One attribution, one fact an action and one event of each type for each close; every field of it.

    ``told_apart``: the convictions that came without their close, before it or after it, by position.
    """
    told = {row["position_id"]: row for row in rows}
    stored = await stack.sql("SELECT * FROM attributions WHERE book_id = $1", book)
    found = {row["position_id"]: row for row in stored}
    assert len(found) == len(stored), f"{book}: doubled"
    assert found.keys() == told.keys(), f"{book}: lost {sorted(told.keys() - found.keys())[:5]}"
    [[positions]] = await stack.sql("SELECT count(*) FROM positions WHERE book_id = $1", book)
    assert positions == len(told), f"{book}: {positions} positions"
    worst = close_to((_attributed(found[name], row) for name, row in told.items()), f"attributions of {book}")
    for name, row in told.items():
        status, scores = believed(row, told_apart), found[name]["domain_scores_at_entry"]
        assert found[name]["conviction_status"] == status, (name, found[name]["conviction_status"], status)
        wanted = None if status == "formed_later" else row["conviction"]["domain_scores"]
        assert (scores and json.loads(scores)) == wanted, name
        assert found[name]["completed_at"] is None or name in told_apart, name
    for kind in ("attribution.outcome.v1", "learning.outcome.v1"):
        events = await stack.sql(
            "SELECT payload ->> 'position_id' AS name FROM events WHERE type = $1 AND payload ->> 'book' = $2",
            kind,
            book,
        )
        assert Counter(row["name"] for row in events) == dict.fromkeys(told, 1), f"{kind} of {book}"
    completed = await stack.sql(
        "SELECT payload ->> 'position_id' AS name FROM events WHERE type = $1 AND payload ->> 'book' = $2",
        "attribution.completed.v1",
        book,
    )
    late = [name for name in told if found[name]["completed_at"] is not None]
    assert Counter(row["name"] for row in completed) == dict.fromkeys(late, 1), f"completed of {book}"
    facts = await stack.sql("SELECT position_id FROM pattern_trade_events WHERE book_id = $1", book)
    actions = {name: len(row["entry_context"]["actions"]) for name, row in told.items()}
    assert Counter(row["position_id"] for row in facts) == actions, f"facts of {book}"
    return worst


def _attributed(found: Mapping[str, Any], row: Message) -> float:
    opened, closed = when(row["opened_at"]), when(row["closed_at"])
    assert (found["symbol"], found["direction"]) == (row["symbol"], row["direction"])
    assert (found["opened_at"], found["closed_at"]) == (opened, closed)
    assert found["realized_pnl"] == Decimal(row["realized_pnl"])
    assert found["direction_correct"] is (outcome(row) > 0)
    assert set(found["producers"]) == {signal["producer_id"] for signal in row["signals"]}
    return max(
        apart(found["rr"], float(Decimal(row["realized_pnl"]) / Decimal(row["risk"])) if "risk" in row else None),
        apart(found["time_held_hours"], (closed - opened) / timedelta(hours=1)),
        apart(found["max_drawdown_pct"], row["max_drawdown_pct"]),
    )


async def convictions(
    stack: StackProcess, book: str, rows: Sequence[Message], told_apart: Mapping[str, Message]
) -> None:
    """Each conviction has the outcome of its close, once; none where it was formed after the entry."""
    stored = await stack.sql("SELECT id, outcome, outcome_ts FROM conviction_scores WHERE book_id = $1", book)
    wanted = {
        row["conviction"]["conviction_id"]: (None, None)
        if believed(row, told_apart) == "formed_later"
        else (outcome(row), when(row["closed_at"]))
        for row in rows
    }
    assert {row["id"]: (row["outcome"], row["outcome_ts"]) for row in stored} == wanted, f"convictions of {book}"
    assert len(stored) == len(rows)


async def karma_counts(stack: StackProcess, book: str, rows: Sequence[Message]) -> None:
    """Wins, losses and trades of each producer: no update was lost, none made twice."""
    wanted: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for row in rows:
        for name in {signal["producer_id"] for signal in row["signals"]}:
            wanted[name][0 if outcome(row) > 0 else 1] += 1
            wanted[name][2] += 1
    stored = await stack.sql("SELECT * FROM producer_karma WHERE book_id = $1", book)
    assert {row["producer_id"]: [row["wins"], row["losses"], row["trades"]] for row in stored} == wanted, book


async def karma(stack: StackProcess, book: str, rows: Sequence[Message]) -> float:
    """After a rebuild: the average in the order of the closes."""
    wanted: dict[str, float] = {}
    for row in sorted(rows, key=lambda row: (when(row["closed_at"]), row["position_id"])):
        for name in {signal["producer_id"] for signal in row["signals"]}:
            wanted[name] = 0.95 * wanted.get(name, 1.0) + 0.05 * outcome(row)
    stored = await stack.sql("SELECT producer_id, karma FROM producer_karma WHERE book_id = $1", book)
    found = {row["producer_id"]: row["karma"] for row in stored}
    assert found.keys() == wanted.keys()
    return close_to((apart(found[name], wanted[name]) for name in wanted), f"karma of {book}")


async def coefficients(stack: StackProcess, book: str, rows: Sequence[Message]) -> float:
    """The decayed means of R by timeframe and of all together, each trade in them once."""
    [stored] = await stack.sql(
        "SELECT config_data FROM learning_configs WHERE book_id = $1 AND module_id = 'decision_maker'", book
    )
    config = json.loads(stored["config_data"])
    known = [row for row in rows if "risk" in row]
    groups: dict[str, list[Message]] = defaultdict(list)
    for row in known:
        groups[row["entry_context"]["timeframe"]].append(row)
    pairs = [(config["global_rr"], known)] + [(config["timeframe_weights"][name], of) for name, of in groups.items()]
    assert config["timeframe_weights"].keys() == groups.keys()
    differences = []
    for found, of in pairs:
        assert found["n"] == len(of), (book, found["n"], len(of))
        differences += [apart(found[f"rr_{memory}"], _decayed(of, tau)) for memory, tau in TAU_DAYS.items()]
    return close_to(differences, f"coefficients of {book}")


def _decayed(rows: Sequence[Message], tau_days: float) -> float:
    newest = max(when(row["closed_at"]) for row in rows)
    ages = [(newest - when(row["closed_at"])) / timedelta(days=tau_days) for row in rows]
    rr = [float(Decimal(row["realized_pnl"]) / Decimal(row["risk"])) for row in rows]
    return math.fsum(r * math.exp(-age) for r, age in zip(rr, ages, strict=True)) / math.fsum(
        math.exp(-age) for age in ages
    )


async def forecasts(stack: StackProcess, rows: Sequence[Message], candles: Sequence[tuple[datetime, float]]) -> float:
    """One outcome and one event for each forecast; the prices are those of the last candle that had ended."""
    ends, closes = [at + CANDLE for at, _ in candles], [close for _, close in candles]
    stored = await stack.sql("SELECT * FROM forecast_outcomes WHERE book_id = 'forecasts'")
    found = {row["forecast_id"]: row for row in stored}
    assert len(found) == len(stored), "outcomes doubled"
    assert found.keys() == {row["forecast_id"] for row in rows}, "outcomes lost"
    events = await stack.sql("SELECT payload ->> 'forecast_id' AS name FROM events WHERE type = 'forecast.outcome.v1'")
    assert Counter(row["name"] for row in events) == dict.fromkeys(found, 1)
    differences = []
    for row in rows:
        issued = when(row["issued_at"])
        was, became = (
            Decimal(str(closes[bisect_right(ends, at) - 1]))
            for at in (issued, issued + timedelta(minutes=HORIZONS[row["horizon"]]))
        )
        change = 100 * (became - was) / was
        right = {"long": change > 0, "short": change < 0, "flat": abs(change) <= Decimal("0.25")}[row["action"]]
        of = found[row["forecast_id"]]
        assert (of["price_at_issue"], of["price_at_target"]) == (was, became)
        assert of["direction_correct"] is right
        differences += [apart(of["return_pct"], float(change))]
        differences += [apart(of["brier_score"], (row["confidence"] - right) ** 2)]
    return close_to(differences, "forecasts")


async def governed(stack: StackProcess, book: str, rows: Sequence[Message], kept: Mapping[str, str]) -> float:
    """Every proposal from the weights that were in force, every version from a decision that was acknowledged.

    ``kept`` is what became of each cycle as the operator was told.
    """
    cycles = await stack.sql("SELECT * FROM weight_cycles WHERE book_id = $1 ORDER BY as_of", book)
    versions = await stack.sql("SELECT * FROM weight_versions WHERE book_id = $1 ORDER BY version", book)
    assert [row["version"] for row in versions] == list(range(1, len(versions) + 1))
    assert len({row["cycle_id"] for row in cycles}) == len(cycles)
    states = {row["cycle_id"]: row["state"] for row in cycles}
    assert {name: states[name] for name in kept} == kept, "what the operator was told"
    differences = []
    for cycle in cycles:
        old, new = (json.loads(cycle[name]) if cycle[name] else None for name in ("old", "new"))
        if new is None:
            continue
        wanted = _proposal(old, rows, cycle["as_of"])
        differences += [apart(new[domain], wanted[domain]) for domain in DOMAINS]
        of = [row for row in versions if row["cycle_id"] == cycle["cycle_id"]]
        applied = [row for row in of if row["cause"] == "approved"]
        decided = cycle["state"] in ("applied", "reverted", "closed")
        assert len(applied) == decided, (cycle["cycle_id"], cycle["state"], [row["cause"] for row in of])
        for version in applied:
            assert json.loads(version["weights"]) == new
        for version in (row for row in of if row["source"] == "learned" and row["cause"] == "reverted"):
            assert json.loads(version["weights"]) == old, "the weights that it had replaced, to the last bit"
    for version in versions:
        if version["source"] == "preset":
            weights = json.loads(version["weights"])
            differences += [apart(weights[domain], BALANCED[domain]) for domain in DOMAINS]
    shown = await stack.json("weights", "show", "--book", book)
    assert shown["weights"] == (json.loads(versions[-1]["weights"]) if versions else BALANCED)
    return close_to(differences, f"weights of {book}")


def _proposal(old: Mapping[str, float], rows: Sequence[Message], as_of: datetime) -> dict[str, float]:
    """The nearest weights to those moved by the correlations of 30 days, by bisection."""
    window = [row for row in rows if as_of - timedelta(days=30) < when(row["closed_at"]) <= as_of]
    age = as_of - min(when(row["closed_at"]) for row in rows)
    delta = 0.02 if age >= timedelta(days=90) else 0.01
    target = {}
    for domain in DOMAINS:
        pairs = [
            (row["conviction"]["domain_scores"][domain] * (1 if row["direction"] == "long" else -1), outcome(row))
            for row in window
        ]
        target[domain] = old[domain] + delta * _pearson(pairs)
    low = {domain: max(0.05, old[domain] - delta) for domain in DOMAINS}
    high = {domain: min(0.40, old[domain] + delta) for domain in DOMAINS}
    down, up = -2.0, 2.0
    for _ in range(200):
        middle = (down + up) / 2
        total = sum(min(high[d], max(low[d], target[d] - middle)) for d in DOMAINS)
        down, up = (middle, up) if total > 1 else (down, middle)
    return {d: min(high[d], max(low[d], target[d] - down)) for d in DOMAINS}


def _pearson(pairs: Sequence[tuple[float, int]]) -> float:
    n = len(pairs)
    mean_x, mean_y = (math.fsum(pair[k] for pair in pairs) / n for k in (0, 1))
    xx = math.fsum((x - mean_x) ** 2 for x, _ in pairs)
    yy = math.fsum((y - mean_y) ** 2 for _, y in pairs)
    return math.fsum((x - mean_x) * (y - mean_y) for x, y in pairs) / math.sqrt(xx * yy) if xx * yy else 0.0
