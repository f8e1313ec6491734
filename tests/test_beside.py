"""Stages at the same time: which may, what comes back, and how they end."""

import operator
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from instructgpt.beside import run_beside, waves
from instructgpt.errors import DataError, InstructGPTError

# Processes find the work of these tests by its name.
WORK = """
import os, signal, sys, time
from pathlib import Path
import torch
from instructgpt.errors import DataError

def threads():
    return torch.get_num_threads(), os.getpid()

def say(text):
    print(text, file=sys.stderr)
    sys.stderr.write("half")
    sys.stderr.write(" and half\\n")

def fail(other):
    while not Path(other).exists():  # until the other one works
        time.sleep(0.01)
    raise DataError("a line is broken", "data.jsonl:7", "mend it")

def save(started, saved):
    Path(started).write_text("")
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        Path(saved).write_text("saved")
        raise

def meet(own, other):
    Path(own).write_text("")
    while not Path(other).exists():
        time.sleep(0.01)
    return own
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "work_of_the_test.py").write_text(WORK, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    import work_of_the_test

    return work_of_the_test


def cut(*stages: tuple[str, dict]) -> list[list[str]]:
    return [[stages[i][0] for i in wave] for wave in waves(stages)]


def test_neighbours_that_need_nothing_of_one_another_go_together() -> None:
    assert cut(
        ("sft", {"data": "d.jsonl", "epochs": 2}),
        ("reward", {"model": "{sft}"}),
        ("ppo", {"model": "{sft}", "reward": "{reward}"}),
        ("ppo_ptx", {"model": "{sft}", "reward": "{reward}"}),
        ("more", {"model": "{sft}"}),
        ("evaluate", {"models": ["ppo={ppo}", "ppo_ptx={ppo_ptx}"]}),
    ) == [["sft"], ["reward"], ["ppo", "ppo_ptx", "more"], ["evaluate"]]


@pytest.mark.parametrize(
    ("values", "together"),
    [
        ({"data": "{folder}/a/x.jsonl"}, False),
        ({"data": ["y", "sft={folder}/a"]}, False),
        ({"data": "{folder}/a,{folder}/z"}, False),
        ({"folder": "{folder}"}, False),  # a report reads everything
        ({"data": "{folder}/ab/x.jsonl"}, True),  # another stage's name begins alike
        ({"data": "a"}, True),
        ({}, True),
    ],
)
def test_a_path_into_the_run_folder_names_a_stage(values: dict, together: bool) -> None:
    assert cut(("a", {}), ("b", values)) == ([["a", "b"]] if together else [["a"], ["b"]])


def test_results_come_in_the_order_of_the_calls() -> None:
    calls = [(str(n), (2, n)) for n in (5, 1, 3)]
    assert run_beside(operator.pow, calls, jobs=2, threads=1) == [32, 2, 8]


def test_each_works_in_another_process_with_its_threads(work, tmp_path: Path) -> None:
    found = run_beside(work.threads, [("a", ()), ("b", ())], jobs=2, threads=3)
    assert [threads for threads, _ in found] == [3, 3]
    assert os.getpid() not in {pid for _, pid in found}


def test_they_run_at_the_same_time(work, tmp_path: Path) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")  # each waits for the other
    assert run_beside(work.meet, [("a", (a, b)), ("b", (b, a))], jobs=2, threads=1) == [a, b]


def test_lines_carry_the_name_of_their_stage(work, capfd) -> None:
    run_beside(work.say, [("ppo", ("one",)), ("ppo_ptx", ("two",))], jobs=1, threads=1)
    assert capfd.readouterr().err.splitlines() == [
        "ppo: one",
        "ppo: half and half",
        "ppo_ptx: two",
        "ppo_ptx: half and half",
    ]


def test_when_one_fails_the_other_saves_and_the_error_comes_back(work, tmp_path: Path) -> None:
    started, saved = tmp_path / "started", tmp_path / "saved"
    (tmp_path / "work_of_both.py").write_text(
        "import work_of_the_test as w\ndef both(what, *a):\n    return getattr(w, what)(*a)\n"
    )
    import work_of_both

    calls = [("a", ("fail", str(started))), ("b", ("save", str(started), str(saved)))]
    with pytest.raises(DataError) as caught:
        run_beside(work_of_both.both, calls, jobs=2, threads=1)
    assert str(caught.value) == "a line is broken (data.jsonl:7). To mend it: mend it."
    assert saved.read_text() == "saved"


def test_at_ctrl_c_all_save(work, tmp_path: Path) -> None:
    names = ("a", "b")
    calls = [(n, (str(tmp_path / f"{n}.started"), str(tmp_path / f"{n}.saved"))) for n in names]

    def interrupt() -> None:
        while not all((tmp_path / f"{n}.started").exists() for n in names):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        run_beside(work.save, calls, jobs=2, threads=1)
    watcher.join()
    assert all((tmp_path / f"{n}.saved").exists() for n in names)


def test_an_error_is_the_same_in_another_process() -> None:
    import pickle

    class_and_words = DataError("a line is broken", "data.jsonl:7", "mend it")
    back = pickle.loads(pickle.dumps(class_and_words))
    assert type(back) is DataError and str(back) == str(class_and_words)
    assert (back.what, back.where, back.cure) == ("a line is broken", "data.jsonl:7", "mend it")
    assert isinstance(back, InstructGPTError) and isinstance(back, ValueError)
