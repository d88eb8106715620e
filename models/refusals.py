"""How a refusal is worded: the field, then the reason."""

from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from closeloop.models.values import MAX_MESSAGE_BYTES

TOO_LONG = f"message: must be at most {MAX_MESSAGE_BYTES // 1024} KiB of JSON"


def describe(error: ValidationError, limit: int = 20) -> str:
    """One line for a person: ``realized_pnl: must be a finite number; direction: ...``.

    The refused values themselves are not repeated: they may be large, and they are not ours to log.
    """
    found = []
    for item in error.errors(include_url=False, include_context=False, include_input=False)[:limit]:
        field, reason = path(item["loc"]), reason_of(item)
        # What a whole message is refused for names its field itself.
        found.append(reason if not field and item["type"] == "value_error" else f"{field or 'message'}: {reason}")
    if error.error_count() > limit:
        found.append(f"and {error.error_count() - limit} more")
    return "; ".join(found)


def path(location: Sequence[int | str]) -> str:
    """A field of a message, such as ``signals.0.producer_id``."""
    return ".".join(_readable(str(part)) for part in location)


def reason_of(item: ErrorDetails) -> str:
    """What is wrong with a field."""
    return item["msg"].removeprefix("Value error, ")


def _readable(key: str) -> str:
    """A key of the sender's, short and without what would break a line or a database."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in key[:80])
