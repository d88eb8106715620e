"""Books: one for each strategy, with its preset of domain weights."""

from datetime import datetime

from pydantic import BaseModel, Field

from closeloop.models.weights import Cadence, Weights


class BookView(BaseModel):
    """A book. Its preset is null until somebody chose one or its first weight cycle took the default."""

    book: str
    preset: str | None
    preset_weights: Weights | None
    cadence: Cadence
    currency: str | None = Field(default=None, description="Of its money; null where no close has stated one.")
    created_at: datetime
    archived_at: datetime | None = Field(
        default=None, description="When it was removed: it learns no more; null of a book that does."
    )
    archived_by: str | None = None


class BookSummary(BookView):
    """A book in a list."""

    positions: int = Field(description="Positions that were attributed in it.")


class BookSetUp(BaseModel):
    """What setting up a book came to, in a sentence, and the book as it is now."""

    sentence: str
    book: BookView


class BookChanged(BaseModel):
    """What removing or restoring a book came to, in a sentence, and the book as it is now.

    ``withdrawn``: what waited for an operator, at most 20 of it by ``kind/book/id``; ``overrides``: how many ended;
    ``preset_restored``: learned weights were in force.
    """

    sentence: str
    book: BookView
    withdrawn: list[str] = []
    overrides: int = 0
    preset_restored: bool = False
