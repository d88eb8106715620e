"""Running it: dev, worker, status, schedules, search attributes."""

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from closeloop.cli.connections import database, temporal
from closeloop.cli.console import AsJson, at, fail, out, print_json, run, set_home, settings, table
from closeloop.cli.visible import visible
from closeloop.models.errors import ServiceError
from closeloop.models.market_sources import COINGECKO, MarketStatus
from closeloop.models.periods import PeriodicStatus
from closeloop.models.schedules import schedules_of
from closeloop.models.status import Addresses, FailedWorkflow, ScheduleStatus, Status, WorkerStatus
from closeloop.models.weights import WEIGHTS
from closeloop.services.status import status as look_at_everything
from closeloop.workers.addresses import temporal_config
from closeloop.workers.registration import register_search_attributes
from closeloop.workers.schedules import apply_schedules
from closeloop.workers.settings import SettingsError
from closeloop.workers.stack.api import USUAL_PORT
from closeloop.workers.stack.home import Home
from closeloop.workers.stack.supervisor import LocalStack, Ports
from closeloop.workers.telemetry import Telemetry, start_logging
from closeloop.workers.worker import run_worker

HomeOption = Annotated[Path | None, typer.Option("--home", help="Folder of the stack's data.")]
schedules = typer.Typer(help="What runs repeatedly.", no_args_is_help=True)
search_attributes = typer.Typer(help="Search attributes of the Temporal namespace.", no_args_is_help=True)


def _port(what: str, default: int) -> Any:
    return typer.Option(min=1, max=65535, help=f"Port of {what} on loopback.", show_default=str(default))


def dev(
    home: HomeOption = None,
    temporal_port: Annotated[int, _port("Temporal", Ports.temporal)] = Ports.temporal,
    ui_port: Annotated[int, _port("Temporal's web UI", Ports.ui)] = Ports.ui,
    postgres_port: Annotated[int, _port("PostgreSQL", Ports.postgres)] = Ports.postgres,
    api_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help="Port of the HTTP API on loopback.",
            show_default=f"{USUAL_PORT}, or another where that is taken",
        ),
    ] = None,
    no_api: Annotated[bool, typer.Option("--no-api", help="Leave the HTTP API away.")] = False,
) -> None:
    """Start PostgreSQL, Temporal with its UI, a worker and the API, in the foreground.

    Ctrl-C stops them; the data stays. A token for this machine is in the home, in api.token,
    which only its owner can read.
    """
    if home is not None:
        set_home(home)
    run(_dev(Ports(temporal_port, ui_port, postgres_port, api_port), not no_api))


async def _dev(ports: Ports, with_api: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await LocalStack(settings(), ports, _print_line, with_api=with_api).run(stop)


def _print_line(line: str) -> None:
    print(visible(line), flush=True)


def worker(home: HomeOption = None) -> None:
    """Run a worker until SIGINT or SIGTERM. In production, run as many as are needed."""
    if home is not None:
        set_home(home)
    try:
        start_logging(settings())
        telemetry = Telemetry(settings())
    except SettingsError as error:
        fail(str(error))
    try:
        run(run_worker(settings(), telemetry))
    finally:
        telemetry.flush()


def api(
    home: HomeOption = None,
    host: Annotated[
        str, typer.Option(help="Where to listen. From elsewhere than this machine, put TLS in front of it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port.")] = USUAL_PORT,
) -> None:
    """Run the HTTP API until SIGINT or SIGTERM. In production, run as many as are needed."""
    if home is not None:
        set_home(home)
    from closeloop.api.server import run_api

    try:
        start_logging(settings())
        telemetry = Telemetry(settings())
    except SettingsError as error:
        fail(str(error))
    try:
        run(run_api(settings(), telemetry, host, port))
    finally:
        telemetry.flush()


def status(as_json: AsJson = False) -> None:
    """Tell what is up: database, schema, Temporal, workers, HTTP door. Exit status 1 if something is not."""
    report = run(_status())
    if as_json:
        print_json(report)
    else:
        shown = table("part", "up", "detail")
        for name, part in report.parts().items():
            details = part.model_dump(
                exclude={"up", "workers", "task_queue", "queues", "ends", "remedy"}, exclude_none=True
            )
            if isinstance(part, WorkerStatus):
                details = {queue.task_queue: " and ".join(queue.workers) or "nobody" for queue in part.queues}
            shown.add_row(
                name, "yes" if part.up else "no", ", ".join(f"{key} {value}" for key, value in details.items())
            )
        out.print(f"home {report.home}: {'a stack runs here' if report.stack_running else 'no stack runs here'}")
        out.print(shown)
        if report.schedules is not None:
            out.print(_schedules_table(report.schedules))
        if report.periodic:
            out.print(_periodic_table(report.periodic))
        if report.failed_workflows and report.failed_workflows.newest:
            out.print(_failed_table(report.failed_workflows.newest))
        for trouble in report.troubles:
            out.print(f"{trouble.about}: {trouble.sentence}; {trouble.remedy}.", soft_wrap=True)
        if report.worker.ends:
            out.print(f"worker: {report.worker.ends.sentence}", soft_wrap=True)
        for one in report.failing:
            out.print(f"fails since {at(one.since)} UTC: {one.task} of {one.subject}: {one.reason}", soft_wrap=True)
        if report.market:
            _print_market(report.market)
        if report.unreadable_positions:
            out.print(
                f"positions: {report.unreadable_positions} on record cannot be read as closes, and are left alone "
                "until they change: 'closeloop positions unreadable' says why",
                soft_wrap=True,
            )
        if warning := report.policies.warning:
            out.print(f"policies: {warning}", soft_wrap=True)
        if not report.up:
            for hint in _hints(report):
                out.print(hint, soft_wrap=True)
    if not report.up:
        raise typer.Exit(1)


def _schedules_table(schedules: Sequence[ScheduleStatus]) -> Table:
    shown = table("schedule", "last ran (UTC)", "runs next (UTC)", whole=("schedule",))
    for one in schedules:
        then = "paused" if one.paused else at(one.next_at)
        shown.add_row(one.id, at(one.last_at), then if one.there else "missing")
    return shown


def _periodic_table(work: Sequence[PeriodicStatus]) -> Table:
    shown = table("work", "last done (UTC)", "as of", "due next (UTC)", "due now", whole=("work",))
    for one in work:
        now = "no" if not one.due else f"{one.due} books" if one.work == WEIGHTS else "yes"
        shown.add_row(one.work, at(one.last_done_at), at(one.last_as_of), at(one.next_at), now)
    return shown


def _print_market(market: MarketStatus) -> None:
    out.print(f"market: {market.sentence}", soft_wrap=True)
    if market.sources:
        shown = table("source", "answered (UTC)", "on record until (UTC)", "not asked before (UTC)", whole=("source",))
        for one in market.sources:
            until = one.updated_at if one.source == COINGECKO else one.collected_until
            shown.add_row(one.source, at(one.answered_at), at(until), at(one.next_attempt_at))
        out.print(shown)
    told = [one.sentence for one in market.sources if one.failing]
    told += [one.sentence for one in market.still]
    told += [one.sentence for one in market.unpolled]
    for sentence in told:
        out.print(f"market: {sentence}", soft_wrap=True)


def _failed_table(failed: Sequence[FailedWorkflow]) -> Table:
    shown = table("failed workflow", "at (UTC)", "why", whole=("failed workflow",))
    for one in failed:
        shown.add_row(one.workflow_id, at(one.closed_at), one.reason)
    return shown


def _hints(report: Status) -> list[str]:
    """What to do about each part that is not up."""
    hints = []
    if not report.postgres.up:
        hints.append("postgres: start the stack with 'closeloop dev', or check DATABASE_URL.")
    elif report.schema_.newer:
        hints.append("schema: this closeloop is older than the database: upgrade it.")
    elif not report.schema_.up:
        hints.append("schema: 'closeloop db upgrade' brings the database to what this version needs, or says why not.")
    if report.temporal.remedy:
        hints.append(f"temporal: {report.temporal.remedy}.")
    elif not report.temporal.up:
        hints.append("temporal: start the stack with 'closeloop dev', or check TEMPORAL_ADDRESS.")
    elif not report.worker.up:
        hints.append("worker: 'closeloop worker' starts one; 'closeloop dev' restarts its own.")
    if report.stack_running:
        hints.append(f"The logs of this home's stack are in {report.home}/logs.")
    return hints


async def _status() -> Status:
    return await look_at_everything(_addresses(), database, temporal)


def _addresses() -> Addresses:
    home = Home(settings().home)
    state = home.state()
    claimed = home.is_claimed()
    try:
        address = temporal_config(settings()).get("target_host")
    except ServiceError:  # connecting says the same
        address = None
    return Addresses(
        home=home.path,
        stack_running=claimed,
        postgres_data=state.postgres_data if state else None,
        temporal=address,
        temporal_ui=state.ui_url if state else None,
        api=state.api_url if state and claimed else None,
        worker_ends=home.worker_ends() if claimed else None,
        market=settings().market,
    )


@schedules.command("apply")
def schedules_apply() -> None:
    """Create or update every schedule on the Temporal server. A paused one stays paused.

    CLOSELOOP_MARKET says whether those of the market are among them; where it is off, they are removed.
    """

    async def apply() -> list[str]:
        async with temporal() as client:
            return await apply_schedules(client, settings().market)

    for name in run(apply()):
        out.print(f"applied {name}")


@schedules.command("list")
def schedules_list(as_json: AsJson = False) -> None:
    """The table of schedules."""
    rows = [
        {
            "id": s.id,
            "workflow": s.workflow,
            "every_seconds": s.every.total_seconds(),
            "overlap": s.overlap.name.lower(),
        }
        for s in schedules_of(settings().market)
    ]
    if as_json:
        return print_json(rows)
    shown = table("schedule", "every", "while the last run goes on", "what for")
    for s in schedules_of(settings().market):
        shown.add_row(s.id, str(s.every), s.overlap.name.lower(), s.summary)
    return out.print(shown)


@search_attributes.command("apply")
def search_attributes_apply() -> None:
    """Register closeloop's search attributes on the Temporal namespace. The local stack does this by itself."""

    async def apply() -> list[str]:
        async with temporal() as client:
            return await register_search_attributes(client)

    added = run(apply())
    out.print(f"registered {', '.join(added)}" if added else "all were registered already")
