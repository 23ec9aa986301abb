"""The durable agent: what a user builds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from perdure.agents.activities import call_model, call_tool, reconcile_tool
from perdure.agents.configs import AgentExecutionConfig, ToolExecutionMode, WorkflowRetryPolicy
from perdure.agents.loop import agent_loop
from perdure.base.errors import UsageError
from perdure.base.events import RetryPolicy
from perdure.base.ids import sanitized_name
from perdure.engine.activity import Activity
from perdure.engine.code import Steps
from perdure.engine.requests import Requests
from perdure.llm.resolve import resolve_model
from perdure.ports.chat_model import ChatModel
from perdure.ports.toolset import Tool
from perdure.prompt.system_prompt import system_prompt as written_prompt
from perdure.tools.tool import FunctionTool
from perdure.tools.toolset import Toolset
from perdure.workflows.context import Callee, WorkflowContext
from perdure.workflows.registry import Registry


class AgentWorkflow:
    """An agent's loop under its workflow name."""

    __slots__ = ("agent", "keys", "name", "retention", "rules")

    def __init__(self, agent: DurableAgent) -> None:
        self.agent = agent
        self.name = agent.agent_workflow_name
        self.keys = (self.name,)
        self.retention = None
        self.rules = None

    @property
    def newest(self) -> AgentWorkflow:
        """The agent's own loop: an agent has no versions."""
        return self

    def begin(self, execution: Requests, argument: Any) -> Steps:
        """Return the loop's steps."""
        # A coroutine sends and throws as a generator does.
        return agent_loop(WorkflowContext(execution, _BY_NAME), self.agent, argument)  # type: ignore[return-value]


class _ByName:
    """The loop calls its activities by name; nothing has to be known of the code around it."""

    def callee(self, activity: Callable[..., Any] | str) -> Callee:
        assert isinstance(activity, str), "the loop calls its activities by name"
        return activity, None, None

    def child(self, workflow: Callable[..., Any] | str, app_id: str | None) -> Callee:
        assert isinstance(workflow, str), f"the loop calls workflows by name, in app {app_id} as elsewhere"
        return workflow, None, None


_BY_NAME = _ByName()


def _texts(field: str, given: Sequence[str] | str) -> list[str]:
    texts = [given] if isinstance(given, str) else list(given)
    for text in texts:
        if not isinstance(text, str):
            raise UsageError(f"DurableAgent.{field} holds {text!r}; it takes texts: {field}=['...']")
    return texts


class DurableAgent:
    """An agent whose every model call and tool call is a recorded activity (dapr-ai-docs 2.4, Durable Agent).

    Use it directly, or subclass it: methods marked ``@tool`` become tools, and the class attributes ``system_prompt``,
    ``role``, ``goal``, ``instructions`` and ``llm`` give the values that the constructor is not given.

    Args:
        name: the agent's name, at most 64 characters of ``[A-Za-z0-9_-]`` once others are deleted; a subclass has its
            class's name by default. Histories find their agent by it, so keep it.
        role: who the agent is.
        goal: what it is after.
        instructions: what it is to do and not to do.
        style_guidelines: how it is to speak.
        system_prompt: replaces the prompt that is made of the five above; used as it is, braces and all.
        tools: functions marked ``@tool``, documented functions, or other tools.
        llm: a chat model, or a string such as ``"openai:gpt-4o"``, ``"ollama:llama3.2"`` or ``"scripted:file.yaml"``;
            by default what ``PERDURE_MODEL`` says, otherwise the echo model, which needs no key.
        execution: limits and modes of the loop.
        retry_policy: how often a model call that failed is tried again.

    Raises:
        UsageError: an argument is wrong; the message names it and the remedy.
    """

    name: str = ""
    role: str | None = None
    goal: str | None = None
    instructions: Sequence[str] = ()
    style_guidelines: Sequence[str] = ()
    system_prompt: str | None = None
    llm: ChatModel | str | None = None
    _method_tools: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        """Note the methods that are tools, in the order in which the class and its bases define them."""
        super().__init_subclass__(**options)
        found: dict[str, None] = {}
        for base in reversed(cls.__mro__):
            found.update((key, None) for key, value in vars(base).items() if isinstance(value, FunctionTool))
        cls._method_tools = tuple(key for key in found if isinstance(getattr(cls, key, None), FunctionTool))

    def __init__(
        self,
        *,
        name: str | None = None,
        role: str | None = None,
        goal: str | None = None,
        instructions: Sequence[str] | str | None = None,
        style_guidelines: Sequence[str] | str | None = None,
        system_prompt: str | None = None,
        tools: Iterable[Tool | Callable[..., object]] = (),
        llm: ChatModel | str | None = None,
        execution: AgentExecutionConfig | None = None,
        retry_policy: WorkflowRetryPolicy | None = None,
    ) -> None:
        chosen = name or self.name or (type(self).__name__ if type(self) is not DurableAgent else "")
        if not chosen.strip():
            raise UsageError("DurableAgent needs a name: DurableAgent(name='Librarian', ...)")
        try:
            self._message_name = sanitized_name(chosen)
        except ValueError as error:
            raise UsageError(f"DurableAgent.name: {error}") from None
        self.name = chosen
        self.role = role if role is not None else self.role
        self.goal = goal if goal is not None else self.goal
        self.instructions = _texts("instructions", self.instructions if instructions is None else instructions)
        guidelines = self.style_guidelines if style_guidelines is None else style_guidelines
        self.style_guidelines = _texts("style_guidelines", guidelines)
        self.system_prompt = system_prompt if system_prompt is not None else self.system_prompt
        self.execution = execution or AgentExecutionConfig()
        self.llm = resolve_model(llm if llm is not None else self.llm)
        self.toolset = Toolset([*(getattr(self, key) for key in self._method_tools), *tools])
        self._model_retry = (retry_policy or WorkflowRetryPolicy()).as_retry_policy()

    @property
    def model(self) -> ChatModel:
        """The chat model in use."""
        return resolve_model(self.llm) if self.llm is None or isinstance(self.llm, str) else self.llm

    @property
    def message_name(self) -> str:
        """The sanitised name, which messages, workflow and activities carry (reference: wire.md 1.1)."""
        return self._message_name

    @property
    def agent_workflow_name(self) -> str:
        """Registered name of the agent's workflow (reference: wire.md 1.2)."""
        return f"dapr.agents.{self._message_name}.workflow"

    @property
    def model_activity(self) -> str:
        """Registered name of the activity that calls the model (reference: wire.md 1.3)."""
        return f"dapr.agents.{self._message_name}.call_llm"

    @property
    def tool_activity(self) -> str:
        """Registered name of the activity that calls one tool (reference: wire.md 1.3)."""
        return f"dapr.agents.{self._message_name}.run_tool"

    @property
    def model_retry(self) -> RetryPolicy:
        """The policy that is recorded with each model call."""
        return self._model_retry

    @property
    def max_iterations(self) -> int:
        """Model calls in one run at most."""
        return self.execution.max_iterations

    @property
    def tool_choice(self) -> str | None:
        """What the model is told about choosing tools."""
        return self.execution.tool_choice

    @property
    def sequential(self) -> bool:
        """Whether the tool calls of one turn run one by one."""
        return self.execution.tool_execution_mode == ToolExecutionMode.SEQUENTIAL

    def prompt(self, today: str | None) -> str:
        """Return the system prompt, with the line of today's date when a date is given."""
        return written_prompt(
            name=self.name,
            role=self.role,
            goal=self.goal,
            instructions=self.instructions,
            style_guidelines=self.style_guidelines,
            system_prompt=self.system_prompt,
            today=today,
        )

    def register(self, registry: Registry) -> None:
        """Register the agent's workflow and activities; registering the same agent again changes nothing.

        Raises:
            UsageError: another agent has this name.
        """
        known = registry.workflows.get(self.agent_workflow_name)
        if isinstance(known, AgentWorkflow) and known.agent is self:
            return
        if known is not None:
            raise UsageError(f"two agents are named {self.name!r}; histories go by the name: rename one of them")
        registry.workflows[self.agent_workflow_name] = AgentWorkflow(self)
        registry.activities[self.model_activity] = Activity(
            name=self.model_activity, function=lambda call: call_model(self, call), is_async=True
        )
        registry.activities[self.tool_activity] = Activity(
            name=self.tool_activity,
            function=lambda call: call_tool(self, call),
            is_async=True,
            on_crash=reconcile_tool(self),
        )
