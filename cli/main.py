"""``closeloop``: the command line."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from closeloop.cli import (
    books,
    coefficients,
    convictions,
    corpus,
    db,
    demo,
    events,
    forecasts,
    imports,
    karma,
    lessons,
    meta,
    operations,
    outcomes,
    overrides,
    positions,
    prices,
    producers,
    research,
    weights,
)
from closeloop.cli.console import err, set_home

app = typer.Typer(
    name="closeloop",
    help="A durable learning service for trading engines. Start with 'closeloop dev' or 'closeloop demo'.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _home(
    home: Annotated[
        Path | None,
        typer.Option("--home", help="Folder of the local stack. Default: CLOSELOOP_HOME, else .closeloop here."),
    ] = None,
) -> None:
    if home is not None:
        set_home(home)


operations.register(app)
demo.register(app)
app.add_typer(db.app, name="db")
app.add_typer(positions.app, name="positions")
app.add_typer(convictions.app, name="convictions")
app.add_typer(imports.app, name="import")
app.add_typer(outcomes.app, name="outcomes")
app.add_typer(karma.app, name="karma")
app.add_typer(events.app, name="events")
app.add_typer(books.app, name="books")
app.add_typer(weights.app, name="weights")
app.add_typer(corpus.app, name="corpus")
app.add_typer(forecasts.app, name="forecasts")
app.add_typer(prices.app, name="prices")
app.add_typer(producers.app, name="producers")
app.add_typer(meta.app, name="meta")
app.add_typer(lessons.app, name="lessons")
app.add_typer(overrides.app, name="overrides")
coefficients.register(app)
app.add_typer(research.app, name="research")


def main() -> None:
    """Entry point. Leaves with ``os._exit``: the client's native threads can abort an interpreter that finalizes."""
    status = 0
    try:
        app()
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except (KeyboardInterrupt, asyncio.CancelledError):
        status = 130
    except BrokenPipeError:
        status = 0  # the reader (head, less) had enough
    except Exception as error:  # a defect of ours: say so, with the trace for the report
        import traceback

        traceback.print_exc()
        err.print(f"closeloop: this should not have happened ({type(error).__name__}); please report it.")
        status = 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        pass
    os._exit(status)


if __name__ == "__main__":
    main()
