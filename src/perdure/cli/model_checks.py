"""What ``perdure doctor`` looks at of the models: what the environment names, and whether their servers answer."""

from __future__ import annotations

import asyncio
import os
from importlib.util import find_spec

from perdure.base.errors import ModelError, ModelUnavailableError, PerdureError, SettingError, UsageError
from perdure.cli.checks import Check, ollama
from perdure.cli.formats import plural
from perdure.llm.openai import OpenAIChatModel
from perdure.llm.providers import PROVIDERS, Provider, without_user
from perdure.llm.resolve import MODEL_VARIABLE, require_ready, resolve_model

_PATIENCE = 3.0
_NO_MODEL = "any"
"""Stands for the model where only its server is asked."""


async def model_checks() -> list[Check]:
    """Return how the model of the environment stands, and the servers that it has the keys and addresses of."""
    found: list[Check] = []
    chosen: OpenAIChatModel | None = None
    if os.environ.get(MODEL_VARIABLE):
        check, chosen = _chosen()
        found.append(check)
    asked: list[OpenAIChatModel] = [] if chosen is None else [chosen]
    for provider in PROVIDERS.values():
        if (chosen is None or chosen.provider != provider.name) and _is_set_up(provider):
            try:
                asked.append(OpenAIChatModel(_NO_MODEL, provider=provider.name))
            except UsageError as error:
                found.append(Check(provider.name, "fail", str(error), "mend the variable, or unset it"))
    found += await asyncio.gather(*(_answers(model, is_chosen=model is chosen) for model in asked))
    if all(model.provider != "ollama" for model in asked):
        found.append(ollama())
    return found


def _chosen() -> tuple[Check, OpenAIChatModel | None]:
    """Return how the variable stands, and the model that it names if that has a server to ask."""
    value = without_user(os.environ[MODEL_VARIABLE])
    try:
        model = resolve_model()
        require_ready(model)
    except SettingError as error:
        return Check(MODEL_VARIABLE, "fail", value, error.problem), None
    except PerdureError as error:
        return Check(MODEL_VARIABLE, "fail", value, str(error)), None
    return Check(MODEL_VARIABLE, "ok", value), model if isinstance(model, OpenAIChatModel) else None


def _is_set_up(provider: Provider) -> bool:
    """Whether the environment says that a provider is used; without the SDK, nobody can be asked."""
    names = [provider.key_variable]
    if provider.default_key is not None:
        names.extend(provider.base_url_variables)
    return find_spec("openai") is not None and any(os.environ.get(name) for name in names)


async def _answers(model: OpenAIChatModel, *, is_chosen: bool) -> Check:
    provider = PROVIDERS[model.provider]
    try:
        served = await model.served_models(_PATIENCE)
    except ModelUnavailableError as error:
        otherwise = f"check the network, and the address: {' or '.join(provider.base_url_variables)}"
        remedy = provider.when_silent or otherwise
        finding = str(error).removesuffix(remedy).rstrip()
        return Check(provider.name, "fail" if is_chosen else "warn", finding, remedy)
    except ModelError as error:
        return Check(provider.name, "fail", str(error), f"check {provider.key_variable}")
    if served is None:
        return Check(provider.name, "warn", f"{model.base_url} answers and lists no models", "does it end in /v1?")
    return Check(provider.name, "ok", f"answers at {model.base_url}: {plural(len(served), 'model')}")
