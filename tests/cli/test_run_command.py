from __future__ import annotations

import re
import signal
import time

import msgspec
from tests.cli.harness import ANSWER, WHOLE_LOG, Cli, until


def test_the_answer_goes_to_stdout_and_the_story_to_stderr(cli: Cli):
    cli.app()
    cli.let_go()
    done = cli("run", "app.py", "deliver it")
    assert (done.returncode, done.stdout) == (0, ANSWER + "\n")
    told = done.stderr
    order = ["turn 1", 'lookup(word="address")', "turn 2", 'deliver(parcel="box")', "turn 3", "each recorded once"]
    assert sorted(order, key=told.index) == order
    assert "3 model calls, 2 tool calls, each recorded once" in told
    assert "printed by a tool" in told
    assert "\x1b" not in told


def test_quiet_writes_the_answer_only(cli: Cli):
    cli.app()
    cli.let_go()
    done = cli("run", "app.py", "deliver it", "--quiet")
    assert done.stdout == ANSWER + "\n"
    assert done.stderr == "printed by a tool\n"


def test_json_is_all_that_stdout_gets(cli: Cli):
    cli.app()
    cli.let_go()
    data = msgspec.json.decode(cli("run", "app.py", "deliver it", "--json").stdout)
    assert (data["status"], data["answer"], data["resumed"]) == ("COMPLETED", ANSWER, False)
    assert (data["model_calls"], data["tool_calls"], data["recorded_once"]) == (3, 2, True)


def test_after_a_kill_the_same_command_goes_on_and_repeats_only_what_was_cut_off(cli: Cli):
    cli.app()
    cli.killed_in_delivery("deliver it")
    cli.let_go()
    done = cli("run", "app.py", "deliver it")
    assert (done.returncode, done.stdout) == (0, ANSWER + "\n")
    assert "resuming run" in done.stderr
    assert "begun" in done.stderr
    assert 'lookup(word="address")' in done.stderr
    assert "recorded earlier" in done.stderr
    assert cli.log() == ["model 0", "lookup address", "model 1", "deliver box", "deliver box", "model 2"]
    assert "2 tool calls, each recorded once; 1 call cut off by a crash and begun again" in done.stderr
    (run,) = cli.json("runs", "list")
    assert (run["status"], run["recoveries"]) == ("COMPLETED", 1)
    shown = cli.json("runs", "show", run["id"])
    assert [step["interruptions"] for step in shown["timeline"] if step["role"] == "tool"] == [0, 1]


def test_a_call_that_goes_on_after_a_crash_is_not_said_to_be_still_running(cli: Cli):
    cli.app()
    cli.killed_in_delivery("deliver it")
    process = cli.start("run", "app.py", "deliver it")
    until(lambda: cli.log().count("deliver box") == 2)
    # It tells of what takes longer than a second.
    time.sleep(1.5)
    cli.let_go()
    _, told = process.communicate(timeout=20)
    assert "cut off by a crash, running again" in told
    assert "still running" not in told


def test_another_question_begins_another_run_and_leaves_the_unfinished_one_alone(cli: Cli):
    """It was begun with a question, and perhaps a model, of its own."""
    cli.app()
    cli.killed_in_delivery("deliver it")
    cli.let_go()
    done = cli("run", "app.py", "something else")
    assert done.returncode == 0
    assert "resuming" not in done.stderr
    assert "1 other unfinished run of Courier waits: perdure run app.py goes on" in done.stderr
    assert [run["status"] for run in cli.json("runs", "list")] == ["COMPLETED", "RUNNING"]
    assert cli("run", "app.py").stdout == ANSWER + "\n"
    assert {run["status"] for run in cli.json("runs", "list")} == {"COMPLETED"}


def test_a_question_that_was_answered_is_asked_again_and_that_is_said(cli: Cli):
    cli.app()
    cli.let_go()
    first = cli("run", "app.py", "deliver it")
    assert "was answered" not in first.stderr
    (run,) = cli.json("runs", "list")
    again = cli("run", "app.py", "deliver it")
    when = r"(just now|\d+(\.\d+)? s ago)"
    told = rf"this question was answered {when} \(perdure runs show {run['id']}\); it is asked again\n"
    assert re.search(told, again.stderr)
    assert "was answered" not in cli("run", "app.py", "another").stderr
    assert len(cli.json("runs", "list")) == 3


def test_new_begins_a_new_run_of_the_same_question(cli: Cli):
    cli.app()
    cli.killed_in_delivery("deliver it")
    cli.let_go()
    done = cli("run", "app.py", "deliver it", "--new")
    assert done.returncode == 0
    assert "resuming" not in done.stderr
    assert len(cli.json("runs", "list")) == 2


def test_without_a_question_all_unfinished_runs_go_on(cli: Cli):
    cli.app()
    cli.killed_in_delivery("first")
    process = cli.start("run", "app.py", "second")
    until(lambda: cli.log().count("deliver box") == 2)
    process.kill()
    process.communicate(timeout=10)
    cli.let_go()
    done = cli("run", "app.py")
    assert done.returncode == 0
    assert done.stderr.count("resuming run") == 2
    assert done.stdout.count(ANSWER) == 2
    assert {run["status"] for run in cli.json("runs", "list")} == {"COMPLETED"}


def test_without_a_question_and_without_unfinished_runs_it_says_so(cli: Cli):
    cli.app()
    done = cli("run", "app.py")
    assert (done.returncode, done.stdout) == (0, "")
    assert "no unfinished run of Courier" in done.stderr
    assert cli.json("run", "app.py") == []


def test_an_id_attaches_and_refuses_another_question(cli: Cli):
    cli.app()
    cli.let_go()
    assert cli("run", "app.py", "deliver it", "--id", "parcel-1").returncode == 0
    again = cli("run", "app.py", "deliver it", "--id", "parcel-1")
    assert again.stdout == ANSWER + "\n"
    assert cli.log() == WHOLE_LOG
    other = cli("run", "app.py", "deliver another", "--id", "parcel-1")
    assert other.returncode == 1
    assert "it is a run of agent 'Courier' with another input" in other.stderr
    new = cli("run", "app.py", "deliver it", "--id", "parcel-1", "--new")
    assert new.returncode == 1
    assert "leave --new out" in new.stderr


def test_ctrl_c_lets_the_running_tool_finish_and_the_same_command_goes_on(cli: Cli):
    cli.app()
    process = cli.start("run", "app.py", "deliver it")
    until(lambda: "deliver box" in cli.log())
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    until(lambda: "Ctrl-C again" in process.stderr.readline())  # type: ignore[union-attr]
    cli.let_go()
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert cli("run", "app.py", "deliver it").stdout == ANSWER + "\n"
    assert cli.log() == WHOLE_LOG


def test_a_second_ctrl_c_leaves_at_once(cli: Cli):
    cli.app()
    process = cli.start("run", "app.py", "deliver it")
    until(lambda: "deliver box" in cli.log())
    process.send_signal(signal.SIGINT)
    told: list[str] = []
    assert process.stderr is not None
    until(lambda: told.append(process.stderr.readline()) or "Ctrl-C again" in told[-1])  # type: ignore[func-returns-value, union-attr]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=5)
    assert process.returncode == 130
    assert "perdure run app.py 'deliver it'" in "".join(told)


FAILING = """
from perdure import DurableAgent, WorkflowRetryPolicy
from perdure.base.errors import ModelError, ModelUnavailableError
from perdure.llm.scripted import ScriptedModel

def answer(request):
    raise @error@("the moon is in the way")

policy = WorkflowRetryPolicy(max_attempts=2, initial_backoff_seconds=0.01)
agent = DurableAgent(name="Moon", llm=ScriptedModel(answer), retry_policy=policy)
"""


def test_a_failed_run_says_why_and_what_to_do(cli: Cli):
    cli.write(FAILING.replace("@error@", "ModelError"))
    done = cli("run", "app.py", "shine")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the moon is in the way" in done.stderr
    assert "What to do: check the model's name" in done.stderr
    assert "perdure runs show" in done.stderr
    assert "Traceback" not in done.stderr
    failed = cli.json("run", "app.py", "shine again")
    assert (failed["status"], failed["failure"]["type"]) == ("FAILED", "AgentError")


def test_a_script_that_is_over_says_so(cli: Cli):
    cli.app()
    cli.write("- tool: lookup\n  arguments: {word: address}\n", "short.yaml")
    done = cli("run", "app.py", "deliver it", "--model", "scripted:short.yaml")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the script short.yaml has 1 reply, and the conversation asks for number 2" in done.stderr
    assert "What to do: add replies to the script" in done.stderr


def test_retries_are_told_with_their_reason(cli: Cli):
    cli.write(FAILING.replace("@error@", "ModelUnavailableError"))
    done = cli("run", "app.py", "shine")
    assert done.returncode == 1
    assert "↻ model failed: ModelUnavailableError: the moon is in the way; attempt 2 in" in done.stderr


def test_a_model_can_be_chosen(cli: Cli):
    cli.app()
    assert cli("run", "app.py", "hello", "--model", "echo").stdout == "You said: hello\n"


APP_WITHOUT_MODEL = """
from perdure import DurableAgent, tool

@tool
def deliver() -> str:
    '''Deliver.'''
    return 'delivered'

agent = DurableAgent(name="Forgetful", tools=[deliver])
"""


def test_the_echo_says_that_it_is_one(cli: Cli):
    (cli.folder / "echoing.py").write_text(APP_WITHOUT_MODEL)
    done = cli("run", "echoing.py", "hello")
    assert done.returncode == 0
    assert "the echo model only repeats the question" in done.stderr
    assert "echo model" not in cli("run", "echoing.py", "hello", "--model", "echo").stderr


def test_the_echo_does_not_finish_what_another_model_began(cli: Cli):
    cli.app()
    cli.killed_in_delivery("deliver it")
    source = (cli.folder / "app.py").read_text()
    (cli.folder / "app.py").write_text(source + "\nagent.llm = 'echo'\n")
    done = cli("run", "app.py", "deliver it")
    assert done.returncode == 1
    assert "was begun with the model" in done.stderr
    assert "--model" in done.stderr


def test_an_app_goes_on_with_its_own_runs_only(cli: Cli):
    cli.app()
    cli.killed_in_delivery("deliver it")
    cli.let_go()
    other = cli("run", "app.py", "deliver it", "--app-id", "other")
    assert other.returncode == 0
    assert "resuming" not in other.stderr
    assert "unfinished" not in other.stderr
    assert {(run["app"], run["status"]) for run in cli.json("runs", "list")} == {
        ("default", "RUNNING"),
        ("other", "COMPLETED"),
    }
    own = cli("run", "app.py", "deliver it")
    assert "resuming run" in own.stderr
    assert cli.log()[4:] == [*WHOLE_LOG, "deliver box", "model 2"]
