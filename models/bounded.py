"""What a report names of a set that grows with the data: a bounded part, and that there is more.

Temporal takes answers of at most 2 MiB (workflows/results.py). The record has all of it, whatever a report names.
"""

from collections.abc import Sequence

NAMES = 20
CHARACTERS = 80
FAILURES = 100
REASON_CHARACTERS = 300
BOOKS = 1_000
MORE = "and more"


def first_names(names: Sequence[str]) -> list[str]:
    """The first 20 names, each cut to 80 characters, and how many more there are."""
    shown = [name if len(name) <= CHARACTERS else name[: CHARACTERS - 1] + "…" for name in names[:NAMES]]
    return shown if len(names) <= NAMES else [*shown, f"and {len(names) - NAMES:,} more"]


def add_failure(failed: dict[str, str], book: str, reason: str) -> None:
    """Put a book's reason into a report; from the 101st on only that there are more, which ``status`` lists."""
    if book in failed or len(failed) < FAILURES:
        failed[book] = reason[:REASON_CHARACTERS]
    else:
        failed[MORE] = "'closeloop status' lists every book that fails"
