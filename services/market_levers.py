"""Levers as of an instant, from the states on record."""

from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.learning.market.buckets import standing
from closeloop.learning.market.levers import ChannelState, levers
from closeloop.models.errors import NotAcceptable
from closeloop.models.market import DOMINANCES, Driver, Timeframe
from closeloop.models.market_levers import BucketContext, ContextSource, Levers, LeversRequest, StateGiven
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
    context = await _standing(session, request.bucket, instant, policy)
    levers_there = answer(request.model_copy(update={"context": context}), known, policy)
    return levers_there.model_copy(update={"context_source": ContextSource.indices}) if context else levers_there


async def _standing(
    session: AsyncSession, bucket: str, instant: datetime, policy: LeversPolicy
) -> BucketContext | None:
    since = instant.replace(minute=0, second=0, microsecond=0) - timedelta(hours=policy.context_hours)
    indices = await standings.indices(session, since, instant)
    moves = await standings.moves(session, bucket, since, instant)
    return standing(bucket, indices, moves, int(instant.timestamp()), policy)


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
