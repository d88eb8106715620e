"""From lessons to sizes: what an override changes, how long it holds, and what several say together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from models.policy import LearningPolicy


@dataclass(frozen=True)
class Sizing:
    """What an override changes: a factor of size, what is added to thresholds, and a confidence in [0, 1)."""

    size_multiplier: float
    threshold_adjustments: dict[str, float]
    confidence: float


def is_actionable(
    accepted: bool, q: float | None, effect: float | None, half_life_hours: float | None, policy: LearningPolicy
) -> bool:
    """Whether a lesson may change sizes: accepted, significant, large enough, and not gone too soon."""
    raise NotImplementedError


def sizing(effect: float, n: int, action_category: str, policy: LearningPolicy) -> Sizing:
    """What a lesson of ``n`` trades with this effect (R) changes."""
    raise NotImplementedError


def needs_approval(size_multiplier: float, policy: LearningPolicy) -> bool:
    """Whether it would move size by more than may happen without an operator."""
    raise NotImplementedError


def expires_at(newest_trade: datetime, half_life_hours: float | None, policy: LearningPolicy) -> datetime:
    """When an override ends unless its lesson is renewed: counted from the entry of the lesson's newest trade."""
    raise NotImplementedError


@dataclass(frozen=True)
class Override:
    """A stored override that applies: its scope is contained in the current one."""

    override_id: str
    scope: Mapping[str, str]
    size_multiplier: float
    threshold_adjustments: Mapping[str, float]
    confidence: float


@dataclass(frozen=True)
class Voice:
    """An override that spoke; ``weight`` as a share of 1."""

    override_id: str
    scope: Mapping[str, str]
    multiplier: float
    weight: float


@dataclass(frozen=True)
class Match:
    """What all overrides that apply say together, and which spoke; without any exactly 1.0 and no adjustment."""

    size_multiplier: float = 1.0
    threshold_adjustments: dict[str, float] = field(default_factory=dict)
    spoke: tuple[Voice, ...] = ()


def blend(overrides: Sequence[Override], policy: LearningPolicy) -> Match:
    """The weighted mean of what they say, with weight confidence x (1 + conditions)^1.5; in any order the same."""
    raise NotImplementedError
