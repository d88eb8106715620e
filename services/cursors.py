"""What ``--before ID`` names, where an id is one of a book's: by itself if the book is given, else BOOK/ID."""

from closeloop.models.errors import NotAcceptable


def in_book(book: str | None, before: str) -> tuple[str, str]:
    """The book and the id that a cursor names. Raises NotAcceptable."""
    if book is not None:
        return book, before
    found, slash, name = before.partition("/")
    if not slash:
        raise NotAcceptable(f"{before} names no book: say BOOK/ID, or choose the book.")
    return found, name
