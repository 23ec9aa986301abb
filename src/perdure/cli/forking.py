"""``perdure runs fork`` and ``perdure runs rerun``: another run goes on from a call of one that exists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from perdure.base.errors import UsageError
from perdure.cli import terminal
from perdure.cli.find_runs import run_by_prefix
from perdure.cli.formats import cleaned, command
from perdure.cli.given import call_path, json_value
from perdure.cli.options import JsonOption, RunArgument, StoreOption, looking, named_store, run_async
from perdure.cli.standing import worker_command
from perdure.ports.history_store import InstanceRecord
from perdure.runtime.inspect import agent_of

AtOption = Annotated[
    str,
    typer.Option(
        metavar="N[.M...]",
        help="The call, as `perdure runs show` numbers it under #; 3.1 is call 1 of the child workflow that call 3 is.",
    ),
]
NewIdOption = Annotated[str | None, typer.Option("--id", metavar="NEW", help="The new run's id.")]


class _Fork(msgspec.Struct, frozen=True, kw_only=True):
    """What is wanted: where, and what is different there."""

    at: list[int]
    new_id: str | None
    output: Any = msgspec.UNSET
    input: Any = msgspec.UNSET

    @property
    def edited(self) -> str | None:
        if self.output is not msgspec.UNSET:
            return "output"
        return "input" if self.input is not msgspec.UNSET else None


def fork(
    run: RunArgument,
    *,
    at: AtOption,
    output: Annotated[str | None, typer.Option(metavar="JSON", help="What the call is taken to have returned.")] = None,
    given: Annotated[
        str | None, typer.Option("--input", metavar="JSON", help="What the call is made again with.")
    ] = None,
    new_id: NewIdOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Begin another run that goes on from a call of this one, with another output or input of the call.

    What this run did before is kept, and none of it is done again; the run itself stays as it is. Without --output and
    --input the call is made again as it was.

    Example: perdure runs fork 0198c7 --at 3 --output '{"price": 12}'
    """
    if output is not None and given is not None:
        raise UsageError("give --output or --input, not both")
    wanted = _Fork(
        at=call_path(at),
        new_id=new_id,
        output=msgspec.UNSET if output is None else json_value("--output", output),
        input=msgspec.UNSET if given is None else json_value("--input", given),
    )
    _make(store, run, wanted, as_json=as_json)


def rerun(
    run: RunArgument,
    *,
    at: AtOption,
    new_id: NewIdOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Begin another run that makes a call of this one again, for example after its code was mended.

    Example: perdure runs rerun 0198c7 --at 3
    """
    _make(store, run, _Fork(at=call_path(at), new_id=new_id), as_json=as_json)


def _make(store: Path | None, run: str, wanted: _Fork, *, as_json: bool) -> None:
    source, new_id = run_async(_forked(store, run, wanted))
    path = ".".join(map(str, wanted.at))
    if as_json:
        data = {"id": new_id, "forked_from": source.instance_id, "at": wanted.at, "edited": wanted.edited}
        whose = {"app": source.app_id, "agent": agent_of(source.workflow), "workflow": source.workflow}
        terminal.write_json({**data, **whose})
        return
    what = "makes that call again" if wanted.edited != "output" else "takes that call to have returned what you gave"
    what += " with what you gave" if wanted.edited == "input" else ""
    terminal.out().print(cleaned(new_id), soft_wrap=True)
    terminal.note(cleaned(f"run {new_id} goes on from call #{path} of run {source.instance_id}; it {what}"))
    terminal.note(f"It goes on when its app ({cleaned(source.app_id)}) runs: {worker_command(source)}")
    terminal.note(f"How it stands: {cleaned(command('runs', 'show', new_id, store=named_store(store)))}")


async def _forked(store: Path | None, run: str, wanted: _Fork) -> tuple[InstanceRecord, str]:
    async with looking(store) as runtime:
        record = await run_by_prefix(runtime.store, run)
        new_id = await runtime.fork(
            record.instance_id, wanted.at, output=wanted.output, input=wanted.input, new_instance_id=wanted.new_id
        )
        return record, new_id
