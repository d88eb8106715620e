"""What research asks a language model about closed trades, and what the model may answer."""

import re
import unicodedata
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from closeloop.models.values import Direction, Identifier
from closeloop.models.values import Text as Prose

Fact = Annotated[str, Field(max_length=200)]
MAX_DIMENSIONS = 40  # of a trade's scope, or of a group, that a prompt holds


class TradesRecord(BaseModel):
    """How a number of trades went. ``avg_rr`` is in R, over the trades whose risk is known."""

    trades: int
    wins: int
    avg_rr: float | None


class TradeFacts(BaseModel):
    """A closed trade, as the service computed it: the data of a level-1 prompt."""

    symbol: Fact
    direction: Direction
    closed_at: datetime
    time_held_hours: float
    rr: float | None = Field(description="In R; null where the risk is unknown.")
    won: bool
    max_drawdown_pct: float | None
    max_favorable_pct: float | None
    regime_at_entry: Fact | None
    exit_reason: Fact | None
    producers: Annotated[list[Fact], Field(max_length=20)] = []
    patterns: Annotated[list[Fact], Field(max_length=20)] = []
    scope: Annotated[dict[Fact, Fact], Field(max_length=MAX_DIMENSIONS)] = {}


class TradeToRead(BaseModel):
    """A trade to be read, beside the record of its book until then."""

    trade: TradeFacts
    book: TradesRecord


class LessonFacts(BaseModel):
    """A lesson, as the mining found it."""

    pattern_key: Fact
    action_category: Fact
    scope: dict[Fact, Fact]
    n: int
    avg_rr: float
    effect: float
    actionable: bool


class GroupFacts(BaseModel):
    """Trades of one pattern and action, and of each value of each dimension within: what a condition can name."""

    pattern_key: Fact
    action_category: Fact
    record: TradesRecord
    dimensions: dict[Fact, dict[Fact, TradesRecord]]


class JudgedFacts(BaseModel):
    """A hypothesis that was stated before, and what became of it."""

    pattern_key: Fact
    action_category: Fact
    scope: dict[Fact, Fact]
    claim: Fact
    status: Fact


class BookFacts(BaseModel):
    """The data of a level-2 prompt: recent live trades (newest first), the lessons, what can be tested, what was."""

    recent: list[TradeFacts]
    lessons: list[LessonFacts]
    groups: list[GroupFacts]
    tested: list[JudgedFacts] = []


# What a model writes longer than it was asked to, or spells otherwise, is mended: the call has been paid for.
TAGS, TAG_LENGTH = 8, 40


def _as_tag(said: str) -> str:
    """``Trend Follow!`` is trend-follow: lower case, ASCII, words joined by - or _, at most 40 characters."""
    plain = unicodedata.normalize("NFKD", said).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_]+", "-", plain).strip("-_")[:TAG_LENGTH].rstrip("-_")


def _as_tags(said: Any) -> Any:
    """The first eight tags, each once, spelt as tags are. Of another type: as it is, to be refused."""
    if not isinstance(said, list):
        return said
    tags = [_as_tag(one) if isinstance(one, str) else one for one in said]
    return [tag for place, tag in enumerate(tags) if tag != "" and tag not in tags[:place]][:TAGS]


def _cut_to(limit: int) -> BeforeValidator:
    """Cuts a text, with an ellipsis, or the tail of a list."""

    def cut(said: Any) -> Any:
        if isinstance(said, str):
            return said if len(said) <= limit else said[: limit - 1] + "…"
        return said[:limit] if isinstance(said, list) else said

    return BeforeValidator(cut)


Tag = Annotated[
    str, Field(pattern=rf"^[a-z0-9][a-z0-9_-]{{0,{TAG_LENGTH - 1}}}$", description="lower case words joined by - or _")
]


class TradeReading(BaseModel):
    """Level 1: semantic tags and an observation on one trade."""

    model_config = ConfigDict(extra="forbid")

    tags: Annotated[list[Tag], Field(min_length=1, max_length=TAGS), BeforeValidator(_as_tags)]
    observation: Annotated[
        Prose, Field(min_length=1, max_length=800, description="one to three plain sentences"), _cut_to(800)
    ]


class Condition(BaseModel):
    """``dimension = value``."""

    model_config = ConfigDict(extra="forbid")

    dimension: Annotated[Identifier, Field(description="a dimension exactly as the data names it")]
    value: Annotated[Identifier, Field(description="one of its values exactly as the data has it")]


class Claim(StrEnum):
    """What a hypothesis says of the trades that meet its condition, against the others of the same pattern."""

    better = "better"
    worse = "worse"


class Hypothesis(BaseModel):
    """A statement that the service can test."""

    model_config = ConfigDict(extra="forbid")

    statement: Annotated[Prose, Field(min_length=1, max_length=500, description="one plain sentence"), _cut_to(500)]
    pattern_key: Annotated[Identifier, Field(description="a pattern_key exactly as the data has it")]
    action_category: Annotated[Identifier, Field(description="its action_category exactly as the data has it")]
    conditions: Annotated[list[Condition], Field(min_length=1, max_length=3)]
    claim: Annotated[Claim, Field(description="how such trades do in R against the others of the same pattern")]

    @property
    def scope(self) -> dict[str, str]:
        """The condition as a lesson's scope has it."""
        return {condition.dimension: condition.value for condition in self.conditions}


class BookReading(BaseModel):
    """Level 2: a report, and hypotheses."""

    model_config = ConfigDict(extra="forbid")

    report: Annotated[Prose, Field(min_length=1, max_length=3000, description="a few plain sentences"), _cut_to(3000)]
    hypotheses: Annotated[list[Hypothesis], Field(max_length=5), _cut_to(5)]
