"""What the audit trail says, in a trader's words."""

from collections.abc import Mapping, Sequence
from decimal import Decimal

from closeloop.models.positions import ClosedPosition, KarmaStep, PositionOutcome

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
    if outcome.conviction_status == "unknown":
        line += f"; conviction {outcome.conviction_id} is not on record"
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


def short(line: str, limit: int = 300) -> str:
    """At most ``limit`` bytes of a line: a summary has room for 400."""
    return line.encode()[:limit].decode(errors="ignore")
