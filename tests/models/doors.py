"""The two doors of a message: JSON (Temporal, imports, the CLI) and plain values (rows of the database)."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from closeloop.models.positions import ClosedPosition
from closeloop.models.refusals import describe
from tests.closes import message


def accept(**changes: Any) -> ClosedPosition:
    """The position that both doors read from the message with these changes (None stays, as null)."""
    values = message("default") | changes
    position = ClosedPosition.model_validate_json(json.dumps(values))
    assert ClosedPosition.model_validate(values) == position
    return position


def accept_json(field: str, literal: str) -> ClosedPosition:
    """The position read from JSON text in which the field is this literal, to the letter."""
    return ClosedPosition.model_validate_json(json_with(field, literal))


def json_with(field: str, literal: str) -> str:
    text = json.dumps(message("default") | {field: "@here@"})
    return text.replace('"@here@"', literal)


def refusal_of_json(text: str | bytes) -> str:
    with pytest.raises(ValidationError) as refused:
        ClosedPosition.model_validate_json(text)
    return describe(refused.value)


def refusal(**changes: Any) -> str:
    """What is said of the message with these changes, as JSON; as plain values it is refused for the same fields."""
    values = message("default") | changes
    reason = refusal_of_json(json.dumps(values))
    with pytest.raises(ValidationError) as refused:
        ClosedPosition.model_validate(values)
    assert fields(describe(refused.value)) == fields(reason)
    return reason


def fields(reason: str) -> list[str]:
    """The fields that a refusal names, in its order."""
    return [part.partition(": ")[0] for part in reason.split("; ")]


def refused_at(field: str, **changes: Any) -> None:
    """Both doors refuse the message with these changes, for this one field and no other."""
    assert fields(refusal(**changes)) == [field]
