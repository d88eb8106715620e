"""How a refusal is worded: the field, then the reason."""

from pydantic import ValidationError


def describe(error: ValidationError, limit: int = 20) -> str:
    """One line for a person: ``realized_pnl: must be a finite number; direction: ...``.

    The refused values themselves are not repeated: they may be large, and they are not ours to log.
    """
    found = []
    for item in error.errors(include_url=False, include_context=False, include_input=False)[:limit]:
        field = ".".join(str(part) for part in item["loc"]) or "message"
        found.append(f"{field}: {item['msg'].removeprefix('Value error, ')}")
    if error.error_count() > limit:
        found.append(f"and {error.error_count() - limit} more")
    return "; ".join(found)
