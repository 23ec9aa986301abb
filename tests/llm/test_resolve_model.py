from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from perdure.base.errors import MissingExtraError, ModelError, SettingError, UsageError
from perdure.base.messages import Message
from perdure.llm.echo import EchoModel
from perdure.llm.openai import OpenAIChatModel
from perdure.llm.resolve import ready_model, require_ready, resolve_model
from perdure.llm.scripted import ScriptedModel
from perdure.ports.chat_model import ChatModel, ChatRequest, ToolDefinition

if TYPE_CHECKING:
    from pathlib import Path


def test_nothing_said_is_what_the_environment_says_and_else_the_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(resolve_model(None), EchoModel)
    monkeypatch.setenv("PERDURE_MODEL", "openai:gpt-5")
    assert resolve_model().model == "gpt-5"
    assert isinstance(resolve_model("echo"), EchoModel)


@pytest.mark.parametrize(
    ("spec", "provider", "model", "base_url"),
    [
        ("openai:gpt-5", "openai", "gpt-5", "https://api.openai.com/v1"),
        ("openai", "openai", "gpt-4o", "https://api.openai.com/v1"),
        ("ollama:llama3.2:1b", "ollama", "llama3.2:1b", "http://localhost:11434/v1"),
        ("openai-compatible:m@http://host:8000/v1", "openai-compatible", "m", "http://host:8000/v1"),
        ("openai-compatible:@cf/m@https://host/v1", "openai-compatible", "@cf/m", "https://host/v1"),
        ("openai-compatible:m@https://me:pw@host/v1", "openai-compatible", "m", "https://host/v1"),
    ],
)
def test_a_provider_and_a_model_give_a_client(spec: str, provider: str, model: str, base_url: str) -> None:
    found = resolve_model(spec)

    assert isinstance(found, OpenAIChatModel)
    assert (found.provider, found.model, found.base_url) == (provider, model, base_url)


def test_a_script_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "script.yaml"
    path.write_text("- hi\n")

    assert isinstance(resolve_model(f"scripted:{path}"), ScriptedModel)


def test_an_object_that_is_a_chat_model_passes_through() -> None:
    model = ScriptedModel(["x"])

    assert resolve_model(model) is model


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("opnai:gpt-5", "'opnai'.*openai, ollama, openai-compatible, scripted, echo.*did you mean 'openai'"),
        ("gpt-5", "unknown model provider 'gpt-5'.*'provider:model'"),
        ("", "unknown model provider ''"),
        ("scripted", "scripted:file.yaml"),
        ("ollama", "OLLAMA_MODEL"),
        ("openai-compatible:m", "base_url"),
        (42, "42 is no chat model"),
        (EchoModel, "is no chat model"),
        ("openai:", "'openai:' names no model.*such as openai:gpt-4o"),
        ("ollama:", "'ollama' alone stands for the model that OLLAMA_MODEL names"),
    ],
)
def test_what_is_no_model_is_refused_with_a_way_out(spec: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        resolve_model(spec)


def test_a_variable_that_names_no_model_is_blamed_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_MODEL", "gpt-5")

    with pytest.raises(SettingError, match="PERDURE_MODEL is 'gpt-5': unknown model provider 'gpt-5'") as caught:
        resolve_model()
    assert (caught.value.variable, caught.value.value) == ("PERDURE_MODEL", "gpt-5")


def test_what_the_first_call_would_refuse_is_refused_without_asking_the_provider(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = resolve_model("openai:gpt-5")
    with pytest.raises(ModelError, match="set OPENAI_API_KEY in the environment"):
        require_ready(model)
    with pytest.raises(ModelError, match="set OPENAI_API_KEY in the environment"):
        ready_model("openai:gpt-5")
    for spec in ("ollama:llama3.2", "openai-compatible:m@http://127.0.0.1:1/v1", "echo"):
        assert repr(ready_model(spec)) == repr(resolve_model(spec))

    monkeypatch.setenv("OPENAI_API_KEY", "sk-any")
    require_ready(model)
    monkeypatch.setitem(sys.modules, "openai", None)
    for spec in ("openai:gpt-5", "openai:", "openai"):
        with pytest.raises(
            MissingExtraError, match=r"'openai' needs an optional package: pip install 'perdure\[openai\]'"
        ):
            ready_model(spec)


def test_the_echo_answers_with_the_last_user_message_and_calls_no_tool() -> None:
    model = EchoModel()
    tool = ToolDefinition(name="t", description="", parameters={})

    def said(*messages: Message) -> str | None:
        reply = asyncio.run(model.complete(ChatRequest(messages=list(messages), tools=[tool])))
        assert not reply.message.tool_calls
        return reply.message.content

    user, answer = Message(role="user", content="hi"), Message(role="tool", content="x", tool_call_id="1")
    assert said(Message(role="user", content="old"), user, answer) == "You said: hi"
    assert said(Message(role="system", content="be kind")) == "You said nothing."
    assert isinstance(model, ChatModel)
    assert (model.provider, model.model, repr(model)) == ("echo", "echo", "EchoModel()")


def test_importing_the_chat_models_imports_no_sdk() -> None:
    code = (
        "import sys, perdure.llm.resolve, perdure.llm.openai_wire_serving\n"
        "sys.exit(' '.join({'openai', 'ruamel.yaml', 'pydantic', 'httpx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.stderr, done.returncode) == ("\n", 1)
