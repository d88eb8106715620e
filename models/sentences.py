"""What the audit trail says, in a trader's words."""

from collections.abc import Mapping, Sequence
from decimal import Decimal

from closeloop.models.luck import Clustering, LessonEvidence, Untold
from closeloop.models.positions import ClosedPosition, KarmaStep, PositionOutcome
from closeloop.models.weights import GuardReading

DEFECT = "this should not have happened"
"""How the sentence begins with which a command ends on a defect of ours, and not because it refuses what was asked."""


def opening_line(position: ClosedPosition) -> str:
    """Summary of a close before it is attributed: ``BTC/USDT long closed +10.0 [default]``."""
    return short(f"{position.symbol} {position.direction} closed {signed(position.realized_pnl)} [{position.book}]")


def closing_line(outcome: PositionOutcome, karma: Sequence[KarmaStep]) -> str:
    """What came out: ``BTC/USDT long closed +2.1 R after 6.3 h; karma ta 0.95→0.953``."""
    result = signed(outcome.realized_pnl) if outcome.rr is None else f"{outcome.rr:+.2f} R"
    line = f"{outcome.symbol} {outcome.direction} closed {result} after {outcome.time_held_hours:.1f} h"
    if karma:
        steps = ", ".join(f"{s.producer_id} {s.before:.4g}→{s.after:.4g}" for s in karma[:10])
        line += f"; karma {steps}" + (f" and {len(karma) - 10} more" if len(karma) > 10 else "")
    elif outcome.producers:
        line += "; its karma steps have left the database with their event"
    if outcome.conviction_status == "unknown":
        line += f"; conviction {outcome.conviction_id} is not on record"
    elif outcome.conviction_status == "formed_later":
        line += f"; conviction {outcome.conviction_id} was formed after the entry"
    elif outcome.conviction_status == "none":
        line += "; no conviction"
    return line


def signed(money: Decimal) -> str:
    """Money with its sign, as few digits as say it."""
    text = f"{money:+f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def moved_weights(old: Mapping[str, float], new: Mapping[str, float]) -> str:
    """How weights move, the largest move first: ``onchain 0.25→0.27, social 0.15→0.13``."""
    moves = sorted(((new[d] - old.get(d, 0.0), d) for d in new), key=lambda move: (-abs(move[0]), move[1]))
    moved = [f"{d} {old.get(d, 0.0):.4g}→{new[d]:.4g}" for step, d in moves if abs(step) >= 5e-5]
    return ", ".join(moved[:8]) + (f" and {len(moved) - 8} more" if len(moved) > 8 else "") or "no visible move"


def guard_in_words(guard: GuardReading) -> str:
    """How far a book is from going back to its preset by the guarded rule, and what the last cycle said."""
    if guard.evidence >= guard.threshold:
        far = "that was enough: the book went back to its preset, and the evidence begins at nothing again"
    else:
        cycles = "1 more cycle" if guard.cycles_at_worst == 1 else f"{guard.cycles_at_worst} more cycles"
        far = f"if everything went against the learned weights, the preset would be back after {cycles}"
    if guard.n == 0:
        said = "No trade of the cycle could be compared (none had both R and a domain score): nothing was added."
    elif guard.r_learned is None or guard.r_preset is None:
        said = f"Its {_trades(guard.n)} had no conviction under one of the two: no difference was counted."
    else:
        said = (
            f"Its {_trades(guard.n)}, sized by the conviction of the learned weights, made {guard.r_learned:+.3f} R a "
            f"trade, by that of the preset {guard.r_preset:+.3f} R."
        )
    return (
        f"Guard: the evidence that the preset does better than the learned weights stands at {guard.evidence:.1f} of "
        f"{guard.threshold:g}; {far}. {said}"
    )


CLUSTERS = {
    Clustering.day: "days",
    Clustering.week: "weeks",
    Clustering.four_weeks: "blocks of 4 weeks",
    Clustering.quarter: "blocks of 12 weeks",
    Clustering.symbol: "symbols",
}
"""What the clusters of a clustering are called."""


def scope_in_words(scope: Mapping[str, str]) -> str:
    """The conditions of a lesson: ``chain=solana, mcap_bucket=nano``."""
    return ", ".join(f"{dimension}={value}" for dimension, value in sorted(scope.items())) or "-"


def untold_in_words(untold: Untold, evidence: LessonEvidence) -> str:
    """What stood out and could not be told from luck, and what would have told it."""
    by_trades, with_luck = ("<0.001" if p < 0.001 else f"{p:.3f}" for p in (untold.p_of_trades, untold.p))
    return (
        f"{scope_in_words(untold.scope)}: {untold.effect:+.2f} R, p {by_trades} by its trades, {with_luck} with luck. "
        + why_untold(untold, evidence)
    )


def strongest_untold(evidence: Sequence[LessonEvidence]) -> str | None:
    """Of what could not be told from luck in some groups, what stood out most; None where nothing did."""
    examples = [(each, of_group) for of_group in evidence for each in of_group.examples]
    if not examples:
        return None
    return untold_in_words(*min(examples, key=lambda example: (example[0].p_of_trades, str(example[0].scope))))


def why_untold(untold: Untold, evidence: LessonEvidence) -> str:
    """What would have been needed to tell this from luck."""
    clusters, luck = CLUSTERS[untold.by], {each.of: each for each in untold.luck}[untold.by]
    parts = f"{luck.clusters} {clusters} ({luck.inside} in the scope, {luck.outside} outside it)"
    if untold.too_few and untold.by is Clustering.symbol:
        return f"{parts}: too few to tell a token lesson from luck; it takes {evidence.least_symbols} or more."
    if untold.too_few:
        needed = f"; it takes {evidence.least_days} each" if untold.by is Clustering.day else ""
        return f"{parts}: too few to tell it from their luck{needed}."
    why = f"The luck of {clusters} may explain it: it rests on effectively {luck.effective:.1f} of {parts}"
    if untold.times is None:
        return f"{why}."
    return f"{why}; at this effect it takes about {untold.times:.1f} times as many."


def _trades(n: int) -> str:
    return "1 trade" if n == 1 else f"{n} trades"


def short(line: str, limit: int = 300) -> str:
    """At most ``limit`` bytes of a line: a summary has room for 400."""
    return line.encode()[:limit].decode(errors="ignore")
