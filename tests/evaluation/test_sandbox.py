"""The sandbox: right programs pass, and nothing a program tries gets out."""

import os
import sys
from pathlib import Path

import pytest

from instructgpt.evaluation.sandbox.run import can_filter, run_program, run_programs
from instructgpt.evaluation.sandbox.system_calls import program

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs limits of processes")


@pytest.fixture
def filtered() -> None:
    if not can_filter():
        pytest.skip("this system does not let a process filter its system calls")


def test_right_and_wrong_programs() -> None:
    sources = ["assert 1 + 1 == 2", "assert 1 + 1 == 3", "print('x' * 10**6)", "def f(:", "1 / 0"]
    outcomes = run_programs(sources, filtered=False)
    assert [outcome.passed for outcome in outcomes] == [True, False, True, False, False]
    reasons = [outcome.reason for outcome in outcomes]
    assert reasons[1].startswith("failed AssertionError") and reasons[3].startswith("failed SyntaxError")
    assert reasons[4] == "failed ZeroDivisionError: 'division by zero'"


@pytest.mark.parametrize(
    "source",
    [
        "raise SystemExit(0)",
        "import os; os._exit(0)",
        "import sys; sys.stdout.write('passed'); sys.exit()",
        "import os\nwhile os.write(os.dup(3), b'passed\\n'): pass",
        "raise KeyboardInterrupt",
    ],
)
def test_leaving_early_is_no_pass(source: str) -> None:
    assert not run_program(source, filtered=False).passed


def test_time_and_memory_are_limited() -> None:
    assert run_program("while True: pass", cpu_seconds=1, filtered=False).reason == "out of time"
    outcome = run_program("x = bytearray(1 << 31)", filtered=False)
    assert not outcome.passed or sys.platform == "darwin"
    assert not run_program("open('x', 'w').write('y' * 10**6)", filtered=False).passed


def test_the_environment_is_not_handed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_USER", "x")
    source = "import os; assert 'SECRET_OF_THE_USER' not in os.environ; assert os.listdir('.') == []"
    assert run_program(source, filtered=False).passed


@pytest.mark.usefixtures("filtered")
@pytest.mark.parametrize(
    "source",
    [
        "import socket; socket.socket()",
        "import socket; socket.socketpair()",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.fork()",
        "import os; os.execv('/bin/true', ['true'])",
        "import os; os.system('true') and 1 / 0",
        "import os; os.kill(os.getppid(), 0)",
        "open('new', 'w')",
        "open({here!r}, 'r+')",
        "import os; os.remove({here!r})",
        "import os; os.rename({here!r}, {here!r} + '2')",
        "import os; os.mkdir('new')",
        "import os; os.chmod({here!r}, 0)",
        "import os; os.utime({here!r})",
        "import os; os.truncate({here!r}, 0)",
        "import os; os.symlink('a', 'b')",
        "import resource as r; r.setrlimit(r.RLIMIT_CPU, (9, 9))",
    ],
)
def test_what_a_program_may_not_do(source: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("whole")
    outcome = run_program(source.replace("{here!r}", repr(str(victim))))
    assert not outcome.passed and "Error" in outcome.reason, outcome
    assert victim.read_text() == "whole" and list(tmp_path.iterdir()) == [victim]


@pytest.mark.usefixtures("filtered")
def test_what_a_program_may_do(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("read me")
    source = f"""
import collections, hashlib, itertools, json, math, random, re, threading, typing
assert open({str(text)!r}).read() == "read me"
found = []
thread = threading.Thread(target=lambda: found.append(1))
thread.start()
thread.join()
assert found == [1]
import resource
resource.getrlimit(resource.RLIMIT_CPU)
print("said", flush=True)
"""
    assert run_program(source).reason == "passed"


def test_filters_jump_within_themselves() -> None:
    """Every jump of both machines' filters lands on an instruction, and the last one returns."""
    for machine in ("x86_64", "aarch64"):
        lines = program(machine)
        for number, (code, yes, no, _) in enumerate(lines):
            assert code == 0x06 or number + 1 + max(yes, no) < len(lines)
        assert lines[-1][0] == 0x06
