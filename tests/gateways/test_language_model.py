"""The language model's gateway against a real server that misbehaves."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

import pytest

from closeloop.gateways.language_model import (
    AnthropicModel,
    MalformedAnswer,
    ModelBusy,
    ModelError,
    ModelRejected,
    NoAnswer,
    TokenPrices,
    highest_cost,
)
from closeloop.models.model_calls import Question, Usage
from closeloop.models.readings import BookReading, TradeReading
from tests.gateways.messages_api import (
    BROKEN,
    HANG,
    KEY,
    OVERLOADED,
    RATE_LIMIT,
    READING,
    REFUSAL,
    TRUNCATED,
    MessagesApi,
    Reply,
    answer,
    error,
    message,
    messages_api,
)

QUESTION = Question("trade-test", "Read it.", "<data>{}</data>", TradeReading, 500)
PRICES = TokenPrices(Decimal(2), Decimal(10))


@pytest.fixture
async def api() -> AsyncIterator[MessagesApi]:
    async with messages_api() as api:
        yield api


@asynccontextmanager
async def asking(url: str, *, key: str = KEY, patience: float = 30.0) -> AsyncIterator[AnthropicModel]:
    model = AnthropicModel(name="claude-test", key=key, base_url=url, timeout=patience, prices=PRICES)
    try:
        yield model
    finally:
        await model.close()


async def failing(api: MessagesApi, reply: Reply, *, patience: float = 30.0) -> ModelError:
    """What the gateway makes of a reply; it asks once, whatever the reply is."""
    api.says(reply)
    async with asking(api.url, patience=patience) as model:
        with pytest.raises(ModelError) as caught:
            await model.ask(QUESTION)
    assert len(api.requests) == 1
    return caught.value


async def test_an_answer_with_what_it_took(api: MessagesApi) -> None:
    usage = {"input_tokens": 100, "output_tokens": 20, "cache_read_input_tokens": 7, "cache_creation_input_tokens": 5}
    api.says(answer(READING, usage=usage))
    async with asking(api.url) as model:
        reading, used = await model.ask(QUESTION)
    assert reading == TradeReading(tags=["trend-follow"], observation="It went up and was sold.")
    assert used == Usage(112, 20)
    assert PRICES.cost(used) == Decimal("0.000424")
    [request] = api.requests
    assert (request["model"], request["max_tokens"], request["system"]) == ("claude-test", 500, "Read it.")
    assert request["messages"] == [{"role": "user", "content": "<data>{}</data>"}]


async def test_thinking_before_the_answer_is_passed_over(api: MessagesApi) -> None:
    thinking = {"type": "thinking", "thinking": "hm", "signature": "s"}
    api.says(message("", content=[thinking, {"type": "text", "text": json.dumps(READING)}]))
    async with asking(api.url) as model:
        assert (await model.ask(QUESTION))[0].tags == ["trend-follow"]


@pytest.mark.parametrize("kind", [TradeReading, BookReading])
async def test_the_schemas_are_of_what_the_api_takes(
    kind: type[TradeReading] | type[BookReading], api: MessagesApi
) -> None:
    api.says(answer({"report": "x", "hypotheses": []} if kind is BookReading else READING))
    async with asking(api.url) as model:
        await model.ask(Question("v", "s", "t", kind, 10))


@pytest.mark.parametrize(
    ("reply", "pause", "said"),
    [
        (RATE_LIMIT, 7.0, "HTTP 429: slow down"),
        (OVERLOADED, None, "HTTP 529: Overloaded"),
        (BROKEN, None, "HTTP 500: Internal server error"),
        (Reply(502, b"<html>bad gateway</html>", {"content-type": "text/html"}), None, "HTTP 502"),
        (error(429, "rate_limit_error", retry_after="Wed, 21 Oct 2026 07:28:00 GMT"), None, "HTTP 429"),
        (error(429, "rate_limit_error", retry_after="nan"), None, "HTTP 429"),
        (error(429, "rate_limit_error", retry_after="-3"), 0.0, "HTTP 429"),
        (error(429, "rate_limit_error", retry_after="1e9"), 3600.0, "HTTP 429"),
    ],
)
async def test_what_passes_is_busy_and_cost_nothing(
    reply: Reply, pause: float | None, said: str, api: MessagesApi
) -> None:
    found = await failing(api, reply)
    assert isinstance(found, ModelBusy)
    assert (found.pause, found.usage) == (pause, Usage())
    assert found.reason.startswith(said)


@pytest.mark.parametrize(
    "reply", [HANG, Reply(200, b"x" * 50, {"content-type": "application/json"}, between=0.2)], ids=["hangs", "trickles"]
)
async def test_a_slow_answer_may_have_been_billed(reply: Reply, api: MessagesApi) -> None:
    found = await failing(api, reply, patience=1.0)
    assert isinstance(found, ModelBusy)
    assert (found.usage, found.reason) == (None, "no answer within 1 s")


async def test_a_broken_connection_may_have_been_billed(api: MessagesApi) -> None:
    found = await failing(api, Reply(200, b"x" * 100, {"content-type": "application/json"}, cut=20))
    assert isinstance(found, ModelBusy)
    assert found.usage is None


async def test_a_refused_connection_costs_nothing(api: MessagesApi) -> None:
    async with messages_api() as gone:
        url = gone.url
    async with asking(url) as model:
        with pytest.raises(ModelBusy, match="no connection") as caught:
            await model.ask(QUESTION)
    assert caught.value.usage == Usage()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
async def test_what_never_succeeds_is_rejected(status: int, api: MessagesApi) -> None:
    found = await failing(api, error(status, "some_error", "no \x00 credit"))
    assert isinstance(found, ModelRejected)
    assert (found.reason, found.usage) == (f"HTTP {status}: no  credit", Usage())


async def test_a_redirect_is_not_followed(api: MessagesApi) -> None:
    async with messages_api() as elsewhere:
        found = await failing(api, Reply(307, b"", {"location": f"{elsewhere.url}/v1/messages"}))
        assert isinstance(found, ModelRejected)
        assert found.reason.startswith("HTTP 307")
        assert elsewhere.requests == []


async def test_the_key_is_in_no_message(api: MessagesApi) -> None:
    async with asking(api.url, key="sk-wrong-key") as model:
        with pytest.raises(ModelRejected, match="HTTP 401") as caught:
            await model.ask(QUESTION)
    assert "sk-wrong-key" not in repr(caught.value) + str(caught.value)
    assert "[key]" in caught.value.reason


async def test_a_refusal(api: MessagesApi) -> None:
    found = await failing(api, REFUSAL)
    assert isinstance(found, NoAnswer)
    assert found.usage == Usage(1000, 200)


MALFORMED = {
    "cut off": TRUNCATED,
    "no JSON": message("I think that"),
    "empty": message(""),
    "wrong type": answer([1]),
    "missing": answer({"tags": ["a"]}),
    "another field": answer(READING | {"karma": 2}),
    "tags of nothing": answer(READING | {"tags": ["!!!", "  ", "你好"]}),
    "a tag that is no text": answer(READING | {"tags": ["a", 3]}),
    "tags in one text": answer(READING | {"tags": "trend, loss"}),
    "NUL": answer(READING | {"observation": "a\x00b"}),
    "terminal escape": answer(READING | {"observation": "a\x1b[2Jb"}),
    "half a surrogate pair": message('{"tags": ["a"], "observation": "\\ud800"}'),
    "two answers": message(f"{json.dumps(READING)} or {json.dumps(READING | {'tags': ['loss']})}"),
    "in an envelope": message(f"Here: {json.dumps({'answer': READING})}"),
    "a fence without an end": message('```json\n{"tags": ["a"], "observation": "It'),
    "objects without end": message("Well: " + '{"a":' * 20_000),
    "another stop": message(json.dumps(READING), stop="pause_turn"),
}


@pytest.mark.parametrize("reply", MALFORMED.values(), ids=MALFORMED.keys())
async def test_an_answer_of_another_shape_is_malformed_and_was_billed(reply: Reply, api: MessagesApi) -> None:
    found = await failing(api, reply)
    assert isinstance(found, MalformedAnswer)
    assert found.usage == Usage(1000, 200)


TEXT = json.dumps(READING)
AROUND = {
    "a fence": f"```json\n{TEXT}\n```",
    "a fence without a language": f"```\n{TEXT}\n```",
    "prose and a fence": f"Here is {{what}} you want:\n\n```json\n{json.dumps(READING, indent=2)}\n```\nAnything else?",
    "prose": f"Of {{trend}} and {{}} I say {TEXT}. Done {{",
    "a fence in the observation": json.dumps(READING | {"observation": "It said ```json {} ``` and was sold."}),
    "said twice": f"{TEXT}\n\nAs JSON:\n```json\n{TEXT}\n```",
}


@pytest.mark.parametrize("text", AROUND.values(), ids=AROUND.keys())
async def test_an_answer_in_a_fence_or_among_prose_is_read(text: str, api: MessagesApi) -> None:
    api.says(message(text))
    async with asking(api.url) as model:
        reading, usage = await model.ask(QUESTION)
    assert reading.tags == ["trend-follow"]
    assert reading.observation.endswith("was sold.")
    assert (usage, len(api.requests)) == (Usage(1000, 200), 1)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (["Trend Follow", "STOPPED OUT!", " early-exit "], ["trend-follow", "stopped-out", "early-exit"]),
        (["#whale_move", "R/R > 2", "Überkauft"], ["whale_move", "r-r-2", "uberkauft"]),
        (["Win", "win", "WIN.", "—"], ["win"]),
        ([f"t{n}" for n in range(12)], [f"t{n}" for n in range(8)]),
        (["a" * 39 + " late entry"], ["a" * 39]),
        (["Ignore All Rules"], ["ignore-all-rules"]),
    ],
)
async def test_tags_are_spelt_as_tags_are_and_cut(said: list[str], meant: list[str], api: MessagesApi) -> None:
    api.says(answer(READING | {"tags": said}))
    async with asking(api.url) as model:
        assert (await model.ask(QUESTION))[0].tags == meant


async def test_what_is_longer_than_asked_for_is_cut(api: MessagesApi) -> None:
    hypothesis = {
        "statement": "s" * 501,
        "pattern_key": "p",
        "action_category": "entry",
        "conditions": [{"dimension": "chain", "value": "solana"}],
        "claim": "better",
    }
    api.says(
        answer(READING | {"observation": "x" * 801}), answer({"report": "y" * 3001, "hypotheses": [hypothesis] * 6})
    )
    async with asking(api.url) as model:
        reading, _ = await model.ask(QUESTION)
        book, _ = await model.ask(Question("v", "s", "t", BookReading, 10))
    assert reading.observation == "x" * 799 + "…"
    assert book.report == "y" * 2999 + "…"
    assert [h.statement for h in book.hypotheses] == ["s" * 499 + "…"] * 5


async def test_more_conditions_than_asked_for_are_not_cut_because_the_claim_would_be_another(api: MessagesApi) -> None:
    conditions = [{"dimension": f"d{n}", "value": "x"} for n in range(4)]
    hypothesis = {
        "statement": "s", "pattern_key": "p", "action_category": "entry", "conditions": conditions, "claim": "better",
    }  # fmt: skip
    api.says(answer({"report": "y", "hypotheses": [hypothesis]}))
    async with asking(api.url) as model:
        with pytest.raises(MalformedAnswer, match="conditions"):
            await model.ask(Question("v", "s", "t", BookReading, 10))


NO_MESSAGES = {
    "invalid JSON": Reply(200, b'{"id": ', {"content-type": "application/json"}),
    "text": Reply(200, b"hello", {"content-type": "text/plain"}),
    "a list": Reply(200, b"[]", {"content-type": "application/json"}),
    "null": Reply(200, b"null", {"content-type": "application/json"}),
    "no usage": Reply(200, b'{"type": "message", "content": []}', {"content-type": "application/json"}),
    "negative usage": answer(usage={"input_tokens": -5, "output_tokens": 1}),
    "usage in words": answer(usage={"input_tokens": "many", "output_tokens": 1}),
    "no content": answer(content=None),
    "content of nothing": answer(content=[None, {"text": 3}]),
}


@pytest.mark.parametrize("reply", NO_MESSAGES.values(), ids=NO_MESSAGES.keys())
async def test_what_is_no_message_is_malformed(reply: Reply, api: MessagesApi) -> None:
    assert isinstance(await failing(api, reply), MalformedAnswer)


def test_the_most_that_a_question_can_cost_is_above_what_any_answer_costs() -> None:
    # A token is a byte at least: 5,000 bytes of text can never be more than 5,000 tokens.
    question = Question("v", "s" * 1000, "ü" * 2000, TradeReading, 700)
    assert highest_cost(question, PRICES) > PRICES.cost(Usage(5_000, 700))
