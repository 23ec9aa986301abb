from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from openai import AuthenticationError, BadRequestError, InternalServerError, OpenAI, RateLimitError

from perdure.base.errors import ModelUnavailableError, UsageError
from perdure.llm.echo import EchoModel
from perdure.testing.loopback import listen
from perdure.testing.openai_server import OpenAIServer, main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from perdure.ports.chat_model import ChatRequest

USER = {"role": "user", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "t", "arguments": "{}"}}
TOOL_CALL = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANSWER = {"role": "tool", "content": "ok", "tool_call_id": "c1"}
LONG = "A rather long answer, with an umlaut ä and a snowman ☃, in many chunks."


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer([LONG, [{"tool": "a", "arguments": {"x": "y" * 20}}, {"tool": "b"}]]) as running:
        yield running


def sdk(server: OpenAIServer) -> OpenAI:
    return OpenAI(base_url=server.base_url, api_key="any", max_retries=0)


def post(server: OpenAIServer, body: bytes | dict[str, Any], path: str = "/v1/chat/completions") -> tuple[int, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
        connection.request("POST", path, body if isinstance(body, bytes) else json.dumps(body))
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def test_the_official_sdk_gets_a_completion(server: OpenAIServer) -> None:
    with sdk(server) as client:
        completion = client.chat.completions.create(model="gpt-5", messages=[USER])

    assert completion.choices[0].message.content == LONG
    assert (completion.model, completion.object, completion.choices[0].finish_reason) == (
        "gpt-5",
        "chat.completion",
        "stop",
    )
    assert completion.usage is not None
    assert completion.usage.total_tokens == len(LONG) // 4


def test_the_official_sdk_puts_a_streamed_text_together(server: OpenAIServer) -> None:
    with sdk(server) as client:
        options: Any = {"include_usage": True}
        chunks = list(client.chat.completions.create(model="m", messages=[USER], stream=True, stream_options=options))

    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    assert len(deltas) > 5
    assert "".join(delta.content or "" for delta in deltas) == LONG
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None


def test_the_official_sdk_puts_streamed_tool_calls_together(server: OpenAIServer) -> None:
    messages: Any = [USER, {"role": "assistant", "content": "one moment"}]
    with sdk(server) as client, client.chat.completions.stream(model="m", messages=messages) as stream:
        completion = stream.get_final_completion()

    calls = completion.choices[0].message.tool_calls or []
    assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
        ("call_1_0", "a", f'{{"x":"{"y" * 20}"}}'),
        ("call_1_1", "b", "{}"),
    ]
    assert completion.choices[0].finish_reason == "tool_calls"


def test_the_models_are_listed() -> None:
    with OpenAIServer(EchoModel()) as server, sdk(server) as client:
        assert [entry.id for entry in client.models.list()] == ["echo"]


def test_a_server_with_a_key_lets_nobody_in_without_it() -> None:
    with OpenAIServer(["hi"], api_key="right") as server:
        with OpenAI(base_url=server.base_url, api_key="right", max_retries=0) as client:
            assert [entry.id for entry in client.models.list()] == ["scripted"]
            assert client.chat.completions.create(model="m", messages=[USER]).choices[0].message.content == "hi"
        with sdk(server) as client:
            for ask in (client.models.list, lambda: client.chat.completions.create(model="m", messages=[USER])):
                with pytest.raises(AuthenticationError, match="Incorrect API key"):
                    ask()


def test_requests_are_logged_with_body_and_headers(server: OpenAIServer) -> None:
    with sdk(server) as client:
        client.chat.completions.create(model="m", messages=[USER], extra_headers={"Idempotency-Key": "k1"})

    (request,) = server.requests
    assert request.body == {"model": "m", "messages": [USER]}
    assert request.headers["idempotency-key"] == "k1"


def test_the_model_sees_the_whole_request() -> None:
    seen: list[ChatRequest] = []

    def answer(request: ChatRequest) -> str:
        seen.append(request)
        return "ok"

    parts = {"role": "developer", "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "kind"}]}
    tool = {"type": "function", "function": {"name": "t", "parameters": {"type": "object"}}}
    choice = {"type": "function", "function": {"name": "t"}}
    body = {"model": "m", "messages": [parts, USER, TOOL_CALL, ANSWER], "tools": [tool], "tool_choice": choice}
    with OpenAIServer(answer) as server:
        assert post(server, body)[0] == 200

    (request,) = seen
    assert (request.messages[0].role, request.messages[0].content) == ("system", "be kind")
    assert request.messages[2].tool_calls[0].id == request.messages[3].tool_call_id == "c1"
    assert (request.tools[0].name, request.tool_choice) == ("t", "t")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"{not json", "not JSON"),
        (b"[]", "Expected `object`"),
        ({"messages": [USER]}, "missing required field `model`"),
        ({"model": "m", "messages": []}, "must not be empty"),
        ({"model": "m", "messages": [{"role": "wizard", "content": "x"}]}, r"$.messages[0].role"),
        ({"model": "m", "messages": [{"role": "user"}]}, "needs content"),
        ({"model": "m", "messages": [USER, TOOL_CALL]}, "without an answer: c1"),
        ({"model": "m", "messages": [USER, TOOL_CALL, USER]}, "without an answer before this message: c1"),
        ({"model": "m", "messages": [USER, ANSWER]}, "must answer a tool call"),
        ({"model": "m", "messages": [USER, TOOL_CALL, ANSWER, ANSWER]}, "must answer a tool call"),
        ({"model": "m", "messages": [USER], "tools": [{"type": "function"}]}, "missing required field `function`"),
    ],
)
def test_what_openai_would_refuse_is_refused_in_its_shape(
    server: OpenAIServer, body: bytes | dict[str, Any], problem: str
) -> None:
    status, answer = post(server, body)

    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"
    assert problem in answer["error"]["message"]


def test_an_unknown_route_answers_in_the_shape_of_an_error(server: OpenAIServer) -> None:
    status, answer = post(server, {}, "/v1/embeddings")

    assert (status, answer["error"]["message"]) == (404, "Not Found")


def test_failures_are_injected_as_often_as_asked_and_in_order(server: OpenAIServer) -> None:
    server.fail_next(429, times=2, retry_after=3)
    server.fail_next(500, body={"error": {"message": "broken"}})

    with sdk(server) as client:
        for _ in range(2):
            with pytest.raises(RateLimitError) as limited:
                client.chat.completions.create(model="m", messages=[USER])
            assert limited.value.response.headers["retry-after"] == "3"
        with pytest.raises(InternalServerError, match="broken"):
            client.chat.completions.create(model="m", messages=[USER])
        assert client.chat.completions.create(model="m", messages=[USER]).choices[0].message.content == LONG
    assert len(server.requests) == 4


def test_errors_of_the_model_become_statuses() -> None:
    def answer(request: ChatRequest) -> str | Exception:
        wanted = request.messages[0].content
        return {"busy": ModelUnavailableError("busy", 4.0), "bug": KeyError("x")}.get(wanted or "") or "ok"

    with OpenAIServer(answer) as server, sdk(server) as client:
        with pytest.raises(InternalServerError, match="busy") as busy:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "busy"}])
        with pytest.raises(InternalServerError, match="KeyError"):
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "bug"}])
    assert (busy.value.status_code, busy.value.response.headers["retry-after"]) == (503, "4.0")


def test_a_script_that_is_over_is_a_refusal(server: OpenAIServer) -> None:
    done: Any = {"role": "assistant", "content": "x"}
    with sdk(server) as client, pytest.raises(BadRequestError, match="2 replies"):
        client.chat.completions.create(model="m", messages=[USER, done, done])


def test_stopping_answers_the_request_under_way_instead_of_waiting_for_it() -> None:
    asked = threading.Event()
    found: list[int] = []

    async def never(_request: ChatRequest) -> str:
        asked.set()
        await asyncio.Event().wait()
        return "never"

    server = OpenAIServer(never)
    server.start()
    client = threading.Thread(target=lambda: found.append(post(server, {"model": "m", "messages": [USER]})[0]))
    client.start()
    assert asked.wait(30)
    server.stop()
    client.join()

    assert found == [503]


def test_a_server_stops_twice_starts_again_and_starts_once_at_a_time() -> None:
    server = OpenAIServer(["x"])
    for _ in range(2):
        with server:
            assert post(server, {"model": "m", "messages": [USER]})[0] == 200
            with pytest.raises(UsageError, match="runs already"):
                server.start()
        server.stop()


def test_a_port_that_is_taken_and_a_log_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{port}"):
            OpenAIServer(["x"], port=port, log=tmp_path / "log").start()
    with pytest.raises(UsageError, match="the log cannot be written"):
        OpenAIServer(["x"], log=tmp_path / "no" / "log").start()


def test_the_listener_names_its_protocol_so_that_answers_are_not_held_back() -> None:
    with closing(listen(0)) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_every_answer_has_a_line_in_the_log_before_it_is_sent(tmp_path: Path) -> None:
    log = tmp_path / "served.jsonl"
    with OpenAIServer(["x"], log=log) as server, sdk(server) as client:
        server.fail_next(500)
        with pytest.raises(InternalServerError):
            client.chat.completions.create(model="m", messages=[USER])
        client.chat.completions.create(model="m", messages=[USER], extra_headers={"Idempotency-Key": "k"})
        lines = [json.loads(line) for line in log.read_text().splitlines()]

    assert [(line["request"], line["status"], line["idempotency_key"]) for line in lines] == [
        (1, 500, None),
        (2, 200, "k"),
    ]
    assert (lines[1]["model"], lines[1]["messages"]) == ("m", 1)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_a_script_until_it_is_ended(tmp_path: Path, ending: signal.Signals) -> None:
    script, log = tmp_path / "script.yaml", tmp_path / "served.jsonl"
    script.write_text("- hello\n")
    command = [sys.executable, "-m", "perdure.testing.openai_server", "--script", str(script), "--log", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        base_url = process.stdout.readline().strip()
        with OpenAI(base_url=base_url, api_key="any") as client:
            answer = client.chat.completions.create(model="m", messages=[USER]).choices[0].message.content
        process.send_signal(ending)
        rest, errors = process.communicate(timeout=30)

    assert (answer, rest, errors, process.returncode) == ("hello", "", "", 0)
    assert len(log.read_text().splitlines()) == 1


def test_the_command_refuses_a_wrong_script_and_leaves_the_signals_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])

    with pytest.raises(SystemExit) as ended:
        main(["--script", str(tmp_path / "nowhere.yaml")])

    assert ended.value.code == 2
    assert "nowhere.yaml: the script cannot be read" in capsys.readouterr().err
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
@pytest.mark.parametrize("module", ["perdure.testing", "perdure.testing.openai_server"])
def test_a_missing_package_names_the_extra(missing: str, module: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "import perdure.testing.conformance.history, perdure.testing.conformance.workflows\n"
        "from perdure.testing import ScriptedModel\n"
        f"from {module} import OpenAIServer\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert "OpenAIServer needs an optional package: pip install 'perdure[testing]'" in ran.stderr.splitlines()[-1]
