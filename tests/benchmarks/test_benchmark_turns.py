"""Turns alternate, each in its peer's interpreter; ratios, floors and pages follow by hand arithmetic."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import inputs, peers, turn, turns, turns_page
from benchmarks.turns import Contender, Floor, Race

MACHINE = {"float32": 100e9, "bfloat16": 200e9, "read": 50e9}


def printed(rate: float, memory: float, flops: float = 0.0) -> str:
    """What a turn's process prints, noise of a library before it."""
    found = {
        "rates": [rate / 2, rate, rate * 3],
        "unit_flops": flops,
        "unit_bytes": 0.0,
        "facts": {"dtype": "float32"},
        "peak_memory_mib": memory,
        "machine": MACHINE,
        "versions": {"python": "3.11"},
    }
    return "library: {hello}\n" + turn.MARK + json.dumps(found) + "}\n"


def measure() -> turn.Turn:
    raise AssertionError("turns are taken in other processes")


def race(**more: Any) -> Race:
    contenders = [Contender("theirs", measure, peer="trl"), Contender("ours", measure)]
    return Race("S", "a race", "tokens/s", contenders, **more)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that were started; theirs do 10, 20, 40 a second, ours 30, 30, 200."""
    found: list[list[str]] = []
    outputs = {"theirs": [(10, 500), (20, 400), (40, 450)], "ours": [(30, 100), (30, 110), (200, 90)]}

    def start(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        found.append(command)
        assert options["env"]["HF_HUB_OFFLINE"] == "1"
        name = command[-1].split("/")[1]
        return subprocess.CompletedProcess(command, 0, printed(*outputs[name].pop(0), flops=2e9), "")

    monkeypatch.setattr(turns.subprocess, "run", start)
    monkeypatch.setattr(turns, "interpreter", lambda name: peers.Interpreter(f"{name}/python"))
    return found


def test_turns_alternate_and_ratios_are_taken_round_by_round(calls: list[list[str]]) -> None:
    floors = [
        Floor("ours", 3.0, against="theirs"),
        Floor("ours", 0.2, against="theirs", of="memory"),
        Floor("ours", 0.5, of="bfloat16"),
    ]
    found = turns.run("sft", race(floors=floors), rounds=3)
    assert [command[0] for command in calls] == ["trl/python", "ours/python"] * 3
    assert calls[1][1:] == ["-m", "benchmarks.sft", "--turn", "S/ours"]
    theirs, ours = found["contenders"]
    assert theirs["rate"] == {"median": 20, "least": 10, "largest": 40, "count": 3}
    assert ours["rate"]["median"] == 30
    # 30 / 10, 30 / 20, 200 / 40
    assert ours["ratio"] == {"median": 3.0, "least": 1.5, "largest": 5.0, "count": 3}
    assert ours["memory"] == 110 and theirs["memory"] == 500
    # 2e9 operations a unit: 60e9, 60e9 and 400e9 a second of 200e9.
    assert ours["share"]["bfloat16"] == {"median": 0.3, "least": 0.3, "largest": 2.0, "count": 3}
    # Memory: 100 / 500, 110 / 400, 90 / 450.
    assert found["floors"][1]["measured"]["median"] == 0.2
    assert [floor["holds"] for floor in found["floors"]] == [True, True, False]
    assert found["missed"] == 1 and found["failures"] == {}


def test_one_contender_alone_has_no_ratio_and_no_floor_against_others(calls: list[list[str]]) -> None:
    found = turns.run("sft", race(floors=[Floor("ours", 3.0, against="theirs")]), rounds=1, only="ours")
    assert [command[0] for command in calls] == ["ours/python"]
    assert found["contenders"][0]["ratio"] is None and found["floors"] == [] and found["missed"] == 0


def test_a_failed_turn_ends_that_contender_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if command[-1] == "S/theirs":
            return subprocess.CompletedProcess(command, 1, "", "Traceback: no module named trl")
        return subprocess.CompletedProcess(command, 0, printed(5, 10), "")

    monkeypatch.setattr(turns.subprocess, "run", start)
    monkeypatch.setattr(turns, "interpreter", lambda name: peers.Interpreter("python"))
    found = turns.run("sft", race(floors=[Floor("ours", 1.0, against="theirs")]), rounds=2)
    assert list(found["failures"]) == ["theirs"] and "no module named trl" in found["failures"]["theirs"]
    assert [row["name"] for row in found["contenders"]] == ["ours"]
    assert "theirs failed: exit code 1" in turns_page.table(found)


def test_the_command_line_writes_json_and_a_page(
    calls: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(turns, "PAGES", tmp_path / "docs")
    races = [race(floors=[Floor("ours", 2.9, against="theirs")]), Race("M", "no", "x/s", [])]
    out = tmp_path / "found.json"
    code = turns.main("sft", "A page", races, ["--cases", "S", "--page", "--out", str(out)])
    assert code == 0
    assert json.loads(out.read_text())["races"][0]["case"] == "S"
    page = (tmp_path / "docs/speed-sft.md").read_text()
    assert "| ours | 30 (30..200) | 3 (1.5..5) | 110 | 60 (60..400) | 0.6 (0.6..4) | 0.3 (0.3..2) |" in page
    assert "| ours: rate over theirs's | 3 (1.5..5) | at least 2.9 | yes |" in page
    assert page.count("\n## ") == 1 and "0 of 1 bounds missed" in page
    assert "| ours |" in capsys.readouterr().out


def test_a_missed_floor_is_the_exit_code(calls: list[list[str]], tmp_path: Path) -> None:
    floors = [Floor("ours", 3.1, against="theirs")]
    out = str(tmp_path / "x.json")
    assert turns.main("sft", "A page", [race(floors=floors)], ["--out", out, "--rounds", "3"]) == 1


def test_seconds_in_place_of_a_rate() -> None:
    rows = {"theirs": [json.loads(printed(4, 1).split(turn.MARK)[1].strip()[:-1])]}
    found = turns.summarise(Race("S", "t", "", race().contenders, seconds=True), rows, {})
    assert "| theirs | 0.25 | 1 | 1 |" in turns_page.table(found)


def test_a_turn_is_one_line_that_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn, "SIDE", 64)
    monkeypatch.setattr(turn, "READ_BYTES", 1 << 16)
    line = turn.line_of(turn.Turn([1.0, 3.0], unit_flops=6.0, facts={"loss": 2.5}))
    found = turn.read(f"noise\n{line}\nmore noise\n")
    assert found is not None and "\n" not in line
    assert found["rates"] == [1.0, 3.0] and found["unit_flops"] == 6.0 and found["facts"] == {"loss": 2.5}
    assert set(found["machine"]) == {"float32", "bfloat16", "read"} and min(found["machine"].values()) > 0
    assert found["peak_memory_mib"] > 50 and "torch" in found["versions"]
    assert turn.read("nothing of the kind") is None


def test_repeat_leaves_the_warm_up_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(turn.time, "perf_counter", lambda: now[0])
    taken = iter([100.0, 2.0, 4.0])

    def work() -> float:
        now[0] += next(taken)
        return 8.0

    assert turn.repeat(work, times=2, warm=1) == [4.0, 2.0]


def test_an_environment_sees_our_packages_and_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = __import__("numpy").__version__
    pins = {
        "small": peers.Peer((f"numpy=={version}",)),  # there already: nothing is downloaded
        "over": peers.Peer((), over="small"),
    }
    monkeypatch.setattr(peers, "PEERS", pins)
    monkeypatch.setattr(peers, "FOLDER", tmp_path)
    made: list[str] = []
    install = peers._install

    def counted(python: str, peer: peers.Peer, *options: str) -> None:
        made.append(python)
        if peer.pins:
            install(python, peer, *options)

    monkeypatch.setattr(peers, "_install", counted)
    found = peers.interpreter("small")
    program = "import numpy, torch, sys; print(numpy.__version__, sys.prefix)"
    done = subprocess.run([found.python, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [version, str(tmp_path / "small")]
    above = peers.interpreter("over")
    assert above.python == found.python and above.environment == {"PYTHONPATH": str(tmp_path / "over")}
    assert peers.interpreter("small") == found and len(made) == 2
    monkeypatch.setitem(pins, "over", peers.Peer((f"numpy=={version}",), over="small"))
    monkeypatch.setattr(peers, "_install", lambda *arguments: made.append(arguments[0]))
    peers.interpreter("over")
    assert len(made) == 3  # other pins: made anew
    assert peers.interpreter(peers.OURS).python != found.python


def test_inputs_are_the_same_every_time_and_in_range() -> None:
    first, again = inputs.documents("S", 50), inputs.documents("S", 50)
    assert first == again and first != inputs.documents("S", 50, seed=2)
    assert all(8 <= len(document) <= inputs.CONTEXT for document in first)
    ids = [i for document in first for i in document]
    assert min(ids) >= inputs.FIRST and max(ids) < inputs.SIZES["S"].vocab
    assert 90 < sum(map(len, inputs.documents("S", 2000))) / 2000 < 130


def test_sizes_are_those_of_the_models() -> None:
    # GPT-2 small has 124,439,808 parameters: less 1024 x 768 positions, 2 x 768 of the last norm, and in each
    # of 12 blocks 13 x 768 biases and norms, what is multiplied is left.
    assert inputs.SIZES["M"].products == 124_439_808 - 1024 * 768 - 2 * 768 - 12 * 13 * 768
    # SmolLM2-135M has 134,515,008: less 61 norms of 576.
    assert inputs.SIZES["L"].products == 134_515_008 - 61 * 576
    assert inputs.SIZES["S"].body == 4 * 12 * 256**2
