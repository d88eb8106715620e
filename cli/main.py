"""``closeloop``: the command line."""

import asyncio
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from closeloop.cli.lazy import LazyCommand, LazyGroup
from closeloop.cli.visible import visible

_CalledWrongly: Any = typer.BadParameter.__base__  # the UsageError of the click that Typer brings


class Commands(LazyGroup):
    """Every command. The lines of help are the commands' own (tests/cli/test_help.py)."""

    table: ClassVar[dict[str, LazyCommand]] = {
        "dev": LazyCommand(
            "closeloop.cli.operations:dev",
            "Start PostgreSQL, Temporal with its UI, a worker and the API, in the foreground.",
        ),
        "worker": LazyCommand("closeloop.cli.operations:worker", "Run a worker until SIGINT or SIGTERM."),
        "api": LazyCommand("closeloop.cli.operations:api", "Run the HTTP API until SIGINT or SIGTERM."),
        "status": LazyCommand(
            "closeloop.cli.operations:status", "Tell what is up: database, schema, Temporal, workers, HTTP door."
        ),
        "schedules": LazyCommand("closeloop.cli.operations:schedules", "What runs repeatedly."),
        "search-attributes": LazyCommand(
            "closeloop.cli.operations:search_attributes", "Search attributes of the Temporal namespace."
        ),
        "demo": LazyCommand(
            "closeloop.cli.demo:demo",
            "Play a simulated engine through the real stack (the running one, or its own); show what was learned.",
        ),
        "backup": LazyCommand(
            "closeloop.cli.backups:backup",
            "Write the database to FILE, as it is at one instant.",
        ),
        "restore": LazyCommand(
            "closeloop.cli.backups:restore",
            "Read a backup into an empty database, such as a new stack's.",
        ),
        "storage": LazyCommand(
            "closeloop.cli.storage:storage",
            "What takes how much, and what will leave the database.",
        ),
        "db": LazyCommand("closeloop.cli.db:app", "The database: where it is, and its schema."),
        "positions": LazyCommand("closeloop.cli.positions:app", "Positions."),
        "convictions": LazyCommand("closeloop.cli.convictions:app", "Convictions."),
        "import": LazyCommand("closeloop.cli.imports:app", "Import history in bulk."),
        "outcomes": LazyCommand("closeloop.cli.outcomes:app", "Outcomes of closed positions."),
        "karma": LazyCommand("closeloop.cli.karma:app", "Trust in producers."),
        "events": LazyCommand("closeloop.cli.events:app", "The append-only record of what happened."),
        "books": LazyCommand(
            "closeloop.cli.books:app", "Books: one for each strategy, with its preset of domain weights."
        ),
        "approvals": LazyCommand(
            "closeloop.cli.approvals:app", "What waits for you, of whatever kind: look at it, approve, reject."
        ),
        "tokens": LazyCommand("closeloop.cli.tokens:app", "Tokens: by which engines and operators are known."),
        "weights": LazyCommand(
            "closeloop.cli.weights:app", "Governed weights: what is proposed and why; approve, reject, revert."
        ),
        "corpus": LazyCommand("closeloop.cli.corpus:app", "Skills: their scores, and what their patterns came to."),
        "forecasts": LazyCommand(
            "closeloop.cli.forecasts:app", "Forecasts: what producers say, and how it turned out."
        ),
        "decisions": LazyCommand(
            "closeloop.cli.decisions:app", "Decisions of engines, and what became of the market after them."
        ),
        "params": LazyCommand("closeloop.cli.params:app", "Parameters that engines read, and who gets learned ones."),
        "health": LazyCommand(
            "closeloop.cli.health:health",
            "How the learning service is: its flows, its answers, what it learned, its database.",
        ),
        "prices": LazyCommand("closeloop.cli.prices:app", "Prices, by which forecasts are resolved."),
        "producers": LazyCommand("closeloop.cli.producers:app", "What producers are worth by their forecasts."),
        "meta": LazyCommand(
            "closeloop.cli.meta:app", "The meta-producer: it listens to the others and says what usually followed."
        ),
        "lessons": LazyCommand(
            "closeloop.cli.lessons:app",
            "Lessons: in which circumstances trades went better or worse, and which of that is more than noise.",
        ),
        "overrides": LazyCommand(
            "closeloop.cli.overrides:app", "Overrides: what lessons change of size and thresholds."
        ),
        "coefficients": LazyCommand(
            "closeloop.cli.coefficients:coefficients",
            "Timeframe coefficients: decayed means of R by timeframe, and the weight that follows from them.",
        ),
        "market": LazyCommand(
            "closeloop.cli.market:app", "The market's state, and how aggressive to be in it (A and E)."
        ),
        "research": LazyCommand(
            "closeloop.cli.research:app", "Research on closed trades: observations, and hypotheses that are tested."
        ),
    }


app = typer.Typer(
    name="closeloop",
    cls=Commands,
    help="A durable learning service for trading engines. Start with 'closeloop dev' or 'closeloop demo'.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"closeloop {version('closeloop')}")
        raise typer.Exit


@app.callback()
def _every_command(
    home: Annotated[
        Path | None,
        typer.Option("--home", help="Folder of the local stack. Default: CLOSELOOP_HOME, else .closeloop here."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    if home is not None:
        from closeloop.cli.console import set_home

        set_home(home)


def main() -> None:
    """Entry point. Leaves with ``os._exit``: the client's native threads can abort an interpreter that finalizes."""
    status = 0
    try:
        left = app(standalone_mode=False)  # the status of a command that left early; else what it returned, nothing
        status = left if isinstance(left, int) else 0
    except _CalledWrongly as error:
        error.message = visible(error.message, lines=True)
        error.show()
        status = error.exit_code
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except (KeyboardInterrupt, asyncio.CancelledError):
        status = 130
    except BrokenPipeError:
        status = 0  # the reader (head, less) had enough
    except Exception as error:  # a defect of ours: say so, with the trace for the report
        import traceback

        from closeloop.models.sentences import DEFECT, short

        print(visible(traceback.format_exc(), lines=True), file=sys.stderr, end="")
        what = visible(short(f"{type(error).__name__}: {error}", 200))
        print(f"closeloop: {DEFECT} ({what}); please report it.", file=sys.stderr)
        status = 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        pass
    os._exit(status)


if __name__ == "__main__":
    main()
