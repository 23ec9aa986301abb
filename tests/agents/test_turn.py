"""The pure turn: what follows what the model said."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from perdure.agents.turn import (
    CallTools,
    Finish,
    ModelTurn,
    ToolOutcome,
    decide,
    is_last,
    limit_reached,
    tool_messages,
)
from perdure.base.messages import FunctionCall, Message, ToolCall, Usage

calls = st.lists(
    st.builds(
        ToolCall,
        id=st.sampled_from(["", "a", "b", "a_1", "call_0", "call_1"]),
        function=st.builds(FunctionCall, name=st.text(min_size=1, max_size=5), arguments=st.text(max_size=10)),
    ),
    max_size=6,
)


def turn(message: Message, *, limit: int = 10, sequential: bool = False) -> ModelTurn:
    return ModelTurn(
        message=message, model="m", usage=Usage(), definition="d", max_iterations=limit, sequential=sequential
    )


@given(calls, st.booleans())
def test_a_message_with_calls_leads_to_exactly_these_calls_in_order(wanted: list[ToolCall], sequential: bool) -> None:
    message = Message(role="assistant", content=None, tool_calls=tuple(wanted))
    decision = decide(turn(message, sequential=sequential), "Agent")
    if not wanted:
        assert isinstance(decision, Finish)
        return
    assert isinstance(decision, CallTools)
    assert decision.sequential is sequential
    assert [call.function for call in decision.calls] == [call.function for call in wanted]


@given(calls)
def test_every_call_has_an_id_of_its_own_and_keeps_one_that_was_distinct(wanted: list[ToolCall]) -> None:
    decision = decide(turn(Message(role="assistant", tool_calls=tuple(wanted))), "Agent")
    ids = [call.id for call in decision.message.tool_calls]
    assert all(ids)
    assert len(set(ids)) == len(ids)
    first_seen = {call.id: index for index, call in reversed(list(enumerate(wanted)))}
    assert all(ids[index] == call_id for call_id, index in first_seen.items() if call_id)


@given(calls)
def test_the_same_record_gives_the_same_decision(wanted: list[ToolCall]) -> None:
    record = turn(Message(role="assistant", content="x", tool_calls=tuple(wanted)))
    stored = msgspec.json.decode(msgspec.json.encode(record), type=ModelTurn)
    assert decide(record, "Agent") == decide(stored, "Agent")


@given(calls.filter(bool))
def test_each_outcome_answers_the_call_at_its_place(wanted: list[ToolCall]) -> None:
    decision = decide(turn(Message(role="assistant", tool_calls=tuple(wanted))), "Agent")
    outcomes = [ToolOutcome(content=str(index)) for index in range(len(wanted))]
    messages = tool_messages(decision.message.tool_calls, outcomes)
    assert [message.content for message in messages] == [str(index) for index in range(len(wanted))]
    assert [message.tool_call_id for message in messages] == [call.id for call in decision.message.tool_calls]
    assert [message.name for message in messages] == [call.function.name for call in wanted]


def test_a_message_without_calls_is_the_answer_and_carries_the_agents_name() -> None:
    decision = decide(turn(Message(role="assistant", content="42")), "Agent")
    assert decision == Finish(Message(role="assistant", content="42", name="Agent"))


@given(st.integers(1, 50), st.integers(1, 50))
def test_the_limit_in_force_at_the_turn_decides_whether_it_is_the_last(limit: int, number: int) -> None:
    assert is_last(turn(Message(role="assistant"), limit=limit), number) == (number >= limit)


def test_the_notice_of_a_used_up_limit_is_an_assistant_message() -> None:
    notice = limit_reached("Agent")
    assert notice.role == "assistant"
    assert "maximum number of reasoning steps" in (notice.content or "")
