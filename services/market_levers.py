"""Levers as of an instant, from the states on record."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.learning.market.buckets import standing
from closeloop.learning.market.levers import ChannelState, Regime, levers, levers_in, regime_of
from closeloop.models.errors import NotAcceptable
from closeloop.models.market import BUCKETS, DOMINANCES, Driver, Timeframe
from closeloop.models.market_levers import (
    BucketContext,
    ContextSource,
    Levers,
    LeversOfTokens,
    LeversRequest,
    RefusedToken,
    StateGiven,
    TokenAsked,
    TokenLevers,
)
from closeloop.models.market_views import ChannelAsOf
from closeloop.models.policy import LeversPolicy
from closeloop.store.market import standings, states
from closeloop.store.market.states import Ages


async def as_of(session: AsyncSession, request: LeversRequest, instant: datetime, policy: LeversPolicy) -> Levers:
    """A and E from the states that held at an instant.

    Raises NotAcceptable for a bucket, timeframe or intent metric that there is not.
    """
    answer(request, (), policy)  # what cannot be asked is refused before anything is read
    return await in_states(session, request, instant, await states.as_of(session, instant, ages(policy)), policy)


async def in_states(
    session: AsyncSession, request: LeversRequest, instant: datetime, found: list[ChannelAsOf], policy: LeversPolicy
) -> Levers:
    """A and E in these states on record. Where the request does not say how the bucket does, that is computed from the
    buckets' indices, and the answer says so. Raises NotAcceptable as :func:`as_of` does."""
    known = channels(found)
    if request.context is not None or request.bucket is None:
        return answer(request, known, policy)
    context = (await _standings(session, [request.bucket], instant, policy))[request.bucket]
    levers_there = answer(request.model_copy(update={"context": context}), known, policy)
    return levers_there.model_copy(update={"context_source": ContextSource.indices}) if context else levers_there


async def of_tokens(
    session: AsyncSession, asked: Sequence[TokenAsked | RefusedToken], instant: datetime, policy: LeversPolicy
) -> LeversOfTokens:
    """A and E of many tokens as of one instant; those that cannot be given (see :func:`as_of`) are refused by name.

    States are read once, how a bucket does once for each bucket, and what the drivers say is added up once for each
    bucket and traded timeframe.
    """
    known = channels(await states.as_of(session, instant, ages(policy)))
    tokens = [each for each in asked if isinstance(each, TokenAsked)]
    silent = {each.bucket for each in tokens if each.context is None and each.bucket in BUCKETS}
    contexts = await _standings(session, sorted(silent), instant, policy)
    regimes: dict[tuple[str | None, str], Regime] = {}
    answer = LeversOfTokens(as_of=instant, tokens=[], refused=[])
    for index, each in enumerate(asked):
        if isinstance(each, RefusedToken):
            answer.refused.append(each)
            continue
        key, context, source = (each.bucket, each.timeframe), each.context, ContextSource.request
        if context is None and each.bucket is not None:
            context, source = contexts.get(each.bucket), ContextSource.indices
        try:
            if key not in regimes:
                regimes[key] = regime_of(known, each.bucket, each.timeframe, policy)
            found = levers_in(regimes[key], each.intent, context, policy, source)
        except ValueError as error:
            answer.refused.append(RefusedToken(index=index, token=each.token, reason=str(error)))
        else:
            answer.tokens.append(TokenLevers(token=each.token, levers=found))
    return answer


async def _standings(
    session: AsyncSession, buckets: Sequence[str], instant: datetime, policy: LeversPolicy
) -> dict[str, BucketContext | None]:
    """How each of these buckets does, computed from the buckets' indices and the prices of their members."""
    if not buckets:
        return {}
    since = instant.replace(minute=0, second=0, microsecond=0) - timedelta(hours=policy.context_hours)
    indices = await standings.indices(session, since, instant)
    moves = await standings.moves(session, buckets, since, instant)
    return {bucket: standing(bucket, indices, moves[bucket], int(instant.timestamp()), policy) for bucket in buckets}


def what_if(request: LeversRequest, given: list[StateGiven], policy: LeversPolicy) -> Levers:
    """A and E if these were the states. Raises NotAcceptable as :func:`as_of` does, and for a channel given twice."""
    known = tuple(
        ChannelState(each.driver, each.timeframe, each.state, each.prev_state, frozenset(each.flags))
        for each in given
        if each.state is not None and not each.warming_up and not each.stale
    )
    return answer(request, known, policy)


def answer(request: LeversRequest, known: tuple[ChannelState, ...], policy: LeversPolicy) -> Levers:
    """A and E in these states. Raises NotAcceptable as :func:`what_if` does."""
    try:
        return levers(known, request.bucket, request.timeframe, request.intent, request.context, policy)
    except ValueError as error:
        raise NotAcceptable(f"Levers cannot be given: {error}.") from None


def channels(found: list[ChannelAsOf]) -> tuple[ChannelState, ...]:
    """States on record as the computation takes them."""
    return tuple(
        ChannelState(each.driver, each.timeframe, each.state, each.prev_state, frozenset(each.flags)) for each in found
    )


def ages(policy: LeversPolicy) -> Ages:
    """How long after its bar a state of each driver and timeframe is used."""
    minutes = {
        (driver, timeframe): policy.max_age_dominance_minutes
        if driver in DOMINANCES and timeframe is Timeframe.m1
        else policy.max_age_minutes[timeframe]
        for driver in Driver
        for timeframe in Timeframe
    }
    return {channel: timedelta(minutes=each) for channel, each in minutes.items()}
