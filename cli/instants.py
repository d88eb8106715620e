"""Instants on the command line."""

from datetime import datetime
from typing import overload

import typer
from pydantic import TypeAdapter, ValidationError

from closeloop.models.values import Utc

_utc: TypeAdapter[datetime] = TypeAdapter(Utc)


@overload
def instant(value: str | datetime) -> datetime: ...


@overload
def instant(value: None) -> None: ...


def instant(value: str | datetime | None) -> datetime | None:
    """A time from the command line; called wrongly (status 2) if it is none, or without its UTC offset."""
    if value is None:
        return None
    try:
        return _utc.validate_python(value)
    except ValidationError:
        raise typer.BadParameter("must be a time with its offset, such as 2026-10-01T00:00:00Z") from None
