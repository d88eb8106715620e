"""Books and their presets."""

from typing import Annotated

import typer

from closeloop.cli.connections import database, database_sessions, temporal
from closeloop.cli.console import (
    AsJson,
    BeforeOption,
    By,
    LastOption,
    Note,
    at,
    book_name,
    out,
    print_json,
    run,
    settings,
    table,
)
from closeloop.models.books import BookChanged, BookSetUp, BookSummary, BookView
from closeloop.models.weights import Cadence
from closeloop.services import book_archive, books
from closeloop.workers.wiring import SUBJECTS

app = typer.Typer(help="Books: one for each strategy, with its preset of domain weights.", no_args_is_help=True)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="1 to 64 of [A-Za-z0-9_.-].", callback=book_name)],
    preset: Annotated[str | None, typer.Option("--preset", help="A preset's name, or a YAML file.")] = None,
    cadence: Annotated[Cadence | None, typer.Option("--cadence", help="How often weights are looked at.")] = None,
    as_json: AsJson = False,
) -> None:
    """Set up a book. Not needed: the first message that names a book sets it up, with the default preset."""

    async def set_up() -> BookSetUp:
        chosen = None if preset is None else books.preset_named(preset)
        async with database() as session, session.begin():
            return await books.set_up(session, settings().learning_policy(), name, chosen, cadence)

    done = run(set_up())
    if as_json:
        return print_json(done)
    return out.print(done.sentence)


@app.command("list")
def list_(last: LastOption = None, before: BeforeOption = None, as_json: AsJson = False) -> None:
    """All books."""

    async def load() -> list[BookSummary]:
        async with database() as session:
            return await books.listing(session, last, before)

    found = run(load())
    if as_json:
        return print_json(found)
    if not found:
        return out.print("No books yet: the first message that names one sets it up.")
    shown = table(
        "book",
        "preset",
        "cadence",
        "currency",
        "attributed positions",
        "since (UTC)",
        "removed (UTC)",
        numbers=("attributed positions",),
    )
    for book in found:
        preset = book.preset or f"{settings().learning_policy().weights.default_preset} (default)"
        shown.add_row(
            book.book,
            preset,
            book.cadence,
            book.currency or "-",
            str(book.positions),
            at(book.created_at),
            at(book.archived_at),
        )
    return out.print(shown)


@app.command()
def show(name: str, as_json: AsJson = False) -> None:
    """A book with its preset."""

    async def load() -> BookView:
        async with database() as session:
            return await books.find(session, name)

    book = run(load())
    if as_json:
        return print_json(book)
    if book.archived_at is not None:
        out.print(f"{books.archived_sentence(book)}.", soft_wrap=True)
    out.print(f"Book {name}, {book.cadence}, preset {book.preset or 'not chosen (the default)'}")
    for domain, weight in sorted((book.preset_weights or {}).items(), key=lambda item: -item[1]):
        out.print(f"  {domain:<16} {weight:.4f}")
    return None


@app.command()
def remove(name: str, by: By, note: Note = "", as_json: AsJson = False) -> None:
    """Remove a book: it learns no more, and refuses closes and forecasts. What it has stays to be read.

    Proposals of it are withdrawn, its overrides end, and its preset is in force: the overlay file is removed within
    minutes. Learned weights that nobody watches any more would be in force for ever.
    """

    async def archive() -> BookChanged:
        async with temporal() as client, database_sessions() as sessions:
            return await book_archive.remove(client, sessions, SUBJECTS, name, by, note)

    _check_operator(by)
    _show_change(run(archive()), as_json)


@app.command()
def restore(name: str, by: By, note: Note = "", as_json: AsJson = False) -> None:
    """Bring a removed book back: it takes in and learns again, from its preset on."""

    async def bring_back() -> BookChanged:
        async with database_sessions() as sessions:
            return await book_archive.restore(sessions, name, by, note)

    _check_operator(by)
    _show_change(run(bring_back()), as_json)


def _check_operator(by: str) -> None:
    if not by.strip():
        raise typer.BadParameter("must not be empty", param_hint="--by")


def _show_change(changed: BookChanged, as_json: bool) -> None:
    if as_json:
        return print_json(changed)
    out.print(changed.sentence, soft_wrap=True)
    if changed.withdrawn:
        out.print(f"withdrawn: {', '.join(changed.withdrawn)}", soft_wrap=True)
    if changed.overrides:
        out.print(f"overrides that ended: {changed.overrides}")
    if changed.preset_restored:
        out.print("the preset is in force; the overlay file is removed within five minutes")
    return None


@app.command()
def presets() -> None:
    """The presets that come with closeloop."""
    for preset in books.presets():
        weights = ", ".join(f"{domain} {weight:g}" for domain, weight in preset.weights.items())
        out.print(f"{preset.name:<14}{preset.description}\n{'':<14}{weights}")
