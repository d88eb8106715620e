"""Options of commands that read files of candles."""

from datetime import tzinfo
from enum import Enum
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from closeloop.models.forecasts import seconds_of


class TimestampsOf(Enum):
    """Which moment of a candle its time is."""

    start = "start"
    end = "end"


def interval(value: str) -> str:
    """A candle's length as it was typed; called wrongly (status 2) if it does not divide a day."""
    try:
        seconds = seconds_of(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if seconds > 86_400 or 86_400 % seconds:
        raise typer.BadParameter("must divide a day evenly, such as 1m, 5m, 15m, 30m or 1h")
    return value


def _zone(value: str) -> tzinfo:
    try:
        return ZoneInfo(value)
    except (ValueError, OSError, KeyError):
        raise typer.BadParameter("must be a time zone such as UTC or Europe/Athens") from None


SymbolOption = Annotated[
    str | None, typer.Option("--symbol", help="Of a file of several symbols, the rows of this one.")
]
TimestampsOption = Annotated[
    TimestampsOf | None,
    typer.Option(
        "--timestamps", help="Which moment of a candle its time is: its start, which is the default, or its end."
    ),
]
TimezoneOption = Annotated[
    tzinfo | None,
    typer.Option(
        "--timezone",
        help="Whose times those without an offset are: UTC, Europe/Athens.",
        parser=_zone,
        metavar="ZONE",
    ),
]
