"""The market: states of regime drivers, and the levers that follow from them. Each command has a file of its own."""

import typer

from closeloop.cli.console import DecisionCommand
from closeloop.cli.market_backfill import backfill, contexts
from closeloop.cli.market_collect import collect
from closeloop.cli.market_drivers import drivers, propose, revert
from closeloop.cli.market_evidence import evidence
from closeloop.cli.market_history import history
from closeloop.cli.market_levers import levers
from closeloop.cli.market_replay import replay
from closeloop.cli.market_states import states
from closeloop.cli.market_tokens import app as tokens

app = typer.Typer(help="The market's state, and how aggressive to be in it (A and E).", no_args_is_help=True)
app.command()(collect)
app.command()(states)
app.command()(history)
app.command()(levers)
app.command()(backfill)
app.command()(contexts)
app.command()(evidence)
app.command()(propose)
app.command()(drivers)
app.command(cls=DecisionCommand)(revert)
app.command()(replay)
app.add_typer(tokens, name="tokens")
