"""What the doctor says of models; of the rest of an installation, see the errors of the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tests.cli.harness import Done

from perdure.testing import OpenAIServer
from perdure.testing.loopback import LOOPBACK, LoopbackServer, listen

Command = Callable[..., Done]


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(["Hello."], api_key="sk-right") as running:
        yield running


@pytest.fixture
def environment(perdure: Command, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    return monkeypatch


def checked(perdure: Command, name: str) -> dict[str, Any]:
    (found,) = [check for check in perdure("doctor", "--json").data if check["name"] == name]
    return found


def names(perdure: Command) -> set[str]:
    return {check["name"] for check in perdure("doctor", "--json").data}


def test_a_key_is_tried_where_it_belongs(perdure: Command, server: OpenAIServer, environment: pytest.MonkeyPatch):
    assert "openai" not in names(perdure), "nobody is asked without a key"
    environment.setenv("OPENAI_API_KEY", "sk-right")
    found = checked(perdure, "openai")
    assert (found["verdict"], found["finding"]) == ("ok", f"answers at {server.base_url}: 1 model")


def test_a_refused_key_fails_and_does_not_show(perdure: Command, environment: pytest.MonkeyPatch):
    environment.setenv("OPENAI_API_KEY", "sk-wrong")
    found = checked(perdure, "openai")
    assert (found["verdict"], found["remedy"]) == ("fail", "check OPENAI_API_KEY")
    assert "status 401: Incorrect API key provided" in found["finding"]
    assert "sk-wrong" not in found["finding"]
    assert perdure("doctor").code == 1


def test_a_server_that_is_gone_is_told_apart(perdure: Command, server: OpenAIServer, environment: pytest.MonkeyPatch):
    server.stop()
    environment.setenv("OPENAI_API_KEY", "sk-right")
    found = checked(perdure, "openai")
    assert (found["verdict"], found["remedy"]) == ("warn", "check the network, and the address: OPENAI_BASE_URL")
    assert "is out of reach" in found["finding"]
    environment.setenv("PERDURE_MODEL", "openai:gpt-5")
    assert checked(perdure, "openai")["verdict"] == "fail", "it is the model that runs would use"


def test_an_ollama_that_is_named_is_asked_where_it_is(
    perdure: Command, server: OpenAIServer, environment: pytest.MonkeyPatch
):
    environment.setenv("OLLAMA_ENDPOINT", server.base_url)
    environment.setenv("OLLAMA_API_KEY", "sk-right")
    assert checked(perdure, "ollama")["finding"] == f"answers at {server.base_url}: 1 model"
    assert "Ollama" not in names(perdure)
    server.stop()
    found = checked(perdure, "ollama")
    assert found["verdict"] == "warn"
    assert found["remedy"] == "Start it with `ollama serve`, or say in OLLAMA_ENDPOINT where it is."
    assert found["remedy"] not in found["finding"]


def test_what_answers_and_lists_no_models_is_suspected(perdure: Command, environment: pytest.MonkeyPatch):
    async def page(_request: object) -> PlainTextResponse:
        return PlainTextResponse("<html>login</html>")

    listener = listen(0)
    address = f"http://{LOOPBACK}:{listener.getsockname()[1]}"
    web = LoopbackServer(Starlette(routes=[Route("/models", page)]), listener)
    web.start()
    try:
        environment.setenv("OPENAI_API_KEY", "sk-right")
        for base_url in (address, f"{address}/elsewhere"):
            environment.setenv("OPENAI_BASE_URL", base_url)
            found = checked(perdure, "openai")
            assert (found["verdict"], found["finding"]) == ("warn", f"{base_url} answers and lists no models")
    finally:
        web.stop()


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("gpt-4o", "unknown model provider 'gpt-4o'. Known are: openai, ollama"),
        ("openai:", "'openai:' names no model"),
        ("openai:gpt-5", "no API key for 'openai': set OPENAI_API_KEY"),
        ("scripted:nowhere.yaml", "nowhere.yaml: the script cannot be read"),
    ],
)
def test_a_model_of_the_environment_that_cannot_answer_fails(
    perdure: Command, environment: pytest.MonkeyPatch, model: str, told: str
):
    environment.setenv("PERDURE_MODEL", model)
    found = checked(perdure, "PERDURE_MODEL")
    assert (found["verdict"], found["finding"]) == ("fail", model)
    assert told in found["remedy"]
    assert perdure("doctor").code == 1


def test_a_model_of_the_environment_is_asked_at_its_own_address(
    perdure: Command, server: OpenAIServer, environment: pytest.MonkeyPatch
):
    environment.setenv("PERDURE_MODEL", f"openai-compatible:m@{server.base_url}")
    environment.setenv("OPENAI_COMPATIBLE_API_KEY", "sk-right")
    assert checked(perdure, "PERDURE_MODEL")["verdict"] == "ok"
    assert checked(perdure, "openai-compatible")["finding"] == f"answers at {server.base_url}: 1 model"


def test_an_address_that_is_none_fails(perdure: Command, environment: pytest.MonkeyPatch):
    environment.setenv("OPENAI_API_KEY", "sk-right")
    environment.setenv("OPENAI_BASE_URL", "api.openai.com")
    assert "must look like 'http://host:port/v1'" in checked(perdure, "openai")["finding"]


def test_without_the_sdk_nobody_is_asked(perdure: Command, environment: pytest.MonkeyPatch):
    environment.setenv("OPENAI_API_KEY", "sk-right")
    environment.setitem(sys.modules, "openai", None)
    assert "openai" not in names(perdure)
    environment.setenv("PERDURE_MODEL", "openai:gpt-5")
    assert "pip install 'perdure[openai]'" in checked(perdure, "PERDURE_MODEL")["remedy"]
