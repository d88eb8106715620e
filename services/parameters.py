"""What an engine reads of parameters, and whether it gets the learned ones.

Nothing proposes parameters yet: in every mode they are those of the preset, and the answer says so. The arm of an
A/B test is told all the same, so that decisions are recorded with it from the first day.
"""

from datetime import date, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.learning.arms import is_learned
from closeloop.models.errors import NotAcceptable
from closeloop.models.events import EventType
from closeloop.models.parameters import Arm, ModeRequest, ModeView, ParameterMode
from closeloop.services import books

COMPONENTS = ("volume_momentum", "squeeze", "catalyst", "sentiment", "options", "technical")
"""The six components of a candidate's score (seed 003)."""
TOO_LITTLE = "too little data"


async def mode(session: AsyncSession, book: str) -> ModeView:
    """The mode of a book. Raises NotOnRecord."""
    await books.find(session, book)
    return await store.parameters.mode(session, book)


async def set_mode(session: AsyncSession, wanted: ModeRequest) -> ModeView:
    """Put a mode in force for a book. Commits.

    Raises NotOnRecord, BookArchived; NotAcceptable where ``ab`` names no share or another mode does.
    """
    if (wanted.mode is ParameterMode.ab) != (wanted.share is not None):
        raise NotAcceptable("share: an A/B test needs one, such as 0.1, and no other mode has one")
    share = {ParameterMode.shadow: 0.0, ParameterMode.live: 1.0}.get(wanted.mode, wanted.share or 0.0)
    await books.find_open(session, wanted.book)
    await store.books.hold(session, wanted.book)
    now = await store.parameters.clock(session)
    view = ModeView(book=wanted.book, mode=wanted.mode, share=share, since=now, operator=wanted.operator)
    await store.parameters.set_mode(session, view)
    payload = view.model_dump(mode="json")
    await store.events.append(session, (EventType.parameter_mode, f"{wanted.book}/{now.isoformat()}", payload))
    await session.commit()
    return view


def arm_of(found: ModeView, symbol: str | None, day: date) -> Arm:
    """Which parameters a symbol gets on a day (UTC). Without a symbol there is no test: the defaults."""
    if found.mode is ParameterMode.live:
        return Arm.learned
    if symbol is None or found.mode is ParameterMode.shadow:
        return Arm.default
    return Arm.learned if is_learned(found.book, symbol, day, found.share) else Arm.default


async def adaptive(
    session: AsyncSession, book: str, symbol: str | None, regime: str | None, now: datetime
) -> dict[str, Any]:
    """The parameters that an engine uses for a symbol in a regime, in the shape of seeds 001 and 003."""
    found = await store.parameters.mode(session, book)
    return {
        "success": True,
        "book": book,
        "data": {
            "optimized_parameters": {f"{name}_weight": 1 / len(COMPONENTS) for name in COMPONENTS},
            "confidence": None,
            "expected_improvement": None,
            "market_regime": regime,
            "last_updated": None,
            "reason": TOO_LITTLE,
        },
        "applies_to_regime": regime,
        "version": 0,
        "mode": found.mode,
        "arm": arm_of(found, symbol, now.date()),
    }


async def insights(session: AsyncSession, book: str) -> dict[str, Any]:
    """What patterns have come to, each with n, interval and q: the lessons on record, the largest effects first."""
    lessons = await store.lessons.listing(session, book, shadows=False, last=100)
    patterns = [
        {
            "lesson_id": one.lesson_id,
            "pattern": one.pattern_key,
            "action": one.action_category,
            "scope": one.scope,
            "n": one.n,
            "effect": one.effect,
            "effect_low": one.effect_low,
            "effect_high": one.effect_high,
            "q": one.q,
            "actionable": one.actionable,
        }
        for one in lessons
    ]
    actionable = sum(bool(one["actionable"]) for one in patterns)
    return {
        "success": True,
        "book": book,
        "data": {
            "patterns": patterns,
            "recommendation": f"{actionable} patterns change size by their overrides" if actionable else TOO_LITTLE,
            "confidence": None,
            "reason": None if patterns else TOO_LITTLE,
        },
    }


async def recommendations(session: AsyncSession, book: str, now: datetime) -> dict[str, Any]:
    """The six blocks of seed 003. A block of which nothing is computed says "too little data"."""
    unknown = {"n": 0, "reason": TOO_LITTLE}
    found = (await insights(session, book))["data"]
    return {
        "success": True,
        "book": book,
        "discovery_parameter_adjustments": unknown,
        "confidence_calibration": unknown,
        "market_regime_insights": unknown,
        "pattern_alerts": [one for one in found["patterns"] if one["actionable"] and (one["effect"] or 0.0) > 0],
        "risk_warnings": [one for one in found["patterns"] if one["actionable"] and (one["effect"] or 0.0) < 0],
        "performance_attribution": unknown,
    }
