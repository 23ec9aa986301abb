"""A real HTTP server that speaks the OpenAI wire, for tests without a provider: loopback only, in a thread of its own.

```python
with OpenAIServer(["Hello!"]) as server:
    model = OpenAIChatModel("gpt-5", base_url=server.base_url, api_key="any")
```

``python -m perdure.testing.openai_server --script replies.yaml --port 8080`` runs it as a process.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.base.clock import SystemClock
from perdure.base.errors import MissingExtraError, ModelError, ModelUnavailableError, UsageError
from perdure.llm.openai_wire_serving import completion, completion_chunks, error_body, read_request
from perdure.llm.scripted import ScriptedModel
from perdure.ports.chat_model import ChatModel
from perdure.testing.loopback import LOOPBACK, LoopbackServer, listen
from perdure.testing.served_log import ServedLog

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.responses import Response, StreamingResponse
    from starlette.routing import Route
except ModuleNotFoundError:
    raise MissingExtraError("perdure.testing.OpenAIServer", "testing") from None

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from starlette.requests import Request

    from perdure.llm.openai_wire_serving import ServedRequest
    from perdure.llm.scripted import ReplyFunction, ScriptedReply
    from perdure.ports.chat_model import ChatReply

_KEPT_REQUESTS = 10_000


class ReceivedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A chat completion request as it came in.

    Attributes:
        body: the parsed body.
        headers: by lower-case name.
    """

    body: Any
    headers: dict[str, str]


class _Failure(msgspec.Struct, frozen=True):
    status: int
    headers: dict[str, str]
    body: Any


class OpenAIServer:
    """An OpenAI-compatible server on the loopback address.

    Args:
        model: who answers: a chat model, or the replies or the function of a
            :class:`~perdure.llm.scripted.ScriptedModel`.
        port: where to listen; 0 takes a free one.
        latency: seconds to wait before each answer.
        api_key: the only key that is let in; None lets everybody in.
        log: file to append one JSON line to for every answer, durable before the answer is sent.
    """

    def __init__(
        self,
        model: ChatModel | Sequence[ScriptedReply] | ReplyFunction,
        *,
        port: int = 0,
        latency: float = 0.0,
        api_key: str | None = None,
        log: str | os.PathLike[str] | None = None,
    ) -> None:
        self.model: ChatModel = model if isinstance(model, ChatModel) else ScriptedModel(model)
        self._port, self._latency = port, latency
        self._api_key = api_key
        self._log_path = log
        self._log: ServedLog | None = None
        self._lock = threading.Lock()
        self._requests: deque[ReceivedRequest] = deque(maxlen=_KEPT_REQUESTS)
        self._failures: deque[_Failure] = deque()
        self._served = 0
        self._server: LoopbackServer | None = None

    @property
    def port(self) -> int:
        """Where the server listens; the one that was taken once it runs."""
        return self._port

    @property
    def base_url(self) -> str:
        """What a client takes as its base URL."""
        return f"http://{LOOPBACK}:{self._port}/v1"

    @property
    def requests(self) -> list[ReceivedRequest]:
        """The chat completion requests so far, the oldest first; of very many, the last 10,000."""
        with self._lock:
            return list(self._requests)

    def fail_next(
        self, status: int, times: int = 1, *, retry_after: float | str | None = None, body: object = None
    ) -> None:
        """Answer the next chat completion requests with an error.

        Args:
            status: HTTP status of the error.
            times: how many requests to fail.
            retry_after: what the header ``retry-after`` says: seconds or an HTTP date.
            body: the body as plain data; by default an error of OpenAI's shape.
        """
        headers = {} if retry_after is None else {"retry-after": str(retry_after)}
        content = error_body(f"injected status {status}", "injected_error") if body is None else body
        with self._lock:
            self._failures.extend([_Failure(status, headers, content)] * times)

    def start(self) -> None:
        """Listen, and return once requests are answered.

        Raises:
            UsageError: it runs already, the port is taken, or the log cannot be written.
        """
        if self._server is not None:
            raise UsageError("this server runs already: stop() it first, or build another")
        self._log = None if self._log_path is None else ServedLog(self._log_path)
        try:
            listener = listen(self._port)
        except UsageError:
            self._close_log()
            raise
        self._port = listener.getsockname()[1]
        self._server = LoopbackServer(self._application(), listener)
        self._server.start()

    def stop(self) -> None:
        """End what is under way and stop listening. Idempotent."""
        if self._server is not None:
            self._server.stop()
            self._server = None
        self._close_log()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def _application(self) -> Starlette:
        routes = [
            Route("/v1/chat/completions", self._chat_completions, methods=["POST"]),
            Route("/v1/models", self._models, methods=["GET"]),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _http_error})

    def _refusal(self, request: Request) -> Response | None:
        if self._api_key is None or request.headers.get("authorization") == f"Bearer {self._api_key}":
            return None
        return _json(error_body("Incorrect API key provided.", "invalid_api_key"), 401)

    async def _models(self, request: Request) -> Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        entry = {"id": self.model.model, "object": "model", "created": 0, "owned_by": self.model.provider}
        return _json({"object": "list", "data": [entry]})

    async def _chat_completions(self, request: Request) -> Response:
        try:
            body = msgspec.json.decode(await request.body())
        except msgspec.DecodeError as error:
            return _json(error_body(f"the body is not JSON: {error}"), 400)
        headers = dict(request.headers)
        with self._lock:
            self._requests.append(ReceivedRequest(body=body, headers=headers))
            self._served += 1
            number = self._served
            failure = self._failures.popleft() if self._failures else None
        key = headers.get("idempotency-key")
        refusal = self._refusal(request)
        if refusal is not None:
            response = refusal
        elif failure is None:
            response = await self._answered(body, key, number)
        else:
            response = _json(failure.body, failure.status, failure.headers)
        if self._log is not None:
            self._log.write(number, response.status_code, key, body)
        return response

    async def _answered(self, body: object, idempotency_key: str | None, number: int) -> Response:
        try:
            asked = read_request(body, idempotency_key)
        except UsageError as error:
            return _json(error_body(str(error)), 400)
        server = self._server
        if server is None:
            return _STOPPING
        try:
            reply = await server.unless_stopped(self._ask(asked))
        except ModelUnavailableError as error:
            headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
            return _json(error_body(str(error), "server_error"), 503, headers)
        except ModelError as error:
            return _json(error_body(str(error)), 400)
        except Exception as error:  # noqa: BLE001 - the client is told, as by any server
            return _json(error_body(f"{type(error).__name__}: {error}", "server_error"), 500)
        return _STOPPING if reply is None else _reply_response(reply, asked, f"chatcmpl-{number}")

    async def _ask(self, asked: ServedRequest) -> ChatReply:
        if self._latency:
            await asyncio.sleep(self._latency)
        return await self.model.complete(asked.request)


def _reply_response(reply: ChatReply, asked: ServedRequest, completion_id: str) -> Response:
    created = int(SystemClock().now())
    if not asked.stream:
        return _json(completion(reply, completion_id=completion_id, model=asked.model, created=created))
    chunks = completion_chunks(
        reply, completion_id=completion_id, model=asked.model, created=created, include_usage=asked.include_usage
    )

    async def events() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield b"data: " + msgspec.json.encode(chunk) + b"\n\n"
        yield b"data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def _json(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, "application/json")


_STOPPING = _json(error_body("the server is stopping", "server_error"), 503)


async def _http_error(_request: Request, error: Exception) -> Response:
    status, text = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, str(error))
    return _json(error_body(text), status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a script until SIGINT or SIGTERM; the first line of output is the base URL."""
    parser = argparse.ArgumentParser(prog="python -m perdure.testing.openai_server", description=main.__doc__)
    parser.add_argument("--script", required=True, help="YAML or JSON file of replies")
    parser.add_argument("--port", type=int, default=0, help="where to listen on 127.0.0.1; 0 takes a free port")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--log", help="file to append one JSON line to for every answer")
    options = parser.parse_args(arguments)
    signals = {signal.SIGINT, signal.SIGTERM}
    # Blocked before the server's thread begins, which inherits that: the signals wait for sigwait.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        model = ScriptedModel.from_file(options.script)
        with OpenAIServer(model, port=options.port, latency=options.latency, log=options.log) as server:
            sys.stdout.write(f"{server.base_url}\n")
            sys.stdout.flush()
            signal.sigwait(signals)
    except UsageError as error:
        parser.error(str(error))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
