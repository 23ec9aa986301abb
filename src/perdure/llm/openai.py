"""Chat models behind the OpenAI wire, on the official SDK: OpenAI itself, Ollama, and everything compatible."""

from __future__ import annotations

import asyncio
import json
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from perdure.base.errors import MissingExtraError, ModelError, UsageError
from perdure.llm.openai_errors import translated_errors
from perdure.llm.openai_wire import model_names, read_completion, request_arguments
from perdure.llm.providers import find_api_key, find_base_url, find_model, find_provider, without_user

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from openai import AsyncOpenAI

    from perdure.llm.providers import ApiKey, Provider
    from perdure.ports.chat_model import ChatReply, ChatRequest

_OURS = frozenset({"messages", "model", "stream", "tools"})


class OpenAIChatModel:
    """A chat model behind the OpenAI wire.

    Building one needs neither network nor key; both are needed at the first call. It may be used from several event
    loops, also one after the other: each has a client of its own, which closes when its loop shuts down.

    Args:
        model: its name; by default what the provider's environment variable says.
        api_key: by default what the provider's environment variable says.
        base_url: the provider's address; by default what its environment variable says.
        provider: "openai", "ollama" or "openai-compatible".
        timeout: seconds that the provider may stay silent.
        temperature: sampling temperature; None leaves it to the provider.
        max_tokens: limit on the answer's length; None leaves it to the provider.
        extra: more fields of the request's body, such as ``{"reasoning_effort": "low"}``.

    Raises:
        UsageError: the provider is unknown, or nothing says which model or address to use.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        provider: str = "openai",
        timeout: float = 60.0,
        temperature: float | None = None,
        max_tokens: int | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self._provider: Provider = find_provider(provider)
        self._model = find_model(self._provider, model)
        self._base_url = find_base_url(self._provider, base_url)
        self._api_key = api_key
        self._timeout, self._temperature, self._max_tokens = timeout, temperature, max_tokens
        self._extra = _checked_extra(extra)
        self._clients: dict[asyncio.AbstractEventLoop, _Client] = {}

    @property
    def provider(self) -> str:
        """Name of the login: "openai", "ollama" or "openai-compatible"."""
        return self._provider.name

    @property
    def model(self) -> str:
        """Name of the model, as the provider knows it."""
        return self._model

    @property
    def base_url(self) -> str:
        """The provider's address, without user and password."""
        return without_user(self._base_url)

    def __repr__(self) -> str:
        return f"OpenAIChatModel({self.model!r}, provider={self.provider!r}, base_url={self.base_url!r})"

    def require_ready(self) -> None:
        """Refuse what the first call would refuse without asking the provider: no SDK, no key.

        Raises:
            MissingExtraError: the SDK is not installed.
            ModelError: a key is needed and there is none, or it cannot be one.
        """
        require_sdk(self.provider)
        find_api_key(self._provider, self._api_key)

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer one conversation.

        Raises:
            ModelUnavailableError: overloaded, rate-limited, timed out or out of reach (``retry_after`` when told).
            ModelError: there is no API key, or the provider refused for a reason that asking again does not change.
            MissingExtraError: the SDK is not installed.
        """
        client = await self._client()
        arguments = request_arguments(
            request,
            self._model,
            self._provider.facts,
            temperature=self._temperature,
            max_tokens=self._max_tokens,
        )
        with translated_errors(self._provider, self._model, self._base_url, client.key):
            # Raw: the SDK's typed reply would be built only to be taken apart again.
            answer = await client.sdk.chat.completions.with_raw_response.create(
                **arguments, extra_headers=_headers(request), extra_body=self._extra
            )
        return self._read(answer.content, client.key)

    async def served_models(self, within: float) -> list[str] | None:
        """Return the names of the models that the provider serves, or None when it answers and does not list any.

        Args:
            within: seconds that it may stay silent.

        Raises:
            ModelUnavailableError: overloaded, timed out or out of reach.
            ModelError: there is no API key, or the provider refused.
            MissingExtraError: the SDK is not installed.
        """
        client = await self._client()
        from openai import NotFoundError  # noqa: PLC0415 - an extra

        with translated_errors(self._provider, "", self._base_url, client.key):
            try:
                answer = await client.sdk.models.with_raw_response.list(timeout=within)
            except NotFoundError:
                return None
        return model_names(answer.content)

    async def aclose(self) -> None:
        """Close the running loop's client. Idempotent; the next call opens a new one."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _read(self, content: bytes, key: ApiKey) -> ChatReply:
        source = f"{self.provider} model {self._model!r} at {self.base_url}"
        try:
            completion = json.loads(content)
        except ValueError:
            start = key.scrub(content[:200].decode(errors="replace"))
            raise ModelError(f"{source} did not answer with JSON; is base_url right? It said: {start!r}") from None
        return read_completion(completion, source)

    async def _client(self) -> _Client:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is not None and not client.sdk.is_closed():
            return client
        key = find_api_key(self._provider, self._api_key)
        await _import_sdk(self.provider)
        client = self._clients.get(loop)
        if client is None or client.sdk.is_closed():
            for old in [known for known in list(self._clients) if known.is_closed()]:
                self._clients.pop(old, None)
            lifetime = _sdk_client(self._provider, self._base_url, key, self._timeout)
            client = _Client(key, await anext(lifetime), lifetime)
            self._clients[loop] = client
        return client


class _Client:
    """An SDK client of one event loop, with the key it was opened with."""

    __slots__ = ("_lifetime", "key", "sdk")

    def __init__(self, key: ApiKey, sdk: AsyncOpenAI, lifetime: AsyncGenerator[AsyncOpenAI, None]) -> None:
        self.key, self.sdk, self._lifetime = key, sdk, lifetime

    async def aclose(self) -> None:
        await self._lifetime.aclose()


async def _sdk_client(
    provider: Provider, base_url: str, key: ApiKey, silence: float
) -> AsyncGenerator[AsyncOpenAI, None]:
    """Yield a client that closes with this generator.

    An event loop finalises its asynchronous generators when it shuts down: so the connections are closed in the loop
    they belong to, without anybody having to remember it.
    """
    from openai import AsyncOpenAI  # noqa: PLC0415 - an extra

    # No retries here: the retry policy of the activity does that, and its waits survive a crash.
    # The header is given too: or one from the environment (OPENAI_CUSTOM_HEADERS) would win over the key.
    headers = {"Authorization": f"Bearer {key.value}"}
    client = AsyncOpenAI(api_key=key.value, base_url=base_url, timeout=silence, max_retries=0, default_headers=headers)
    if not provider.own_sdk:
        client.organization = client.project = None
    try:
        yield client
    finally:
        await client.close()


def require_sdk(provider: str) -> None:
    """Refuse to go on without the SDK, which is not imported by this.

    Args:
        provider: who needs it, for people.

    Raises:
        MissingExtraError: it is not installed.
    """
    if find_spec("openai") is None:
        raise _missing(provider)


def _missing(provider: str) -> MissingExtraError:
    return MissingExtraError(f"the model provider {provider!r}", "openai")


async def _import_sdk(provider: str) -> None:
    """Import the SDK, on a thread the first time: it takes half a second, in which the loop has other work."""
    if "openai.resources.chat" in sys.modules:
        return
    try:
        await asyncio.to_thread(import_module, "openai.resources.chat")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "openai":
            raise
        raise _missing(provider) from None


def _headers(request: ChatRequest) -> dict[str, str] | None:
    if request.idempotency_key is None:
        return None
    return {"Idempotency-Key": quote(request.idempotency_key, safe="!#$&'()*+,/:;=?@[]|~")}


def _checked_extra(extra: Mapping[str, Any] | None) -> dict[str, Any] | None:
    clash = _OURS.intersection(extra or ())
    if clash:
        raise UsageError(f"extra must not hold {', '.join(sorted(clash))}: Perdure itself sets that.")
    return dict(extra) if extra else None
