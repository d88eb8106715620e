"""How the learning service is."""

from datetime import UTC, datetime

from closeloop.cli.connections import database
from closeloop.cli.console import AsJson, at, number, out, print_json, run, table
from closeloop.models.health import LearningHealth
from closeloop.services.health import FLOWS, learning_health


def health(as_json: AsJson = False) -> None:
    """How the learning service is: its flows, its answers, what it learned, its database.

    Clients and pools are known to the API process alone: GET /learning/health has them.
    """

    async def look() -> LearningHealth:
        async with database() as session:
            return await learning_health(session, datetime.now(UTC))

    found = run(look())
    if as_json:
        return print_json(found)
    shown = table(
        "flow",
        "today",
        "mean ms",
        "p50 ms",
        "p99 ms",
        "taken in, 24 h",
        numbers=("today", "mean ms", "p50 ms", "p99 ms"),
    )
    for name in FLOWS:
        flow = getattr(found, name)
        rate = "-" if flow.success_rate_24h is None else f"{flow.success_rate_24h:.1%}"
        shown.add_row(
            name.removesuffix("_data_flow"), str(flow.collections_today), number(flow.avg_latency_ms, 1),
            number(flow.p50_latency_ms, 0), number(flow.p99_latency_ms, 0), rate,
        )  # fmt: skip
    out.print(shown)
    delivery, learned, stored = found.intelligence_delivery, found.learning_effectiveness, found.database_health
    hits = "-" if delivery.cache_hit_rate is None else f"{delivery.cache_hit_rate:.0%}"
    out.print(
        f"reads today: {delivery.requests_today}, {number(delivery.avg_response_time_ms, 1)} ms, {hits} from memory"
    )
    out.print(
        f"this week: {learned.patterns_discovered_this_week} patterns told for the first time, "
        f"{learned.parameter_adjustments_this_week} versions of weights"
    )
    gain = learned.accuracy_improvement_this_month
    low, high = learned.accuracy_improvement_low, learned.accuracy_improvement_high
    out.print(
        "hit rate of 30 days against the 30 before: "
        + ("too little data" if gain is None else f"{gain:+.3f} (95 % interval {number(low)} to {number(high)})")
    )
    accuracy = found.prediction_accuracy
    share = "too little data" if accuracy.value is None else f"{accuracy.value:.1%} of {accuracy.n}"
    out.print(f"forecasts of 30 days that came true: {share}")
    oldest = stored.oldest_unattributed_seconds
    out.print(
        f"database: {stored.size_bytes / 1e6:.0f} MB, answers in {stored.ping_ms:.1f} ms, inbox since "
        f"{at(stored.oldest_inbox_row)} UTC, "
        + ("every close is attributed" if oldest is None else f"oldest close without attribution {oldest:.0f} s old")
    )
    return None
