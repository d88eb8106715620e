"""The cursor ``--before`` of ids that are unique within a book only: ID where the book is given, else BOOK/ID."""

from closeloop.models.errors import NotAcceptable


def in_book(book: str | None, before: str) -> tuple[str, str]:
    """The book and the id that a cursor names. Raises NotAcceptable."""
    if book is not None:
        return book, before
    found, slash, name = before.partition("/")
    if not slash:
        raise NotAcceptable(f"{before} names no book: write BOOK/ID, or name the book with --book.")
    return found, name
