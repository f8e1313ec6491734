"""The verb: flags, what is printed and written, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from instructgpt import __version__, cli
from instructgpt.config import parse
from instructgpt.doctor import installed as installed_module
from instructgpt.doctor import rates
from instructgpt.doctor import run as verb
from instructgpt.doctor.certificate import Outcome, Setting
from instructgpt.doctor.extras import DOWNLOADS, GIVES
from instructgpt.doctor.installed import installed
from instructgpt.doctor.invariants import Finding
from instructgpt.doctor.report import installed_table
from instructgpt.doctor.run import DoctorConfig, run
from instructgpt.doctor.self_test import Check, SelfTest
from instructgpt.errors import CheckError, ConfigError, Interrupted

EASY = Setting("flat", "structured", 0.5)


@pytest.fixture
def figures(monkeypatch) -> dict:
    """The certificate without its training: every run reaches `raw`, the one invariant is off by `far`."""
    given = {"raw": 0.999, "far": 1e-6, "jobs": [], "processes": None}

    def run_jobs(jobs, device, processes, on_outcome):
        given["jobs"], given["processes"] = jobs, processes
        outcomes = [Outcome(s, seed, given["raw"], given["raw"], 1.0, 1.0, 1.0) for s, seed in jobs]
        for outcome in outcomes:
            on_outcome(outcome)
        return outcomes

    monkeypatch.setattr(verb, "run_jobs", run_jobs)
    monkeypatch.setattr(verb, "check_invariants", lambda device: [Finding(2, "one", given["far"], 1e-4)])
    return given


def test_what_is_installed() -> None:
    found = installed(torch.device("cpu"))
    assert found["instructgpt"] == __version__
    assert found["packages"]["torch"] == torch.__version__.split("+")[0] or found["packages"]["torch"]
    assert "torch" in found["needed"] and "gguf" in found["extras"]
    assert not any(extra["missing"] for extra in found["extras"].values())
    assert found["cores"] >= 1 and found["threads"] == torch.get_num_threads()
    table = installed_table(found)
    assert f"device          cpu ({found['device_name']})" in table and "extra gguf      installed:" in table
    assert max(map(len, table.splitlines())) <= 80


def test_a_missing_extra_is_named_with_its_cure(monkeypatch) -> None:
    needs = ["torch>=2.9", 'gguf>=0.17; extra == "gguf"', "no-such-thing>=1; extra == 'eval'",
             'instructgpt[gguf,eval]; extra == "test"', 'also_not-there; extra == "eval"',
             "for-developers-only; extra == 'mutate'", "absent[more]>=2; extra == 'new'",
             "not-installed>=3"]  # fmt: skip
    monkeypatch.setattr(installed_module.metadata, "requires", lambda name: needs)
    monkeypatch.setitem(DOWNLOADS, "no-such-thing", 12.4)
    monkeypatch.setitem(DOWNLOADS, "also_not-there", 20.0)
    found = installed(torch.device("cpu"))
    assert set(found["extras"]) == {"gguf", "eval", "new"}
    assert found["extras"]["eval"] == {
        "gives": GIVES["eval"],
        "packages": ["no-such-thing", "also_not-there"],
        "missing": ["no-such-thing", "also_not-there"],
        "download_mb": pytest.approx(32.4),
    }
    assert "instructgpt" not in found["packages"] and found["packages"]["gguf"]
    lines = installed_table(found).splitlines()
    table = " ".join(" ".join(lines).split())
    assert (
        f"extra eval MISSING: {GIVES['eval']}. It lacks no-such-thing, also_not-there, about 32 MB (measured"
        in table
    )
    assert "pip install 'instructgpt[eval]'" in table and max(map(len, lines)) <= 80
    assert "extra new MISSING: needs absent. It lacks absent, of unknown size" in table
    assert "MISSING not-installed: pip install instructgpt" in table
    monkeypatch.setattr(installed_module, "_requirements", list)
    assert "not installed" in installed_table(installed(torch.device("cpu")))


def test_every_extra_of_this_package_says_what_it_gives_and_costs() -> None:
    for name, extra in installed(torch.device("cpu"))["extras"].items():
        assert name in GIVES, f"say in doctor/extras.py what {name} gives"
        assert set(extra["packages"]) <= set(DOWNLOADS), f"measure what {name} downloads (doctor/extras.py)"


def test_certify_stands_alone_or_with_a_kind(tmp_path: Path) -> None:
    assert parse(DoctorConfig, [], "doctor").certify == ""
    assert parse(DoctorConfig, ["--certify"], "doctor").certify == "quick"
    assert parse(DoctorConfig, ["--certify", "--device", "cpu"], "doctor").certify == "quick"
    assert parse(DoctorConfig, ["--certify", "full"], "doctor").certify == "full"
    (tmp_path / "doctor.toml").write_text('certify = "full"\nprocesses = 1\n')
    given = parse(DoctorConfig, ["--config", str(tmp_path / "doctor.toml")], "doctor")
    assert (given.certify, given.processes) == ("full", 1)
    with pytest.raises(ConfigError, match="quick or full"):
        parse(DoctorConfig, ["--certify", "half"], "doctor")
    with pytest.raises(ConfigError, match="--processes"):
        DoctorConfig(processes=-1)


@pytest.fixture
def examined(monkeypatch) -> dict:
    """The plain verb without its minute: rates of a small matrix, a self-test that found what it is told."""
    given = {"found": SelfTest([Check("sft", "replies that end", 0.95, "at least", 0.9)]), "tested": 0}

    def run_self_test(device):
        given["tested"] += 1
        return given["found"]

    monkeypatch.setattr(verb, "run_self_test", run_self_test)
    monkeypatch.setitem(rates._SIDES, "cpu", 32)
    monkeypatch.setattr(rates, "_COPIED", 1 << 16)
    return given


def test_the_plain_verb_measures_and_tests_itself(figures, examined, capsys) -> None:
    assert cli.main(["doctor", "--device", "cpu", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert figures["jobs"] == [] and "certificate" not in summary and examined["tested"] == 1
    assert summary["installed"]["device"] == "cpu"
    machine = summary["machine"]
    assert machine["device_reason"] == "--device cpu" and machine["dtype"] == "float32"
    assert machine["matmul"]["float32"]["median"] > 0 and machine["memory"]["median"] > 0
    assert machine["free_memory_mib"] > 0 and machine["free_disk_mib"] > 0
    assert summary["self_test"]["checks"][0]["holds"] and summary["self_test"]["failures"] == []
    lines = summary["table"].splitlines()
    assert max(map(len, lines)) <= 80, max(lines, key=len)
    assert "sft       replies that end" in summary["table"] and "all checks hold" in summary["table"]
    run(DoctorConfig(device="cpu", self_test=False))
    assert examined["tested"] == 1


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            SelfTest([Check("ppo", "reward", 0.1, "at least", 0.5)]),
            "the self-test failed: ppo: reward (doctor)",
        ),
        (SelfTest([Check("pretrain", "loss", float("nan"), "at most", 0.5)]), "failed: pretrain: loss"),
        (SelfTest([], "sft ended with OSError: no space"), "failed: sft ended with OSError: no space"),
    ],
)
def test_a_self_test_that_fails_is_an_error_after_the_table(examined, found, words, tmp_path, capsys) -> None:
    examined["found"] = found
    assert cli.main(["doctor", "--device", "cpu", "--out", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert words in printed.err and "1 FAILED" in printed.out and "Traceback" not in printed.err
    assert json.loads((tmp_path / "summary.json").read_text())["self_test"]["failures"]


def test_a_certificate_that_holds(figures, tmp_path, capsys) -> None:
    command = ["doctor", "--certify", "--device", "cpu", "--processes", "3", "--out", str(tmp_path)]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "0.9990 (0.99)" in printed and "MISSED" not in printed and "1.0e-06" in printed
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["missed"] == 0 and summary["seconds"] >= 0
    assert len(summary["certificate"]) == len({(s, s.beta) for s, _ in figures["jobs"] if not s.shift})
    assert summary["invariants"] == [
        {"number": 2, "name": "one", "measured": 1e-6, "bound": 1e-4, "holds": True}
    ]
    assert figures["processes"] == 3
    few = len(figures["jobs"])
    run(DoctorConfig(certify="full", device="cpu"))
    assert len(figures["jobs"]) > few and figures["processes"] >= 1


@pytest.mark.parametrize("change", [{"raw": 0.9}, {"far": 1e-3}, {"raw": float("nan")}])
def test_a_missed_bound_is_an_error_after_the_table(figures, change, tmp_path, capsys) -> None:
    figures |= change
    assert cli.main(["doctor", "--certify", "--device", "cpu", "--out", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert "MISSED" in printed.out and "bounds are missed" in printed.err
    assert json.loads((tmp_path / "summary.json").read_text())["missed"] > 0


def test_only_rank_0_speaks(figures, tmp_path, monkeypatch, capsys) -> None:
    figures["raw"] = 0.5
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["doctor", "--certify", "--device", "cpu", "--out", str(tmp_path), "--json"]) == 0
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "summary.json").exists()
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(CheckError, match=r"structured rewards, beta 0\.05"):
        run(DoctorConfig(certify="quick", device="cpu"))


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="--device"):
        run(DoctorConfig(device="cuda:99"))


def test_an_interrupt_promises_nothing_that_is_not_kept(figures, monkeypatch, tmp_path: Path) -> None:
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(verb, "run_jobs", stopped)
    with pytest.raises(Interrupted, match="starts from the beginning") as found:
        run(DoctorConfig(certify="quick", device="cpu", out=str(tmp_path / "out")))
    assert found.value.exit_code == 130 and not (tmp_path / "out").exists()
