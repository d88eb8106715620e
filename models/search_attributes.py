"""The search attributes by which an operator filters the Temporal UI. One list, fixed once.

A Temporal server allows 10 Keyword and 3 KeywordList attributes in all.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

from closeloop.models.positions import ClosedPosition

BOOK = SearchAttributeKey.for_keyword("Book")
SYMBOL = SearchAttributeKey.for_keyword("Symbol")
DIRECTION = SearchAttributeKey.for_keyword("Direction")
LIFECYCLE = SearchAttributeKey.for_keyword("Lifecycle")
DECISION = SearchAttributeKey.for_keyword("Decision")
CYCLE_STATE = SearchAttributeKey.for_keyword("CycleState")
OPERATOR = SearchAttributeKey.for_keyword("Operator")
PRODUCERS = SearchAttributeKey.for_keyword_list("Producers")
R_MULTIPLE = SearchAttributeKey.for_float("RMultiple")
CLOSED_AT: SearchAttributeKey[datetime] = SearchAttributeKey.for_datetime("ClosedAt")

ALL: tuple[SearchAttributeKey[Any], ...] = (
    BOOK,
    SYMBOL,
    DIRECTION,
    LIFECYCLE,
    DECISION,
    CYCLE_STATE,
    OPERATOR,
    PRODUCERS,
    R_MULTIPLE,
    CLOSED_AT,
)


def position_attributes(position: ClosedPosition) -> TypedSearchAttributes:
    """What is known of a close when its workflow starts."""
    return TypedSearchAttributes(
        [
            SearchAttributePair(LIFECYCLE, "position"),
            SearchAttributePair(BOOK, position.book),
            SearchAttributePair(SYMBOL, position.symbol),
            SearchAttributePair(DIRECTION, position.direction),
            SearchAttributePair(PRODUCERS, fitting(position.producers)),
            SearchAttributePair(CLOSED_AT, position.closed_at),
        ]
    )


def fitting(names: Sequence[str], limit: int = 1_900) -> list[str]:
    """The first of these names that a search attribute has room for (a server takes 2,048 bytes by default)."""
    kept: list[str] = []
    for name in names:
        limit -= len(json.dumps(name)) + 2  # as the client library sends it, with escapes
        if limit < 0:
            break
        kept.append(name)
    return kept
