"""Asking an HTTP door of closeloop how it is."""

import httpx

_SECONDS = 3.0


async def why_not_ready(url: str) -> str | None:
    """Why the door there takes nothing in; None where it does."""
    try:
        async with httpx.AsyncClient(timeout=_SECONDS, trust_env=False) as client:
            answer = await client.get(f"{url}/readyz")
    except httpx.HTTPError as error:
        return f"does not answer ({type(error).__name__})"
    if answer.status_code == httpx.codes.OK:
        return None
    return "cannot reach the database, or its schema is another" if answer.status_code == 503 else "is something else"
