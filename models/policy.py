"""Every number that shapes learning, with its unit, default and reason, in one place."""

import hashlib
from functools import cached_property

from pydantic import BaseModel, ConfigDict, Field


class LearningPolicy(BaseModel):
    """What shapes learning. Overridden by a YAML file (``CLOSELOOP_POLICY``); unknown or impossible values are refused.

    Every decision stores :attr:`policy_hash`, so that it can be read beside the numbers that it was made with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    karma_alpha: float = Field(
        default=0.05,
        gt=0.0,
        lt=1.0,
        description="Weight of the newest outcome in a producer's karma (dimensionless). 0.05: about the last 20 "
        "trades count for two thirds.",
    )
    karma_start: float = Field(
        default=1.0,
        ge=-1.0,
        le=1.0,
        description="Karma of a producer before its first trade (dimensionless). 1: trusted until shown otherwise.",
    )

    @cached_property
    def policy_hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the policy as canonical JSON."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]
