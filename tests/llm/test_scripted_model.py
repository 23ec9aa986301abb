from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from perdure.base.errors import ModelError, ModelUnavailableError, ScriptExhaustedError, UsageError
from perdure.base.messages import FunctionCall, Message, ToolCall
from perdure.llm.scripted import ScriptedModel, turn_of
from perdure.ports.chat_model import ChatModel, ChatReply, ChatRequest

if TYPE_CHECKING:
    from pathlib import Path

USER = Message(role="user", content="go on, please")
ASSISTANT = Message(role="assistant", content="an answer")
SCRIPT = [{"tool": "search", "arguments": {"q": "x"}}, [{"tool": "a"}, {"tool": "b"}], "done"]


def ask(model: ScriptedModel, *messages: Message) -> ChatReply:
    return asyncio.run(model.complete(ChatRequest(messages=list(messages))))


def play(model: ScriptedModel) -> list[Message]:
    """Run one conversation to its end, answering every tool call."""
    messages = [USER]
    while True:
        reply = ask(model, *messages).message
        messages.append(reply)
        if not reply.tool_calls:
            return messages
        messages += [Message(role="tool", content="ok", tool_call_id=call.id) for call in reply.tool_calls]


def test_it_is_a_chat_model() -> None:
    model = ScriptedModel(["x"])

    assert isinstance(model, ChatModel)
    assert (model.provider, model.model, repr(model)) == ("scripted", "scripted", "ScriptedModel(1 reply)")


def test_a_conversation_gets_the_replies_in_order_with_ids_from_turn_and_index() -> None:
    messages = play(ScriptedModel(SCRIPT))

    calls = [call for message in messages for call in message.tool_calls]
    assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
        ("call_0_0", "search", '{"q":"x"}'),
        ("call_1_0", "a", "{}"),
        ("call_1_1", "b", "{}"),
    ]
    assert messages[-1].content == "done"


def test_a_model_of_a_new_process_goes_on_where_the_conversation_stopped() -> None:
    messages = play(ScriptedModel(SCRIPT))

    for place, message in enumerate(messages):
        if message.role == "assistant":
            assert ask(ScriptedModel(SCRIPT), *messages[:place]).message == message


def test_the_same_turn_gets_the_same_reply_however_often_it_is_asked() -> None:
    model = ScriptedModel(["first", "second"])

    assert [ask(model, USER).message.content for _ in range(3)] == ["first"] * 3
    assert ask(model, USER, ASSISTANT).message.content == "second"


def test_turns_are_counted_from_the_last_user_message() -> None:
    request = ChatRequest(messages=[USER, ASSISTANT, ASSISTANT, USER, ASSISTANT])

    assert turn_of(request) == 1


def test_running_past_the_end_says_how_many_replies_there_were(tmp_path: Path) -> None:
    with pytest.raises(ScriptExhaustedError, match=r"^the script has 2 replies, .* number 3"):
        ask(ScriptedModel(["a", "b"]), USER, ASSISTANT, ASSISTANT)
    script = tmp_path / "short.yaml"
    script.write_text("- only one\n")
    with pytest.raises(ScriptExhaustedError, match=rf"^the script {re.escape(str(script))} has 1 reply, .* number 2"):
        ask(ScriptedModel.from_file(script), USER, ASSISTANT)


def test_usage_and_reason_are_the_same_on_every_run() -> None:
    model = ScriptedModel(["12345678", {"tool": "t"}])

    first = ask(model, USER)
    assert (first.usage.input_tokens, first.usage.output_tokens, first.finish_reason) == (3, 2, "stop")
    assert ask(model, USER, ASSISTANT).finish_reason == "tool_calls"


def test_errors_are_raised_and_whole_replies_returned_as_they_are() -> None:
    reply = ChatReply(message=ASSISTANT, model="mine")
    model = ScriptedModel([ModelUnavailableError("busy", 2.0), reply])

    with pytest.raises(ModelUnavailableError, match="busy"):
        ask(model, USER)
    assert ask(model, USER, ASSISTANT) is reply


def test_a_function_answers_at_once_or_awaited() -> None:
    async def later(request: ChatRequest) -> str:
        return f"{len(request.messages)} messages"

    assert ask(ScriptedModel(later), USER, ASSISTANT).message.content == "2 messages"
    call = ask(ScriptedModel(lambda _: {"tool": "t"}), USER, ASSISTANT).message.tool_calls[0]
    assert call == ToolCall(id="call_1_0", function=FunctionCall(name="t"))


def test_a_function_that_returns_no_reply_is_told_so() -> None:
    wrong: Any = lambda _: 42  # noqa: E731

    with pytest.raises(UsageError, match=r"the function's reply.*42 \(int\)"):
        ask(ScriptedModel(wrong), USER)


def test_a_text_as_arguments_stands_for_itself() -> None:
    call = ask(ScriptedModel([{"tool": "t", "arguments": "not json"}]), USER).message.tool_calls[0]

    assert call.function.arguments == "not json"


def test_the_requests_it_answered_are_recorded() -> None:
    model = ScriptedModel(["a"], delay=0.001)
    ask(model, USER)
    with pytest.raises(ModelError):
        ask(model, USER, ASSISTANT)

    assert [call.messages for call in model.calls] == [[USER]]


@pytest.mark.parametrize(
    ("replies", "problem"),
    [
        ("text", "expected a list of replies"),
        ({"tool": "t"}, "expected a list of replies"),
        (["ok", 42], r"entry 2: 42 \(int\)"),
        ([None], "entry 1: None"),
        ([[]], "entry 1: an empty list"),
        ([["text"]], "entry 1: 'text'"),
        ([{"tool": "t", "args": {}}], "unknown key 'args'"),
        ([{"arguments": {}}], "'tool' is not the name of a tool"),
        ([{"tool": "t", "arguments": [1]}], "'arguments' is "),
        ([[{"tool": "t"}, {"tool": 3}]], "'tool' is not the name"),
        ([{"tool": "t", "arguments": {"x": object()}}], "cannot be written as JSON"),
    ],
)
def test_what_is_no_script_is_refused_with_the_entry(replies: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        ScriptedModel(replies)


@pytest.mark.parametrize("delay", [-1, "1", True, float("inf"), float("nan")])
def test_a_delay_is_a_number_of_seconds(delay: Any) -> None:
    with pytest.raises(UsageError, match="seconds"):
        ScriptedModel([], delay=delay)


YAML = """
delay: 0.001
replies:
  - tool: search
    arguments: {q: x}
  - - tool: a
    - tool: b
  - done
"""


def test_a_yaml_file_a_json_file_and_the_list_play_the_same(tmp_path: Path) -> None:
    written, bare = tmp_path / "script.yaml", tmp_path / "script.json"
    written.write_text(YAML)
    bare.write_text(json.dumps(SCRIPT))

    expected = play(ScriptedModel(SCRIPT))
    assert play(ScriptedModel.from_file(written)) == expected
    assert play(ScriptedModel.from_file(str(bare))) == expected


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("s.yaml", "- ok\n- 42\n", r"reply 2: 42 \(int\); expected a text"),
        ("s.yaml", "- tool: t\n  args: {}\n", "reply 1: unknown key 'args'"),
        ("s.yaml", "hello", "expected a list of replies, or a mapping"),
        ("s.yaml", "", "expected a list of replies"),
        ("s.yaml", "replies: hello", "expected a list of replies"),
        ("s.yaml", "{replies: [], dealy: 1}", "unknown key 'dealy'"),
        ("s.yaml", "{replies: [], delay: soon}", "delay: expected seconds"),
        ("s.yaml", "- [unclosed", "not YAML: .*line"),
        ("s.yaml", "- !!float ", "not YAML"),
        ("s.yaml", "- 2026-13-45", "not YAML: month"),
        ("s.yaml", "[" * 5000, "not YAML"),
        ("s.json", "[1,", "not JSON"),
    ],
)
def test_a_wrong_file_is_refused_with_file_entry_and_what_was_expected(
    tmp_path: Path, name: str, text: str, problem: str
) -> None:
    path = tmp_path / name
    path.write_text(text)

    with pytest.raises(UsageError, match=f"{re.escape(str(path))}.*{problem}"):
        ScriptedModel.from_file(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(UsageError, match=r"nowhere\.yaml: the script cannot be read"):
        ScriptedModel.from_file(tmp_path / "nowhere.yaml")
    with pytest.raises(UsageError, match="not UTF-8"):
        ScriptedModel.from_file(binary)
