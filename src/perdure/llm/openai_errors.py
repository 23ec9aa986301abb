"""What the OpenAI SDK raises, translated once: into errors worth a retry and errors that need a human."""

from __future__ import annotations

import math
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from perdure.base.clock import SystemClock
from perdure.base.errors import ModelError, ModelUnavailableError
from perdure.llm.providers import without_user

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from perdure.llm.providers import ApiKey, Provider

_WORTH_A_RETRY = frozenset({408, 409, 429})
_LONGEST = 500


@contextmanager
def translated_errors(provider: Provider, model: str, base_url: str, key: ApiKey) -> Generator[None]:
    """Raise Perdure's errors for the SDK's, with the remedy in the message and never the key.

    Args:
        provider: who is asked.
        model: which of its models; empty when it is none in particular.
        base_url: the provider's address.
        key: what is kept out of the messages.

    Raises:
        ModelUnavailableError: overloaded, rate-limited, timed out or out of reach.
        ModelError: refused for another reason.
    """
    from openai import APIConnectionError, APIStatusError, APITimeoutError, OpenAIError  # noqa: PLC0415 - an extra

    name = f"{provider.name} model {model!r}" if model else provider.name
    source = f"{name} at {without_user(base_url)}"
    # Without the cause: the SDK's errors carry the request, and with it the key.
    try:
        yield
    except APIStatusError as error:
        text = key.scrub(f"{source}: status {error.status_code}: {_said(error.body, error.message)}")
        if error.status_code in _WORTH_A_RETRY or error.status_code >= 500:
            wait = retry_after(error.response.headers, SystemClock().now())
            raise ModelUnavailableError(text, wait) from None
        raise ModelError(f"{text} {_remedy(error.status_code, provider, model, key)}".rstrip()) from None
    except APITimeoutError:
        raise ModelUnavailableError(f"{source} did not answer in time (timeout=...)") from None
    except APIConnectionError as error:
        reason = f"{error.__cause__ or error.message}".rstrip(".")
        text = key.scrub(f"{source} is out of reach: {reason}. {provider.when_silent}")
        raise ModelUnavailableError(text.rstrip()) from None
    except OpenAIError as error:
        raise ModelError(key.scrub(f"{source}: {error}")) from None


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return how many seconds a provider asks to wait, or None when it does not say.

    Args:
        headers: of the response, found in any case.
        now: the present moment, in seconds since the epoch.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    told = headers.get("retry-after")
    seconds = _number(told)
    if seconds is not None or told is None:
        return seconds
    try:
        return max(parsedate_to_datetime(told).timestamp() - now, 0.0)
    except (ValueError, OverflowError):
        return None


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _said(body: Any, message: str) -> str:
    """Return the provider's own words: the error object's message where there is one."""
    said = body.get("message") if isinstance(body, dict) else body
    text = said if isinstance(said, str) and said else message
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _remedy(status: int, provider: Provider, model: str, key: ApiKey) -> str:
    remedies = {
        400: "The request is refused as it stands: look at `extra`, the tools' schemas and the conversation's length.",
        401: f"The key came from {key.source}: check {provider.key_variable}, or pass api_key='...'.",
        403: f"The key came from {key.source}; it may not use {model!r}.",
        404: f"Check the model's name (model='...' or {provider.model_variable}), and that base_url ends in /v1.",
        413: "The conversation is too long for this provider.",
        422: "The provider does not take a field of the request: look at `extra` and at the tools' schemas.",
    }
    return remedies.get(status, "")
