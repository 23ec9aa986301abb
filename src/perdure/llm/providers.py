"""Logins of the providers that speak the OpenAI wire: where they are and which key opens them, as data.

An explicit argument always wins over an environment variable.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from perdure.base.errors import ModelError, UsageError
from perdure.llm.openai_wire import WireFacts

if TYPE_CHECKING:
    from collections.abc import Iterable

_USER_INFO = re.compile(r"(?<=://)[^/@\s]*@")
_SECRET_LENGTH = 4
_FACTS = WireFacts()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provider:
    """One provider's login facts.

    Attributes:
        name: what users call it.
        key_variable: environment variable of its API key.
        default_key: what to send where no key is needed; None when one is.
        base_url_variables: environment variables of its address, the first that is set wins.
        default_base_url: its address otherwise; None when only the user knows.
        model_variable: environment variable of the model to use.
        default_model: the model otherwise; None when only the user knows.
        own_sdk: whether the SDK's further settings (organization, project) are meant for this provider.
        when_silent: what to do when nobody answers there; empty when nothing is known.
        bare_host: whether an address may be a host without scheme, port or path.
        facts: how it speaks the wire.
    """

    name: str
    key_variable: str
    default_key: str | None = None
    base_url_variables: tuple[str, ...] = ()
    default_base_url: str | None = None
    model_variable: str
    default_model: str | None = None
    own_sdk: bool = False
    when_silent: str = ""
    bare_host: bool = False
    facts: WireFacts = _FACTS


PROVIDERS: Final[dict[str, Provider]] = {
    provider.name: provider
    for provider in (
        Provider(
            name="openai",
            key_variable="OPENAI_API_KEY",
            base_url_variables=("OPENAI_BASE_URL",),
            default_base_url="https://api.openai.com/v1",
            model_variable="OPENAI_MODEL",
            default_model="gpt-4o",
            own_sdk=True,
            facts=WireFacts(max_tokens_field="max_completion_tokens", json_arguments_only=False),
        ),
        Provider(
            name="ollama",
            key_variable="OLLAMA_API_KEY",
            default_key="ollama",
            base_url_variables=("OLLAMA_ENDPOINT", "OLLAMA_HOST"),
            default_base_url="http://localhost:11434/v1",
            model_variable="OLLAMA_MODEL",
            when_silent="Start it with `ollama serve`, or say in OLLAMA_ENDPOINT where it is.",
            bare_host=True,
        ),
        Provider(
            name="openai-compatible",
            key_variable="OPENAI_COMPATIBLE_API_KEY",
            default_key="none",
            base_url_variables=("OPENAI_COMPATIBLE_BASE_URL",),
            model_variable="OPENAI_COMPATIBLE_MODEL",
        ),
    )
}
"""Every provider by name."""


@dataclasses.dataclass(frozen=True)
class ApiKey:
    """An API key that does not show.

    Attributes:
        value: the key itself.
        source: where it came from, for people.
        secret: False for the placeholder of a provider that needs no key.
    """

    value: str = dataclasses.field(repr=False)
    source: str
    secret: bool = True

    def scrub(self, text: str) -> str:
        """Return the text with the key blotted out."""
        hidden = self.secret and len(self.value) >= _SECRET_LENGTH
        return text.replace(self.value, "***") if hidden else text


def find_provider(name: str) -> Provider:
    """Return a provider by name.

    Raises:
        UsageError: there is none.
    """
    provider = PROVIDERS.get(name)
    if provider is None:
        raise UsageError(unknown("model provider", name, PROVIDERS))
    return provider


def unknown(what: str, value: str, known: Iterable[str]) -> str:
    """Return an error's text that names a value, what is known instead, and the nearest of it."""
    names = list(known)
    near = difflib.get_close_matches(value.lower(), names, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown {what} {value!r}. Known are: {', '.join(names)}{guess}"


def find_model(provider: Provider, model: str | None) -> str:
    """Return the model's name: the argument, else the provider's variable, else its default.

    Raises:
        UsageError: none of them says.
    """
    found = model or os.environ.get(provider.model_variable) or provider.default_model
    if not found:
        raise UsageError(
            f"which model of {provider.name!r}? Pass model='...', or set {provider.model_variable} in the environment."
        )
    return found


def find_base_url(provider: Provider, base_url: str | None) -> str:
    """Return the provider's address: the argument, else the first variable that is set, else its default.

    Raises:
        UsageError: none of them says, or it is not the address of a web server.
    """
    found = base_url if base_url is not None else _base_url_of_environment(provider)
    if found is None:
        variables = " or ".join(provider.base_url_variables)
        raise UsageError(
            f"where is {provider.name!r}? Pass base_url='http://host:port/v1', or set {variables} in the environment."
        )
    url = _whole_url(found.strip()) if provider.bare_host else found.strip()
    if not url.startswith(("http://", "https://")) or not urlsplit(url).hostname:
        raise UsageError(f"base_url {without_user(url)!r} of {provider.name!r} must look like 'http://host:port/v1'")
    return url.rstrip("/")


def _base_url_of_environment(provider: Provider) -> str | None:
    for variable in provider.base_url_variables:
        value = os.environ.get(variable)
        if value:
            return value
    return provider.default_base_url


def _whole_url(address: str) -> str:
    """Complete what OLLAMA_HOST may hold: a host, ``:port``, the address to listen on, a URL without path."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "http", address
    host, slash, path = rest.partition("/")
    name, colon, port = host.rpartition(":") if re.search(r":\d+$", host) else (host, "", "")
    name = "127.0.0.1" if name in {"", "0.0.0.0", "[::]"} else name  # noqa: S104 - mended, not listened on
    if not colon and not separator:
        colon, port = ":", "11434"
    return f"{scheme}://{name}{colon}{port}/{path if slash and path else 'v1'}"


def find_api_key(provider: Provider, api_key: str | None) -> ApiKey:
    """Return the provider's key: the argument, else its variable, else the placeholder where none is needed.

    Raises:
        ModelError: a key is needed and there is none, or it cannot be one.
    """
    if api_key is not None:
        key = ApiKey(api_key.strip(), "the api_key argument")
    elif os.environ.get(provider.key_variable):
        key = ApiKey(os.environ[provider.key_variable].strip(), f"the environment variable {provider.key_variable}")
    else:
        key = ApiKey(provider.default_key or "", "the default", secret=False)
    if not key.value:
        empty = "" if api_key is None else "the api_key argument is empty; leave it out and "
        raise ModelError(
            f"no API key for {provider.name!r}: {empty}set {provider.key_variable} in the environment: "
            f"export {provider.key_variable}=..."
        )
    if not (key.value.isascii() and key.value.isprintable()) or " " in key.value:
        raise ModelError(f"{key.source} for {provider.name!r} holds characters that no API key has: copy it again.")
    return key


def without_user(url: str) -> str:
    """Return a URL without the user and password that it may carry."""
    return _USER_INFO.sub("", url)
