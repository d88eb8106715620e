"""Which workers live, and whether they compute with the same policy."""

from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.workers import PoliciesInUse, PolicyUse, WorkerView

BEAT_EVERY = timedelta(seconds=15)
LIVES_FOR = 3 * BEAT_EVERY
"""A worker that was not seen for so long is taken for dead."""
FORGOTTEN_AFTER = timedelta(days=1)
LISTED = 200
_POLICIES_COMPARED = 10


async def live(session: AsyncSession, within: timedelta = LIVES_FOR) -> list[WorkerView]:
    """Workers that live, the longest running first; at most 200."""
    return await store.workers.live(session, within, LISTED)


async def policies_in_use(session: AsyncSession, within: timedelta = LIVES_FOR) -> PoliciesInUse:
    """The policies of the workers that live, and in what they differ; the first ten policies are compared."""
    policies = await store.workers.policies(session, within, _POLICIES_COMPARED)
    workers = await live(session, within)
    return PoliciesInUse(
        policies=[
            PolicyUse(policy_hash=found, workers=[worker.name for worker in workers if worker.policy_hash == found])
            for found in policies
        ],
        differ=_differ([_flat(policy) for policy in policies.values()]),
    )


def _flat(policy: dict[str, Any]) -> dict[str, Any]:
    return {f"{name}.{field}": value for name, section in policy.items() for field, value in section.items()}


def _differ(policies: list[dict[str, Any]]) -> dict[str, list[Any]]:
    fields = dict.fromkeys(field for policy in policies for field in policy)
    values = {field: [policy.get(field) for policy in policies] for field in fields}
    return {field: found for field, found in values.items() if any(value != found[0] for value in found)}
