"""``market levers``: A and E, and a table of what they are made of that adds up by hand."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from closeloop.cli.connections import database
from closeloop.cli.console import AsJson, AsOfOption, at, book_name, number, out, print_json, run, settings, table
from closeloop.cli.files import open_input
from closeloop.cli.market_levers_tokens import levers_of_tokens
from closeloop.models.given_levers import LeversGiven
from closeloop.models.market_levers import BucketContext, ContextSource, Levers, LeversRequest, StateGiven
from closeloop.models.policy import LeversPolicy
from closeloop.models.refusals import describe
from closeloop.services import given_levers, market_levers

_STATES = TypeAdapter(list[StateGiven])
MAX_STATES_BYTES = 1_000_000


def levers(
    timeframe: Annotated[str | None, typer.Option("--timeframe", help="That is traded, such as 1h.")] = None,
    bucket: Annotated[str | None, typer.Option("--bucket", help="The token's bucket. Default: in none.")] = None,
    intent: Annotated[
        list[str] | None,
        typer.Option("--intent", metavar="NAME=VALUE", help="An intent metric in [0, 1], such as hi_buy=0.4."),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(
            "--context", metavar="JSON", help='How the bucket does: {"rank": 1, "slope": 0.1, "confidence": 0.8}.'
        ),
    ] = None,
    states: Annotated[
        str | None,
        typer.Option("--states", metavar="FILE|-", help="What if: the states of this file (JSON), not the record's."),
    ] = None,
    book: Annotated[
        str | None,
        typer.Option(
            "--book", help="Put them on record for this book, with an ID that its closes name.", callback=book_name
        ),
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            "--tokens",
            metavar="FILE|-",
            help='Of many tokens: {"token": "X", "bucket": "nano", "timeframe": "1h"} a line.',
        ),
    ] = None,
    as_of: AsOfOption = None,
    as_json: AsJson = False,
) -> None:
    """How aggressive to be (A) and how ready to leave (E), and what it is made of.

    Without --book this only looks. With it, the levers are put on record, once: the same request for the same time
    gives the same levers again. A close whose entry_context has their levers_id is filled in from them.
    """
    for option, value in (("--as-of", as_of), ("--book", book)):
        if states is not None and value is not None:
            raise typer.BadParameter("goes with the record, not with --states", param_hint=option)
    policy = settings().learning_policy().levers
    instant = as_of or datetime.now(UTC)
    if tokens is not None:
        given_too = {"--timeframe": timeframe, "--bucket": bucket, "--intent": intent, "--context": context}
        for option, given_value in (given_too | {"--states": states, "--book": book}).items():
            if given_value:
                raise typer.BadParameter("does not go with --tokens, whose lines say it", param_hint=option)
        return levers_of_tokens(tokens, instant, policy, as_json)
    if timeframe is None:
        raise typer.BadParameter("say which timeframe is traded, such as 1h", param_hint="--timeframe")
    request = _request(bucket, timeframe, intent or [], context)
    given = None if states is None else _given(states)
    found = run(_answer(request, given, book, instant, policy))
    if as_json:
        return print_json(found)
    of = "no bucket" if bucket is None else f"bucket {bucket}"
    when = f"as of {at(instant)} UTC" if given is None else "in the states given"
    out.print(f"Token in {of}, traded on {timeframe}, {when}")
    _print(found, policy)
    if isinstance(found, LeversGiven):
        known = "" if found.known_then else "; computed later, from bars that had ended by then"
        out.print(f"On record for book {found.book}: levers_id {found.levers_id}{known}", soft_wrap=True)
    return None


async def _answer(
    request: LeversRequest,
    given: list[StateGiven] | None,
    book: str | None,
    instant: datetime,
    policy: LeversPolicy,
) -> Levers:
    market_levers.answer(request, (), policy)  # what cannot be asked is refused whether or not there is a database
    if given is not None:
        return market_levers.what_if(request, given, policy)
    async with database() as session:
        if book is not None:
            async with session.begin():
                return await given_levers.give(session, book, request, instant, policy)
        return await market_levers.as_of(session, request, instant, policy)


def _request(bucket: str | None, timeframe: str, intent: list[str], context: str | None) -> LeversRequest:
    metrics = _intent(intent)
    try:
        return LeversRequest(bucket=bucket, timeframe=timeframe, intent=metrics, context=_context(context))
    except ValidationError as error:
        raise typer.BadParameter(describe(error)) from None


def _intent(pairs: list[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            metric = float(value)
        except ValueError:
            raise typer.BadParameter(f"{pair}: must be NAME=VALUE, such as hi_buy=0.4", param_hint="--intent") from None
        if name in found:
            raise typer.BadParameter(f"{name} is given twice", param_hint="--intent")
        found[name] = metric
    return found


def _context(given: str | None) -> BucketContext | None:
    if given is None:
        return None
    try:
        return BucketContext.model_validate_json(given)
    except ValidationError as error:
        raise typer.BadParameter(describe(error), param_hint="--context") from None


def _given(name: str) -> list[StateGiven]:
    with open_input(name) as file:
        content = file.read(MAX_STATES_BYTES + 1)
    if len(content) > MAX_STATES_BYTES:
        raise typer.BadParameter(f"{name} is longer than {MAX_STATES_BYTES:,} bytes", param_hint="--states")
    try:
        return _STATES.validate_json(content)
    except ValidationError as error:
        raise typer.BadParameter(f"{name}: {describe(error)}", param_hint="--states") from None


def _print(found: Levers, policy: LeversPolicy) -> None:
    if found.contributions:
        shown = table(
            "driver", "timeframe", "state and flags", "points A", "points E", "x weight", "= A", "= E",
            numbers=("points A", "points E", "x weight", "= A", "= E"),
        )  # fmt: skip
        for each in found.contributions:
            points = sum(part.da for part in each.parts), sum(part.de for part in each.parts)
            shown.add_row(
                each.driver, each.timeframe, ", ".join(part.name for part in each.parts),
                f"{points[0]:+.2f}", f"{points[1]:+.2f}", f"{each.weight:+.5f}", _points(each.da), _points(each.de),
            )  # fmt: skip
        for name, a, e in (
            ("sum of the drivers", found.regime.A, found.regime.E),
            ("+ intent", found.intent.A, found.intent.E),
            ("+ neutral", 0.5, 0.5),
            ("before limits", found.A_raw, found.E_raw),
        ):
            shown.add_row("", "", name, "", "", "", _points(a), _points(e))
        out.print(shown)
    else:
        of_intent = f"{_points(found.intent.A)}, {_points(found.intent.E)}"
        out.print(f"No driver has a state: A and E are 0.5 and the intent ({of_intent}).")
    m, divisor = found.bucket_multiplier, max(found.bucket_multiplier, policy.min_divisor)
    a, e = (min(max(each, 0.0), 1.0) for each in (found.A_raw, found.E_raw))
    out.print(f"A = {a:.6f} x {m:.4f} of the bucket = {found.A:.6f}{_limited(a * m)}")
    out.print(f"E = {e:.6f} / {divisor:.4f} of the bucket = {found.E:.6f}{_limited(e / divisor)}")
    out.print(f"Position size: {100 * found.position_size_frac:.2f} % of the portfolio")
    if found.context is not None:
        out.print(f"The bucket: {_standing(found)}")
    if found.missing:
        out.print(f"Without a state, adding nothing: {', '.join(found.missing)}")


def _standing(found: Levers) -> str:
    context = found.context or BucketContext()
    rank = "no rank" if context.rank is None else f"rank {context.rank}"
    said = f"{rank}, slope {number(context.slope)}, confidence {number(context.confidence)}"
    if context.leader is not None:
        said += f", led by {context.leader}"
    return f"{said} (computed from the buckets' indices)" if found.context_source is ContextSource.indices else said


def _points(value: float) -> str:
    return f"{value:+.6f}"


def _limited(value: float) -> str:
    return " (limited to 1)" if value > 1.0 else ""
