from __future__ import annotations

import msgspec

from perdure.base.codec import decode, encode
from perdure.base.messages import FunctionCall, Message, ToolCall, Usage


def test_a_message_is_written_without_what_it_lacks():
    assert bytes(encode(Message(role="user", content="hi")).raw) == b'{"role":"user","content":"hi"}'


def test_a_tool_call_is_written_in_the_shape_of_the_wire():
    call = ToolCall(id="c1", function=FunctionCall(name="pay", arguments='{"amount":1}'))
    message = Message(role="assistant", tool_calls=(call,))
    assert decode(encode(message).raw) == {
        "role": "assistant",
        "tool_calls": [
            {"id": "c1", "function": {"name": "pay", "arguments": '{"amount":1}'}, "type": "function"},
        ],
    }
    assert msgspec.convert(decode(encode(message).raw), Message) == message


def test_usage_adds_up():
    assert Usage().total_tokens == 0
    assert Usage(input_tokens=3, output_tokens=4).total_tokens == 7
