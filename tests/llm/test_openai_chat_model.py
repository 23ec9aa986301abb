from __future__ import annotations

import asyncio
import gc
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from perdure.base.errors import MissingExtraError, ModelError, ModelUnavailableError, UsageError
from perdure.base.messages import Message
from perdure.llm.openai import OpenAIChatModel
from perdure.llm.openai_errors import retry_after
from perdure.ports.chat_model import ChatModel, ChatReply, ChatRequest, ToolDefinition
from perdure.testing.loopback import LOOPBACK, LoopbackServer, listen
from perdure.testing.openai_server import OpenAIServer

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "sk-very-secret-0123"
HELLO = ChatRequest(messages=[Message(role="user", content="hello")])


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(["hi there"]) as running:
        yield running


def model_at(server: OpenAIServer, **settings: Any) -> OpenAIChatModel:
    return OpenAIChatModel("gpt-5", **{"base_url": server.base_url, "api_key": KEY, **settings})


def ask(model: OpenAIChatModel, request: ChatRequest = HELLO) -> ChatReply:
    return asyncio.run(model.complete(request))


def test_an_answer_comes_back_with_model_and_usage(server: OpenAIServer) -> None:
    reply = ask(model_at(server))

    assert reply.message == Message(role="assistant", content="hi there")
    assert (reply.model, reply.finish_reason) == ("gpt-5", "stop")
    assert reply.usage.total_tokens == 3


def test_it_is_a_chat_model_that_says_who_it_is(server: OpenAIServer) -> None:
    model = model_at(server, provider="openai-compatible")

    assert isinstance(model, ChatModel)
    assert (model.provider, model.model, model.base_url) == ("openai-compatible", "gpt-5", server.base_url)
    assert repr(model) == f"OpenAIChatModel('gpt-5', provider='openai-compatible', base_url='{server.base_url}')"


def test_the_settings_of_the_model_reach_the_provider(server: OpenAIServer) -> None:
    ask(model_at(server, temperature=0.5, max_tokens=9, extra={"reasoning_effort": "low"}))

    body = server.requests[0].body
    assert (body["temperature"], body["max_completion_tokens"], body["reasoning_effort"]) == (0.5, 9, "low")


def test_the_idempotency_key_is_a_header_that_any_id_fits_into(server: OpenAIServer) -> None:
    ask(model_at(server), ChatRequest(messages=HELLO.messages, idempotency_key="run-1/turn:2"))
    ask(model_at(server), ChatRequest(messages=HELLO.messages, idempotency_key="größe 1\n"))

    keys = [request.headers["idempotency-key"] for request in server.requests]
    assert keys == ["run-1/turn:2", "gr%C3%B6%C3%9Fe%201%0A"]


def test_a_malformed_tool_call_is_kept_for_the_agent_to_answer() -> None:
    tool = ToolDefinition(name="weather", description="", parameters={"type": "object"})
    with OpenAIServer([{"tool": "weather", "arguments": "{'city': Oslo"}]) as server:
        reply = ask(model_at(server), ChatRequest(messages=HELLO.messages, tools=[tool]))

    assert reply.message.tool_calls[0].function.arguments == "{'city': Oslo"
    assert reply.finish_reason == "tool_calls"


def test_one_model_serves_many_conversations_and_several_loops_over_time(server: OpenAIServer) -> None:
    model = model_at(server)

    async def many() -> list[ChatReply]:
        return await asyncio.gather(*(model.complete(HELLO) for _ in range(20)))

    for _ in range(3):
        assert len(asyncio.run(many())) == 20
    with ThreadPoolExecutor(4) as threads:
        found = [threads.submit(lambda: asyncio.run(many())) for _ in range(4)]
        assert all(len(part.result()) == 20 for part in found)
    assert len(server.requests) == 140


def test_a_loop_that_ends_without_a_shutdown_leaves_no_client_behind(server: OpenAIServer) -> None:
    model = model_at(server)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(model.complete(HELLO))
    loop.run_until_complete(model.aclose())
    loop.run_until_complete(model.aclose())
    loop.close()

    assert ask(model).message.content == "hi there"
    gc.collect()


def test_a_closed_model_opens_again_in_the_same_loop(server: OpenAIServer) -> None:
    model = model_at(server)

    async def twice() -> list[str | None]:
        first = await model.complete(HELLO)
        await model.aclose()
        return [first.message.content, (await model.complete(HELLO)).message.content]

    assert asyncio.run(twice()) == ["hi there", "hi there"]


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_what_may_pass_by_waiting_is_unavailable_and_asked_only_once(server: OpenAIServer, status: int) -> None:
    server.fail_next(status)

    with pytest.raises(ModelUnavailableError, match=f"'gpt-5'.*status {status}: injected status") as caught:
        ask(model_at(server))

    assert caught.value.retry_after is None
    assert len(server.requests) == 1


def test_the_wait_that_the_provider_asks_for_is_told(server: OpenAIServer) -> None:
    server.fail_next(429, retry_after=7)

    with pytest.raises(ModelUnavailableError) as caught:
        ask(model_at(server))

    assert caught.value.retry_after == 7.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 90.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:01 GMT"}, 0.0),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
    ],
)
def test_every_form_of_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, now=10.0) == seconds


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(400, "schemas"), (401, "OPENAI_API_KEY"), (403, "may not use"), (404, "model's name"), (418, "injected")],
)
def test_a_refusal_names_model_status_words_and_remedy(server: OpenAIServer, status: int, remedy: str) -> None:
    server.fail_next(status)

    with pytest.raises(ModelError, match=f"'gpt-5'.*status {status}: injected status {status}\\.") as caught:
        ask(model_at(server))

    assert not isinstance(caught.value, ModelUnavailableError)
    assert remedy in str(caught.value)


def test_the_key_never_shows_even_when_the_provider_repeats_it(server: OpenAIServer) -> None:
    model = model_at(server)
    server.fail_next(401, body={"error": {"message": f"Incorrect API key provided: {KEY}"}})
    server.fail_next(500, body={"error": {"message": f"crashed with {KEY}"}})

    for _ in range(2):
        with pytest.raises(ModelError) as caught:
            ask(model)
        assert "***" in str(caught.value)
        assert KEY not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
    assert KEY not in repr(model)


def test_a_missing_key_is_told_at_the_first_call_with_its_variable(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = OpenAIChatModel("gpt-5", base_url=server.base_url)
    with pytest.raises(ModelError, match="OPENAI_API_KEY"):
        ask(model)

    monkeypatch.setenv("OPENAI_API_KEY", "late-key")
    ask(model)
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer late-key"]


def test_a_key_argument_wins_over_every_variable(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "env-key")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer env-header")

    ask(model_at(server))

    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_organization_and_project_go_to_openai_and_to_nobody_else(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project")

    ask(model_at(server))
    ask(model_at(server, provider="ollama"))

    ours, other = (request.headers for request in server.requests)
    assert (ours["openai-organization"], ours["openai-project"]) == ("org", "project")
    assert not {"openai-organization", "openai-project"} & set(other)


def test_silence_beyond_the_timeout_is_unavailable() -> None:
    late = pytest.raises(ModelUnavailableError, match="did not answer in time")
    with OpenAIServer(["late"], latency=60) as server, late:
        ask(model_at(server, timeout=0.05))


def test_a_refused_connection_is_unavailable_and_names_the_address() -> None:
    with OpenAIServer(["gone"]) as server:
        model = model_at(server)

    with pytest.raises(ModelUnavailableError, match=f"at {server.base_url} is out of reach: .*[^ ]$"):
        ask(model)
    with pytest.raises(ModelUnavailableError, match="`ollama serve`, or say in OLLAMA_ENDPOINT where it is"):
        ask(model_at(server, provider="ollama"))


@pytest.mark.parametrize(
    "answer", [PlainTextResponse("<html>login</html>"), Response("{not json", media_type="application/json")]
)
def test_an_answer_that_is_not_json_asks_whether_the_address_is_right(answer: Response) -> None:
    async def page(_request: object) -> Response:
        return answer

    listener = listen(0)
    web = LoopbackServer(Starlette(routes=[Route("/chat/completions", page, methods=["POST"])]), listener)
    base_url = f"http://{LOOPBACK}:{listener.getsockname()[1]}"
    web.start()
    try:
        with pytest.raises(ModelError, match="is base_url right"):
            ask(OpenAIChatModel("gpt-5", base_url=base_url, api_key=KEY))
    finally:
        web.stop()


def test_a_missing_sdk_names_the_extra(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "openai"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "openai", None)

    with pytest.raises(MissingExtraError, match=r"perdure\[openai\]"):
        ask(model_at(server))


def test_fields_that_perdure_sets_are_refused_in_extra() -> None:
    with pytest.raises(UsageError, match="messages, stream"):
        OpenAIChatModel("gpt-5", extra={"stream": True, "messages": []})
