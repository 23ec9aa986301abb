"""Finds what an APP argument means: ``app.py`` or ``package.module``, either with ``:name`` behind it."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from perdure.agents.agent import DurableAgent
from perdure.base.errors import PerdureError, SettingError, UsageError
from perdure.base.ids import agent_workflow_name
from perdure.cli.formats import cleaned, command
from perdure.cli.standing import owner_name
from perdure.workflows.registry import Registry, default_registry
from perdure.workflows.schedules import SCHEDULE_WORKFLOW, add_schedules

_NO_SUCH_NAME = re.compile(r"cannot import name '(?P<name>[^']+)' from '(?P<module>[^']+)'")


def load_agent(app: str) -> DurableAgent:
    """Return the agent that an APP argument means.

    Raises:
        UsageError: no such file or module, it cannot be imported, or it does not hold exactly one agent; the message
            lists what was found.
    """
    place, name = _parted(app)
    module = _module_of(place)
    agents = agents_of(vars(module))
    if name is not None:
        if name in agents:
            return agents[name]
        held = f"it holds {vars(module)[name]!r:.80}" if name in vars(module) else "there is no such name"
        raise UsageError(f"{place}:{name} is no DurableAgent: {held}. {_found(place, agents)}")
    distinct = {id(agent): key for key, agent in agents.items()}
    if len(distinct) == 1:
        return next(iter(agents.values()))
    if agents:
        raise UsageError(f"{place} holds several agents: say which one. {_found(place, agents)}")
    raise UsageError(f"{place} holds no DurableAgent in its globals. {_to_do_without(place, vars(module))}")


def load_registry(app: str) -> Registry:
    """Return the code that an APP argument means: what its decorators registered with its agents, or what it names.

    Raises:
        UsageError: no such file or module, it cannot be imported, or it holds no workflow and no agent.
    """
    place, name = _parted(app)
    module = _module_of(place)
    agents = agents_of(vars(module))
    registry = default_registry
    if name is not None:
        named = vars(module).get(name)
        if isinstance(named, Registry):
            registry = named
        elif name in agents:
            agents = {name: agents[name]}
        else:
            raise UsageError(f"{place}:{name} is neither a DurableAgent nor a Registry. {_found(place, agents)}")
    if registry is default_registry:
        for agent in agents.values():
            agent.register(registry)
    add_schedules(registry)
    if not workflow_names(registry):
        raise UsageError(
            f"{place} registers no workflow and holds no DurableAgent in its globals. {_instead(vars(module))}, "
            "or mark workflow functions with @workflow; name a Registry of your own as app.py:registry"
        )
    return registry


def workflow_names(registry: Registry) -> list[str]:
    """Return the names of an app's workflows, of agents the agents' own, sorted."""
    names = {code.name for code in registry.workflows.values()} - {SCHEDULE_WORKFLOW}
    return sorted(owner_name(name) for name in names)


def known_workflow(registry: Registry, app: str, workflow: str) -> str:
    """Return the name that a workflow or an agent is registered under.

    Raises:
        UsageError: the app holds none of this name; the message lists those that it holds.
    """
    if registry.newest(workflow) in registry.workflows:
        return workflow
    with contextlib.suppress(ValueError):
        if agent_workflow_name(workflow) in registry.workflows:
            return agent_workflow_name(workflow)
    names = ", ".join(workflow_names(registry))
    raise UsageError(f"{app} holds no workflow {cleaned(workflow)!r}; it holds: {cleaned(names)}")


def agents_of(names: Mapping[str, object]) -> dict[str, DurableAgent]:
    """Return the agents among some globals, by name."""
    return {name: value for name, value in names.items() if isinstance(value, DurableAgent)}


def _parted(app: str) -> tuple[str, str | None]:
    place, colon, name = app.rpartition(":")
    return (place, name) if colon and name.isidentifier() else (app, None)


def _found(place: str, agents: Mapping[str, DurableAgent]) -> str:
    if not agents:
        return "It holds no agent at all."
    listed = ", ".join(f"{place}:{key} ({agent.name})" for key, agent in agents.items())
    return f"Found: {listed}"


def _to_do_without(place: str, names: Mapping[str, object]) -> str:
    """Return what to do with a file that was to hold an agent."""
    registries = {f"{place}:{name}": value for name, value in names.items() if isinstance(value, Registry)}
    for app, registry in {place: default_registry, **registries}.items():
        workflows = workflow_names(registry)
        if workflows:
            listed = ", ".join(workflows)
            return (
                f"It holds the workflows: {listed}; `{command('work', app)}` executes them, and "
                f"`{command('runs', 'start', app, workflows[0])}` starts one"
            )
    return _instead(names)


def _instead(names: Mapping[str, object]) -> str:
    classes = [name for name, value in names.items() if _is_own_subclass(value)]
    if classes:
        return f"The class {classes[0]} is one: make an instance, agent = {classes[0]}()"
    public = [name for name in names if not name.startswith("_")]
    return f"Found: {', '.join(public[:12]) or 'nothing'}. Write: agent = DurableAgent(name='...', ...)"


def _is_own_subclass(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, DurableAgent) and value is not DurableAgent


def _module_of(place: str) -> ModuleType:
    path = Path(place)
    if path.suffix != ".py" and not path.exists():
        return _imported(place)
    if not path.is_file():
        here = sorted(found.name for found in (path if path.is_dir() else path.parent).glob("*.py"))
        raise UsageError(f"there is no file {place}. Python files there: {', '.join(here[:12]) or 'none'}")
    return _executed(path)


def _imported(name: str) -> ModuleType:
    _make_importable(Path.cwd())
    try:
        found = importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        raise UsageError(f"there is no file and no module {name!r}; give a Python file, such as app.py")
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise _unloadable(name, error) from error


def _executed(path: Path) -> ModuleType:
    _make_importable(path.resolve().parent)
    # Under its own name, so that what the file defines is found again by that name; never over a module that exists.
    name = path.stem if path.stem.isidentifier() and path.stem not in sys.modules else f"perdure_app_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file; give one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise _unloadable(str(path), error) from error
    return module


def _make_importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _unloadable(place: str, error: BaseException) -> UsageError:
    if isinstance(error, SettingError):
        # What is wrong stands in no file.
        return error
    if isinstance(error, SyntaxError):
        file = error.filename or place
        file = place if Path(file).resolve() == Path(place).resolve() else file
        text, where = f"{type(error).__name__}: {error.msg}", f" ({file}, line {error.lineno})"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if Path(frame.filename).name == Path(place).name]
        where = f" ({place}, line {own[-1].lineno})" if own else ""
        text = str(error) if isinstance(error, PerdureError) else f"{type(error).__name__}: {error}"
    return UsageError(f"{place} could not be loaded: {text}{where}{_guess(error)}")


def _guess(error: BaseException) -> str:
    """Return which name was meant by an import of a name that its module lacks."""
    found = _NO_SUCH_NAME.match(str(error)) if isinstance(error, ImportError) else None
    module = None if found is None else sys.modules.get(found["module"])
    if found is None or module is None:
        return ""
    near = difflib.get_close_matches(found["name"], dir(module), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
