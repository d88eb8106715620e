"""Attribution: what a closed position says about what was believed when it was opened."""

from datetime import datetime
from decimal import Decimal


def is_win(realized_pnl: Decimal) -> bool:
    """Whether the trade made money. Break-even is not a win.

    >>> is_win(Decimal("0.01")), is_win(Decimal("0")), is_win(Decimal("-1"))
    (True, False, False)
    """
    return realized_pnl > 0


def outcome_sign(realized_pnl: Decimal) -> int:
    """y: +1 where the trade made money, otherwise -1.

    >>> outcome_sign(Decimal("3")), outcome_sign(Decimal("0"))
    (1, -1)
    """
    return 1 if is_win(realized_pnl) else -1


def r_multiple(realized_pnl: Decimal, risk: Decimal | None) -> float | None:
    """Realised PnL in units of the money at risk at entry (Van Tharp's R); None where the risk is unknown.

    >>> r_multiple(Decimal("10"), Decimal("5")), r_multiple(Decimal("10"), None)
    (2.0, None)
    """
    return None if risk is None else float(realized_pnl / risk)


def hours_held(opened_at: datetime, closed_at: datetime) -> float:
    """Time between open and close, in hours.

    >>> hours_held(datetime(2026, 1, 1, 0), datetime(2026, 1, 1, 6, 30))
    6.5
    """
    return (closed_at - opened_at).total_seconds() / 3600.0
