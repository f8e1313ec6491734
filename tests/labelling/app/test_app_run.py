"""The verb `label`: what it prints, how it stops, what it refuses, what it exports."""

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from instructgpt.cli import main
from instructgpt.errors import ConfigError, StorageError
from instructgpt.labelling.app import run as verb
from instructgpt.labelling.app.run import LabelConfig, run
from instructgpt.labelling.store import people
from instructgpt.labelling.store.database import Store, open_store


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"single_user": True, "host": "0.0.0.0"},
            "everybody who reaches 0.0.0.0 would be the administrator",
        ),
        ({"demo": True, "host": "192.168.0.3"}, "everybody who reaches"),
        ({"single_user": True, "host": ""}, "everybody who reaches"),
        ({"port": 70000}, "port is 70000"),
        ({"admin": "ada"}, "without --trusted-header"),
        ({"trusted_header": "X-User"}, "no proxy that may send it"),
        ({"project": "1"}, "--project chooses what to export"),
    ],
)
def test_flags_that_contradict_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LabelConfig(**flags)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.9.1"])
def test_a_single_user_may_bind_to_this_machine(host: str) -> None:
    assert LabelConfig(single_user=True, host=host).settings().single_user


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"can't listen at 127.0.0.1:{port}.*--port 0 takes a free one"
        ):
            run(LabelConfig(port=port, database=f"sqlite:///{tmp_path}/l.db"))


def test_a_database_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises((StorageError, ConfigError)) as error:
        run(LabelConfig(port=0, database=f"sqlite:///{tmp_path}/file/l.db", export="x"))
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError):
        run(LabelConfig(port=0, database="oracle://x/y", export="x"))


def test_missing_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(verb.PACKAGES, "no_such_module", "no-such-package")
    assert main(["label"]) == 2
    told = capsys.readouterr().err
    assert "not installed: no-such-package" in told and 'pip install "instructgpt[label]"' in told


def start(*flags: str) -> tuple[subprocess.Popen[str], str]:
    """The command in a process of its own, and the first line it prints."""
    command = [sys.executable, "-m", "instructgpt", "label", "--port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_address_and_stops_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    process, line = start("--database", f"sqlite:///{tmp_path}/l.db")
    try:
        address = re.fullmatch(r"labelling at (http://127.0.0.1:\d+)/\n", line)
        assert address, (line, process.stderr and process.stderr.read())
        assert process.stdout is not None
        invitation = re.fullmatch(r"first administrator: (\S+)\n", process.stdout.readline())
        assert invitation and invitation[1].startswith(f"{address[1]}/invitation/")
        with urlopen(invitation[1]) as page:
            assert "Administrator" in page.read().decode()
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (0, ""), err
    assert "labels" in out


def test_a_second_start_prints_no_invitation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(tmp_path / "l.db")
    people.create_person(store, "ada", "correct horse battery", "admin", by=None)
    verb._announce(store, LabelConfig(host="0.0.0.0"), "http://localhost:1", "/")
    store.close()
    told = capsys.readouterr().out
    assert "invitation" not in told and "travel unencrypted" in told


def test_export_from_the_command_line(
    store: Store, project: Any, people_here: dict[str, int], tmp_path: Path
) -> None:
    from instructgpt.labelling.store import queue
    from instructgpt.labelling.store.form import Judgement, RankAnswer
    from instructgpt.labelling.store.submit import submit

    made = project("rank", count=1, valid=0.0)
    project("compare", count=1, name="Other: one/two")
    held = queue.next_task(store, people_here["lea"], made.id)
    assert held is not None
    ranks = tuple(Judgement(reply.key, n + 1, 4) for n, reply in enumerate(held.replies))
    submit(store, people_here["lea"], held.token, RankAnswer(ranks))
    config = {"database": str(store.url), "export": str(tmp_path / "out")}
    one = run(LabelConfig(**config, project=str(made.id)))
    assert one["files"]["rankings_train.jsonl"] == 1
    assert (tmp_path / "out" / "rankings_train.jsonl").exists()
    both = run(LabelConfig(**config))
    assert f"{made.id}-a-rank-project/rankings_train.jsonl" in both["files"]
    with pytest.raises(ConfigError, match=r"no project 'x'.*1 \(a rank project\)"):
        run(LabelConfig(**config, project="x"))


def test_feedback_comes_out_with_the_export_until_consent_is_withdrawn(store: Store, tmp_path: Path) -> None:
    from instructgpt.labelling.store.feedback import feedback_from_json, store_feedback

    row = {
        "id": "fb_1",
        "kind": "comparison",
        "prompt": [{"role": "user", "content": "Name a river."}],
        "replies": [{"text": "Paris", "model": "a"}, {"text": "Nile", "model": "b"}],
        "choice": 1,
        "consent": True,
        "user": "ann",
    }
    store_feedback(store, feedback_from_json(row))
    config = {"database": str(store.url), "export": str(tmp_path / "out")}
    files = run(LabelConfig(**config))["files"]  # no project is needed for it
    (name,) = [name for name in files if "rankings" in name]
    assert name.startswith("feedback/") and files[name] == 1
    assert "Nile" in (tmp_path / "out" / name).read_text()
    assert run(LabelConfig(database=str(store.url), withdraw="ann"))["withdrawn"] == 1
    with pytest.raises(ConfigError, match="no project yet"):
        run(LabelConfig(**config))
    with pytest.raises(ConfigError, match="two things were asked at once"):
        LabelConfig(withdraw="ann", quality=True)
