"""The language model, through the Anthropic Messages API with structured output.

One call a question, without the SDK's own retries: what may pass is retried by Temporal, which shows it.
"""

import asyncio
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol

from pydantic import ValidationError

from closeloop.models.model_calls import Answer, Question, Usage
from closeloop.models.refusals import describe

if TYPE_CHECKING:
    import anthropic
    from anthropic.types import Message

# A prompt has at most as many tokens as bytes. This bounds what the API adds around prompt and schema, with a margin.
PROMPT_OVERHEAD_TOKENS = 2_000
OBJECTS_LOOKED_AT = 100  # at most, in an answer that holds more than its JSON
LONGEST_PAUSE_SECONDS = 3_600.0  # a longer ``retry-after`` is cut to this: by then the next hour's run is due


class ModelError(Exception):
    """A call without a usable answer. ``usage`` is None where it is unknown: the call may have been billed."""

    def __init__(self, reason: str, usage: Usage | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.usage = usage


class NoAnswer(ModelError):
    """The model declined."""


class MalformedAnswer(ModelError):
    """The answer is not of the shape that was asked for: cut off, not JSON, or not of the schema."""


class ModelBusy(ModelError):
    """Rate limit, overload, an error of the API, or no connection: may pass. ``pause``: seconds that the API named."""

    def __init__(self, reason: str, usage: Usage | None, pause: float | None = None) -> None:
        super().__init__(reason, usage)
        self.pause = pause


class ModelRejected(ModelError):
    """The API refuses this request and will refuse it again: a wrong key, a model that does not exist, no credit."""


@dataclass(frozen=True)
class TokenPrices:
    """USD for a million tokens."""

    input: Decimal
    output: Decimal

    def cost(self, usage: Usage) -> Decimal:
        """What a call cost, in USD."""
        return (self.input * usage.input_tokens + self.output * usage.output_tokens) / 1_000_000


class LanguageModel(Protocol):
    """Something that answers questions in the shape that they ask for."""

    name: str
    prices: TokenPrices
    timeout: float

    async def ask(self, question: Question[Answer]) -> tuple[Answer, Usage]:
        """The answer, validated, and what it took. Raises ModelError."""
        ...


class AnthropicModel:
    """See the module. ``timeout`` in seconds holds for a whole call, however slowly it trickles in."""

    def __init__(self, *, name: str, key: str, base_url: str, timeout: float, prices: TokenPrices) -> None:
        # Imported here: the import takes as long as all others together, and most processes never ask a model.
        import anthropic

        self.name = name
        self.prices = prices
        self.timeout = timeout
        self._key = key
        self._sdk = anthropic
        self._client = anthropic.AsyncAnthropic(
            api_key=key,
            base_url=base_url,
            timeout=timeout,
            max_retries=0,
            # A redirect would carry the key elsewhere.
            http_client=anthropic.DefaultAsyncHttpxClient(follow_redirects=False),
        )

    async def ask(self, question: Question[Answer]) -> tuple[Answer, Usage]:
        """See the protocol."""
        schema = self._sdk.transform_schema(question.answer)
        try:
            async with asyncio.timeout(self.timeout):
                message = await self._client.messages.create(
                    model=self.name,
                    max_tokens=question.max_tokens,
                    system=question.system,
                    messages=[{"role": "user", "content": question.text}],
                    output_config={"format": {"type": "json_schema", "schema": schema}},
                )
        except (TimeoutError, self._sdk.APIConnectionError, self._sdk.APIStatusError) as error:
            raise self._as_model_error(error) from None
        except (ValueError, self._sdk.APIError) as error:
            raise MalformedAnswer(f"the response is no message ({type(error).__name__})") from None
        usage = _usage(message)
        if message.stop_reason == "refusal":
            raise NoAnswer("the model declined to answer", usage)
        if message.stop_reason != "end_turn":
            raise MalformedAnswer(f"the answer ended early ({str(message.stop_reason)[:40]})", usage)
        texts = [getattr(block, "text", None) for block in message.content if getattr(block, "type", None) == "text"]
        answer = "".join(text for text in texts if isinstance(text, str))
        try:
            return _read(answer, question.answer), usage
        except ValidationError as error:
            raise MalformedAnswer(f"the answer is not as asked for: {describe(error)[:300]}", usage) from None
        except ValueError as error:
            raise MalformedAnswer(str(error), usage) from None

    def _as_model_error(self, error: Exception) -> ModelError:
        sdk = self._sdk
        if isinstance(error, sdk.APIStatusError):
            status = error.status_code
            detail = str(error.api_message or type(error).__name__).replace(self._key, "[key]")
            reason = f"HTTP {status}: {''.join(c for c in detail if c.isprintable())[:300]}"
            if status in (408, 409, 429) or status >= 500:
                return ModelBusy(reason, Usage(), _pause_seconds(error))
            return ModelRejected(reason, Usage())
        if isinstance(error, TimeoutError | sdk.APITimeoutError):
            return ModelBusy(f"no answer within {self.timeout:g} s", None)
        # Whether it was billed is certain only where no connection came about.
        unconnected = type(error.__cause__).__name__ == "ConnectError"
        return ModelBusy("no connection" if unconnected else "the connection broke", Usage() if unconnected else None)

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()


def highest_cost(question: Question[Answer], prices: TokenPrices) -> Decimal:
    """The most that a question can cost, in USD."""
    size = sum(len(text.encode()) for text in (question.system, question.text))
    size += len(str(question.answer.model_json_schema()))
    return prices.cost(Usage(size + PROMPT_OVERHEAD_TOKENS, question.max_tokens))


def _read(text: str, kind: type[Answer]) -> Answer:
    """The answer in what a model wrote: JSON, or JSON in a fence (```json) or among prose.

    Raises ValidationError; ValueError where the text holds answers that differ.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        if error.errors()[0]["type"] != "json_invalid":
            raise
        found, refused = [], error
    for part in _objects(text):
        try:
            answer = kind.model_validate_json(part)
        except ValidationError as error:
            refused = error
        else:
            found += [] if answer in found else [answer]
    if not found:
        raise refused
    if len(found) > 1:
        raise ValueError(f"the text holds {len(found)} different answers")
    return found[0]


def _objects(text: str) -> Iterator[str]:
    """The JSON objects in a text, those that lie in no other."""
    decoder, start = json.JSONDecoder(), text.find("{")
    for _ in range(OBJECTS_LOOKED_AT):
        if start < 0:
            return
        try:
            _, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            yield text[start:end]
        start = text.find("{", end)


def _usage(message: "Message") -> Usage:
    """Raises MalformedAnswer where a server sends something else than a message: the SDK does not look."""
    used = getattr(message, "usage", None)
    read, written = (getattr(used, name, None) for name in ("input_tokens", "output_tokens"))
    cached = [getattr(used, f"cache_{name}_input_tokens", None) or 0 for name in ("creation", "read")]
    if not all(isinstance(n, int) and 0 <= n <= 100_000_000 for n in (read, written, *cached)):
        raise MalformedAnswer("the response is no message: it does not say what it took")
    assert read is not None
    assert written is not None
    if not isinstance(getattr(message, "content", None), list):
        raise MalformedAnswer("the response is no message: it has no content", Usage(read + sum(cached), written))
    return Usage(read + sum(cached), written)


def _pause_seconds(error: "anthropic.APIStatusError") -> float | None:
    try:
        seconds = float(error.response.headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return min(max(seconds, 0.0), LONGEST_PAUSE_SECONDS) if math.isfinite(seconds) else None
