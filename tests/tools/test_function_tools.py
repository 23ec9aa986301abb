"""``@tool`` on functions, methods and callables, and what it refuses."""

from __future__ import annotations

import asyncio
import functools
import inspect
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, Field

from perdure.base.errors import ToolError, UsageError
from perdure.ports.chat_model import ToolDefinition
from perdure.tools.tool import FunctionTool, as_tool, tool

if TYPE_CHECKING:
    from decimal import Decimal

    from perdure.ports.toolset import Interrupted, Reconciled


@tool
def multiply(left: int, right: int = 2) -> int:
    """Multiply two numbers."""
    return left * right


@tool
async def fetch(url: str) -> str:
    """Fetch a page."""
    return f"page {url}"


class Base:
    """Carries a tool for its children."""

    prefix = "base"

    @tool(timeout=5)
    def search(self, query: str, limit: int = 3) -> list[str]:
        """Search the shelves."""
        return [self.prefix, query] * limit

    @tool
    async def ask(self, question: str) -> str:
        """Ask the librarian."""
        return f"{self.prefix}: {question}"

    @tool
    @staticmethod
    def shout(text: str) -> str:
        """Shout."""
        return text.upper()

    @staticmethod
    @tool
    def whisper(text: str) -> str:
        """Whisper."""
        return text.lower()

    borrowed = multiply


class Child(Base):
    """Inherits its tools."""

    prefix = "child"


class Adder:
    """Add one."""

    def __call__(self, number: int) -> int:
        return number + 1


class Undocumented:
    def __call__(self, number: int) -> int:
        """Subtract one."""
        return number - 1


class AsyncGreeter:
    """Greet."""

    async def __call__(self, name: str) -> str:
        return f"hello {name}"


class ForeignTool:
    """Satisfies the port without being a FunctionTool."""

    def __init__(self) -> None:
        self.definition = ToolDefinition(name="foreign", description="From elsewhere.", parameters={})
        self.on_crash = "retry"
        self.timeout = None
        self.is_async = False

    def validate(self, arguments: str) -> dict[str, Any]:
        return {}

    def invoke(self, arguments: dict[str, Any]) -> Any:
        return "done"


def test_a_tool_is_called_like_the_function_it_came_from():
    assert multiply(3, right=4) == 12
    assert multiply.__name__ == "multiply"
    assert multiply.__doc__ == "Multiply two numbers."
    assert list(inspect.signature(multiply).parameters) == ["left", "right"]
    assert repr(multiply) == "<tool 'multiply'>"


def test_invoke_takes_what_validate_returns_and_fills_in_defaults():
    arguments = multiply.validate('{"left": "4"}')
    assert arguments == {"left": 4, "right": 2}
    assert multiply.invoke(arguments) == 8


def test_name_and_description_come_from_the_function_unless_given():
    assert multiply.definition.name == multiply.name == "multiply"
    assert multiply.definition.description == "Multiply two numbers."

    @tool(name="Get the weather!", description="Tells the weather.", timeout=2.5)
    def undocumented(city):
        return city

    assert undocumented.definition.name == "Gettheweather"
    assert undocumented.definition.description == "Tells the weather."
    assert undocumented.timeout == 2.5
    assert undocumented.on_crash == "retry"


async def _await(value: Any) -> Any:
    return await value


def _run(value: Any) -> Any:
    return asyncio.run(_await(value))


def test_an_async_tool_says_so_and_gives_an_awaitable():
    assert fetch.is_async
    assert not multiply.is_async
    assert _run(fetch.invoke({"url": "a"})) == "page a"
    assert _run(fetch("b")) == "page b"


def test_a_method_taken_from_an_instance_is_bound_to_it():
    child = Child()
    assert child.search("dune", limit=1) == ["child", "dune"]
    assert child.search.invoke(child.search.validate('{"query": "dune", "limit": 1}')) == ["child", "dune"]
    assert child.search.timeout == 5
    assert child.ask.is_async
    assert _run(child.ask.invoke({"question": "why"})) == "child: why"
    assert list(inspect.signature(child.search).parameters) == ["query", "limit"]


def test_the_definition_of_a_method_leaves_self_out_bound_or_not():
    assert list(Base.search.definition.parameters["properties"]) == ["query", "limit"]
    assert Base().search.definition is Base.search.definition


def test_two_instances_do_not_share_their_binding():
    base, child = Base(), Child()
    taken = base.search
    assert child.search("x", 1) == ["child", "x"]
    assert taken("x", 1) == ["base", "x"]
    assert taken.bind(child)("x", 1) == ["base", "x"]
    assert Base.search.bind(child)("x", 1) == ["child", "x"]


def test_a_method_taken_from_the_class_is_called_with_an_instance_as_functions_are():
    assert Base.search(Base(), "x", 1) == ["base", "x"]
    with pytest.raises(UsageError, match=r"'search' is a method: take it from an instance"):
        Base.search.invoke({"query": "x"})


def test_static_methods_and_borrowed_tools_do_not_take_the_instance():
    base = Base()
    assert base.shout.invoke({"text": "a"}) == "A"
    assert base.shout("a") == Base.shout("a") == "A"
    assert base.whisper.invoke({"text": "A"}) == "a"
    assert base.borrowed is multiply
    assert multiply.bind(base) is multiply


def test_documented_callables_become_tools():
    def plain(text: str) -> str:
        """Return it."""
        return text

    def power(base: int, exponent: int) -> int:
        """Raise to a power."""
        return base**exponent

    square = as_tool(functools.partial(power, exponent=2))
    assert as_tool(plain).definition.name == "plain"
    assert (square.definition.name, square.definition.description) == ("power", "Raise to a power.")
    assert square.invoke({"base": 3}) == 9
    assert as_tool(Adder()).definition.description == "Add one."
    assert as_tool(Adder()).invoke({"number": 1}) == 2
    assert as_tool(Undocumented()).definition.description == "Subtract one."
    assert as_tool(Child().prefix.join).definition.name == "join"


def test_callable_objects_and_partials_of_async_functions_are_async():
    assert as_tool(AsyncGreeter()).is_async
    assert as_tool(functools.partial(AsyncGreeter().__call__, "ann")).is_async
    assert not as_tool(Adder()).is_async


def test_tools_of_any_make_are_taken_as_they_are():
    foreign = ForeignTool()
    assert as_tool(foreign) is foreign
    assert as_tool(multiply) is multiply


def test_a_missing_docstring_is_refused_at_decoration_with_the_remedy():
    with pytest.raises(UsageError, match=r"'nameless' has no docstring.*under its `def`, or give description="):

        @tool
        def nameless(x: int) -> int:
            return x


@pytest.mark.parametrize("candidate", [42, "search", None, classmethod(lambda cls: None)])
def test_what_cannot_be_called_is_no_tool(candidate):
    with pytest.raises(UsageError, match="is not a tool"):
        as_tool(candidate)


@pytest.mark.parametrize("on_crash", ["again", None, 3])
def test_an_unknown_on_crash_is_refused_with_the_choices(on_crash):
    with pytest.raises(UsageError, match=rf"'multiply': on_crash is {on_crash!r}; write 'retry'.*'ask'.*function"):
        FunctionTool(multiply, on_crash=on_crash)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "5"])
def test_a_timeout_that_is_no_positive_number_is_refused(timeout):
    with pytest.raises(UsageError, match=r"timeout is .* above 0, or None"):
        FunctionTool(multiply, timeout=timeout)


def test_a_name_that_is_too_long_is_refused():
    with pytest.raises(UsageError, match=r"65 characters.*shorten it, or give name="):
        tool(name="x" * 65)(multiply)


def test_on_crash_takes_a_reconcile_function():
    def reconcile(interrupted: Interrupted) -> Reconciled:
        return interrupted.ask()

    @tool(on_crash=reconcile)
    def pay(amount: int) -> None:
        """Pay."""

    assert pay.on_crash is reconcile


def test_parameters_that_go_by_position_only_or_by_any_name_reach_the_function():
    @tool
    def odd(first: int, /, second: int, *rest: int, third: int = 3, **more: int) -> tuple[Any, ...]:
        """Take all kinds."""
        return first, second, rest, third, more

    arguments = odd.validate('{"first": 1, "second": 2, "colour": 5}')
    assert arguments == {"first": 1, "second": 2, "third": 3, "colour": 5}
    assert odd.invoke(arguments) == (1, 2, (), 3, {"colour": 5})


def test_invoke_refuses_what_validate_would_not_return():
    with pytest.raises(ToolError, match="left: missing, and it is required"):
        multiply.invoke({})


def test_an_annotation_that_does_not_exist_at_run_time_is_named_with_the_remedy():
    @tool
    def price(amount: Decimal) -> int:
        """Tell the price."""
        return int(amount)

    with pytest.raises(UsageError, match=r"'price': its parameters cannot be read: .*'Decimal'.*TYPE_CHECKING"):
        _ = price.definition


def test_a_return_type_that_does_not_exist_at_run_time_does_not_matter():
    @tool
    def price(amount: int) -> Decimal:
        """Tell the price."""
        raise NotImplementedError

    assert price.definition.name == "price"


def test_a_parameter_without_a_json_schema_is_refused_with_the_remedy():
    @tool
    def connect(to: ForeignTool) -> None:
        """Connect."""

    with pytest.raises(UsageError, match=r"'connect': its parameters have no JSON schema.*args_model="):
        _ = connect.definition


def test_an_args_model_must_be_a_model_with_the_fields_that_the_function_takes():
    class Wrong(BaseModel):
        colour: str

    with pytest.raises(UsageError, match="Arguments without a parameter: colour; parameters without an argument: left"):
        _ = FunctionTool(multiply, args_model=Wrong).definition
    with pytest.raises(UsageError, match="which is not a pydantic model"):
        _ = FunctionTool(multiply, args_model=dict).definition  # type: ignore[arg-type]


def test_an_alias_that_hides_a_parameter_is_refused():
    @tool
    def find(query: str = Field(default="", alias="q")) -> str:
        """Find."""
        return query

    with pytest.raises(UsageError, match=r"Arguments without a parameter: q; .* leave out the alias"):
        _ = find.definition


def test_importing_the_tools_and_declaring_one_does_not_import_pydantic():
    program = (
        "import sys\n"
        "from perdure.tools import results, tool, toolset\n"
        "def f(x):\n    'Do it.'\n"
        "assert tool.as_tool(f).name == 'f'\n"
        "assert not {'pydantic', 'docstring_parser', 'jinja2'} & set(sys.modules), 'imported too early'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
