"""What a section of the policy is, and its hash."""

import hashlib
from functools import cached_property

from pydantic import BaseModel, ConfigDict


class PolicySection(BaseModel):
    """Numbers that one rule reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @cached_property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the section as canonical JSON."""
        return hash_of(self)


def hash_of(*sections: BaseModel) -> str:
    """First 16 hex digits of the SHA-256 of these sections (or of a whole policy) as canonical JSON."""
    return hashlib.sha256(b"\n".join(each.model_dump_json().encode() for each in sections)).hexdigest()[:16]
