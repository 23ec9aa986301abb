from __future__ import annotations

import pytest
from openai.types.chat import ChatCompletion

from perdure.base.errors import ModelError
from perdure.base.messages import FunctionCall, Message, ToolCall, Usage
from perdure.llm.openai_wire import WireFacts, read_completion, request_arguments
from perdure.ports.chat_model import ChatRequest, ToolDefinition

OPENAI = WireFacts(max_tokens_field="max_completion_tokens", json_arguments_only=False)
USER = Message(role="user", content="hi")
WEATHER = ToolDefinition(name="weather", description="Tells it.", parameters={"type": "object"})


def conversation_with_arguments(arguments: str) -> ChatRequest:
    call = ToolCall(id="c1", function=FunctionCall(name="weather", arguments=arguments))
    answer = Message(role="tool", content="sunny", name="weather", tool_call_id="c1")
    return ChatRequest(messages=[USER, Message(role="assistant", tool_calls=(call,)), answer])


def completion(message: dict[str, object], **more: object) -> dict[str, object]:
    return {"model": "gpt-5", "choices": [{"message": message, "finish_reason": "stop"}], **more}


def test_a_question_without_tools_carries_model_and_messages_only() -> None:
    request = ChatRequest(messages=[Message(role="user", content="hi", name="ada")], tool_choice="auto")

    arguments = request_arguments(request, "gpt-5", OPENAI)

    assert arguments == {"model": "gpt-5", "messages": [{"role": "user", "content": "hi", "name": "ada"}]}


def test_tool_calls_and_their_answers_are_sent_in_the_shape_of_the_wire() -> None:
    messages = request_arguments(conversation_with_arguments('{"city":"Oslo"}'), "gpt-5", OPENAI)["messages"]

    function = {"name": "weather", "arguments": '{"city":"Oslo"}'}
    assert messages[1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        },
        {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
    ]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("auto", "auto"),
        ("required", "required"),
        ("weather", {"type": "function", "function": {"name": "weather"}}),
    ],
)
def test_a_tool_choice_is_a_word_or_the_name_of_a_tool(choice: str, sent: object) -> None:
    request = ChatRequest(messages=[USER], tools=[WEATHER], tool_choice=choice)

    arguments = request_arguments(request, "gpt-5", OPENAI)

    assert arguments["tool_choice"] == sent
    assert arguments["tools"][0]["function"] == {
        "name": "weather",
        "description": "Tells it.",
        "parameters": {"type": "object"},
    }


def test_the_limit_on_the_answer_is_called_as_the_provider_calls_it() -> None:
    request = ChatRequest(messages=[USER])

    assert request_arguments(request, "m", OPENAI, max_tokens=5)["max_completion_tokens"] == 5
    assert request_arguments(request, "m", WireFacts(), max_tokens=5, temperature=0.0)["max_tokens"] == 5


@pytest.mark.parametrize("arguments", ["not json", "[1]", ""])
def test_malformed_arguments_go_back_as_they_are_or_wrapped_where_only_json_is_taken(arguments: str) -> None:
    request = conversation_with_arguments(arguments)

    def sent(facts: WireFacts) -> str:
        return request_arguments(request, "m", facts)["messages"][1]["tool_calls"][0]["function"]["arguments"]

    assert sent(OPENAI) == arguments
    assert sent(WireFacts()) == f'{{"malformed_arguments":"{arguments}"}}'


def test_text_that_utf8_cannot_carry_is_sent_with_replacements() -> None:
    request = ChatRequest(messages=[Message(role="user", content="a\udcffb")])

    assert request_arguments(request, "m", OPENAI)["messages"][0]["content"] == "a?b"


def test_a_text_answer_is_read_with_model_usage_and_reason() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3}

    reply = read_completion(completion({"role": "assistant", "content": "hello"}, usage=usage))

    assert reply.message == Message(role="assistant", content="hello")
    assert (reply.model, reply.usage, reply.finish_reason) == ("gpt-5", Usage(input_tokens=7, output_tokens=3), "stop")


def test_a_completion_object_of_the_sdk_is_read_like_the_mapping() -> None:
    data = completion({"role": "assistant", "content": "hello"})

    assert read_completion(ChatCompletion.model_construct(**data)) == read_completion(data)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}, "strange"])
def test_a_usage_that_is_missing_counts_as_zero(usage: object) -> None:
    reply = read_completion(completion({"content": "x"}, usage=usage))

    assert reply.usage == Usage()


def test_malformed_tool_arguments_are_kept_as_the_model_wrote_them() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": '}}

    reply = read_completion(completion({"content": None, "tool_calls": [call]}))

    assert reply.message.tool_calls[0].function == FunctionCall(name="weather", arguments='{"city": ')
    assert reply.message.content is None


@pytest.mark.parametrize(("sent", "read"), [({"city": "Oslo"}, '{"city":"Oslo"}'), (None, "{}"), ("", "{}")])
def test_arguments_that_are_no_text_are_read_as_what_they_mean(sent: object, read: str) -> None:
    call = {"id": "c1", "function": {"name": "weather", "arguments": sent}}

    assert read_completion(completion({"tool_calls": [call]})).message.tool_calls[0].function.arguments == read


def test_tool_calls_whose_ids_are_missing_or_repeated_get_ids_of_their_own() -> None:
    calls = [{"id": call_id, "function": {"name": "t"}} for call_id in ("same", "same", "", None)]

    found = read_completion(completion({"tool_calls": calls})).message.tool_calls

    assert found[0].id == "same"
    assert len({call.id for call in found}) == 4
    assert all(call.id for call in found)


def test_content_in_parts_is_put_together_and_a_refusal_is_the_answer() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]

    assert read_completion(completion({"content": parts})).message.content == "ab"
    assert read_completion(completion({"content": None, "refusal": "I will not."})).message.content == "I will not."
    assert read_completion(completion({})).message.content == ""


@pytest.mark.parametrize("answer", [{"choices": []}, {"error": {"message": "overloaded"}}, "text", None, {}])
def test_an_answer_without_choices_is_a_model_error_that_quotes_it(answer: object) -> None:
    with pytest.raises(ModelError, match="the model answered without any choice") as caught:
        read_completion(answer, "the model")

    if isinstance(answer, dict) and "error" in answer:
        assert "overloaded" in str(caught.value)
