"""Reasons to exit that freqtrade renamed (2022.4): one reason has one name, whichever version wrote it."""

_RENAMED = {
    "sell_signal": "exit_signal",
    "custom_sell": "custom_exit",
    "force_sell": "force_exit",
    "emergency_sell": "emergency_exit",
}


def todays_name(reason: str) -> str:
    """Today's name of a reason to exit; one that was never renamed is itself."""
    return _RENAMED.get(reason, reason)
