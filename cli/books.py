"""Books and their presets."""

from typing import Annotated, Any

import typer

from closeloop import store
from closeloop.activities.weights import preset_weights
from closeloop.cli.connections import database
from closeloop.cli.console import AsJson, at, book_name, fail, out, print_json, run, settings, table
from closeloop.gateways.presets import UnknownPreset, load_preset, names
from closeloop.learning.weights import InfeasibleBounds
from closeloop.models.weights import Cadence, Preset

app = typer.Typer(help="Books: one for each strategy, with its preset of domain weights.", no_args_is_help=True)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="1 to 64 of [A-Za-z0-9_.-].", callback=book_name)],
    preset: Annotated[str | None, typer.Option("--preset", help="A preset's name, or a YAML file.")] = None,
    cadence: Annotated[Cadence | None, typer.Option("--cadence", help="How often weights are looked at.")] = None,
) -> None:
    """Set up a book. Not needed: a book is met with the first message that names it, and gets the default preset."""
    try:
        chosen = load_preset(preset or settings().learning_policy().weights.default_preset)
    except UnknownPreset as error:
        fail(str(error))
    out.print(run(_add(name, chosen, cadence, keep=preset is None)))


async def _add(name: str, preset: Preset, cadence: Cadence | None, keep: bool) -> str:
    try:
        weights = preset_weights(preset, settings().learning_policy())
    except InfeasibleBounds as error:
        fail(f"The preset {preset.name} cannot be used with this policy: {error}.")
    async with database() as session, session.begin():
        book = await store.books.hold(session, name)
        if keep and book["preset"] is not None:
            await store.books.set_preset(session, name, book["preset"], book["preset_weights"], cadence)
            return f"book {name} keeps the preset {book['preset']}, {cadence or book['cadence']}"
        if book["preset_weights"] == weights and cadence in (None, book["cadence"]):
            return f"book {name} has the preset {preset.name} already"
        if book["preset_weights"] != weights and await store.weights.last_cycle(session, name) is not None:
            fail(f"Book {name} has learned from preset {book['preset']}: a new strategy wants a new book.")
        await store.books.set_preset(session, name, preset.name, weights, cadence)
    return f"book {name} starts with the preset {preset.name}"


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """All books."""

    async def load() -> list[dict[str, Any]]:
        async with database() as session:
            return [dict(row) for row in await store.books.listing(session)]

    rows = run(load())
    if as_json:
        return print_json(rows)
    if not rows:
        return out.print("No books yet: the first message that names one sets it up.")
    shown = table("book", "preset", "cadence", "attributed positions", "since (UTC)", numbers=("attributed positions",))
    for row in rows:
        preset = row["preset"] or f"{settings().learning_policy().weights.default_preset} (default)"
        shown.add_row(row["book"], preset, row["cadence"], str(row["positions"]), at(row["created_at"]))
    return out.print(shown)


@app.command()
def show(name: str, as_json: AsJson = False) -> None:
    """A book with its preset."""

    async def load() -> dict[str, Any] | None:
        async with database() as session:
            row = await store.books.find(session, name)
            return None if row is None else dict(row)

    row = run(load())
    if row is None:
        fail(f"There is no book {name}: 'closeloop books list' shows them, 'closeloop books add' sets one up.")
    if as_json:
        return print_json(row)
    out.print(f"Book {name}, {row['cadence']}, preset {row['preset'] or 'not chosen (the default)'}")
    for domain, weight in sorted((row["preset_weights"] or {}).items(), key=lambda item: -item[1]):
        out.print(f"  {domain:<16} {weight:.4f}")
    return None


@app.command()
def presets() -> None:
    """The presets that come with closeloop."""
    for name in names():
        preset = load_preset(name)
        weights = ", ".join(f"{domain} {weight:g}" for domain, weight in preset.weights.items())
        out.print(f"{name:<14}{preset.description}\n{'':<14}{weights}")
