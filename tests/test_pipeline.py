"""The pipeline: references, changes, skipping, moving aside, lineage, and mistakes in the file."""

import json
from pathlib import Path
from typing import Any

import pytest

from instructgpt import cli, pipeline, recipe
from instructgpt.config import preset_path
from instructgpt.errors import ConfigError, StorageError
from instructgpt.pipeline import DemoConfig, RunConfig, demo, run
from instructgpt.runtime.checkpoint import final_checkpoint

WORLD = """
[[stage]]
verb = "world"
people = 12
pretrain = 20
pretrain_valid = 4
demonstrations = 6
demonstrations_valid = 2
reward = 3
ppo = 3
eval = 3
valid = 3
"""
TOKENIZER = """
[[stage]]
verb = "tokenizer"
name = "words"
data = "{folder}/world/pretrain.jsonl"
vocab_size = 300
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(f'out = "{tmp_path / "run"}"\nseed = 3\nsummary = "words"\n{WORLD}{TOKENIZER}')
    return path


def states(folder: Path) -> dict[str, str]:
    lineage = json.loads((folder / "lineage.json").read_text())
    return {stage["name"]: stage["state"] for stage in lineage["stages"]}


def test_stages_run_once_and_are_skipped_then(file: Path, tmp_path: Path) -> None:
    first = run(RunConfig(file=str(file)))
    folder = tmp_path / "run"
    assert states(folder) == {"world": "run", "words": "run"}
    assert first["vocab_size"] == 300  # the summary of the stage that the file names
    assert first["seed"] == 3 and set(first["stages"]) == {"world", "words"}
    written = (folder / "words" / "tokenizer.json").stat().st_mtime_ns
    second = run(RunConfig(file=str(file)))
    assert states(folder) == {"world": "skipped", "words": "skipped"}
    assert (folder / "words" / "tokenizer.json").stat().st_mtime_ns == written
    assert second == first == json.loads((folder / "summary.json").read_text())


def test_the_run_folder_stands_for_the_checkpoint_of_the_stage_it_shows(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("one two three four five six seven")
    path = tmp_path / "mine.toml"
    path.write_text(
        f"""summary = "base"
[[stage]]
verb = "tokenizer"
data = "{tmp_path}/texts.txt"
vocab_size = 270
[[stage]]
verb = "pretrain"
name = "base"
data = "{tmp_path}/texts.txt"
tokenizer = "{{tokenizer}}"
steps = 1
width = 16
layers = 1
heads = 2
context = 16
"""
    )
    summary = run(RunConfig(file=str(path), out=str(tmp_path / "run")))
    assert summary["checkpoint"] == "base/checkpoints/step-000001"
    assert final_checkpoint(tmp_path / "run") == tmp_path / "run" / "base" / "checkpoints" / "step-000001"


def test_the_seed_of_the_file_reaches_the_stages(file: Path, tmp_path: Path) -> None:
    run(RunConfig(file=str(file), until="world"))
    config = json.loads((tmp_path / "run" / "world" / "config.json").read_text())
    assert config["config"]["seed"] == 3
    assert not (tmp_path / "run" / "words").exists()
    run(RunConfig(file=str(file), out=str(tmp_path / "other"), seed=4, until="world"))
    other = json.loads((tmp_path / "other" / "world" / "config.json").read_text())
    assert other["config"]["seed"] == 4


def test_a_changed_setting_moves_the_old_folder_aside(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(RunConfig(file=str(file)))
    run(RunConfig(file=str(file), set=("words.vocab_size=290",)))
    assert states(folder) == {"world": "skipped", "words": "run"}
    old = json.loads((folder / "words.previous-1" / "summary.json").read_text())
    assert old["vocab_size"] == 300
    run(RunConfig(file=str(file), set=("words.vocab_size=280",)))
    assert (folder / "words.previous-2").is_dir()


def test_a_changed_input_runs_what_follows_anew(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(RunConfig(file=str(file)))
    before = json.loads((folder / "lineage.json").read_text())["stages"][1]
    with (folder / "world" / "pretrain.jsonl").open("a") as texts:
        texts.write('{"text": "one more"}\n')
    run(RunConfig(file=str(file)))
    assert states(folder) == {"world": "skipped", "words": "run"}
    after = json.loads((folder / "lineage.json").read_text())["stages"][1]
    assert before["inputs"]["data"] != after["inputs"]["data"]
    assert after["replaced"].endswith("words.previous-1")


def test_an_unfinished_stage_is_run_again(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(RunConfig(file=str(file)))
    (folder / "words" / "summary.json").unlink()  # as a kill just before the end leaves it
    run(RunConfig(file=str(file)))
    assert states(folder) == {"world": "skipped", "words": "run"}
    assert not (folder / "words.previous-1").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no stages"),
        ('[[stage]]\nname = "a"', "names no verb"),
        ('[[stage]]\nverb = "sftt"', "unknown verb 'sftt'.*did you mean sft"),
        ('stages = 1\n[[stage]]\nverb = "world"', "unknown key 'stages'.*did you mean stage"),
        ('[[stage]]\nverb = "world"\npeopel = 12', "unknown key 'peopel'.*did you mean people"),
        ('[[stage]]\nverb = "world"\npeople = "many"', "'many' is not of type int"),
        ('[[stage]]\nverb = "world"\n[[stage]]\nverb = "world"', "two stages have this name"),
        ('[[stage]]\nverb = "world"\nout = "x"', "a stage's folder is its name"),
        ('[[stage]]\nverb = "tokenizer"\ndata = "{wrold}/x"\n[[stage]]\nverb = "world"', "no earlier stage"),
        ('[[stage]]\nverb = "tokenizer"\ndata = "{world}/x"\n[[stage]]\nverb = "world"', "comes later"),
        ('summary = "end"\n[[stage]]\nverb = "world"', "there is no stage 'end'"),
        ('[[stage]]\nverb = "pretrain"\nsteps = 0', "stage pretrain"),
        ("[[stage]\nverb = 1", "not TOML"),
    ],
)
def test_mistakes_are_found_before_anything_runs(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        run(RunConfig(file=str(path), out=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("words",), "is no change"),
        (("wrods.vocab_size=3",), "did you mean words"),
        (("words.vocab_siez=300",), "did you mean vocab_size"),
    ],
)
def test_mistaken_changes_are_named(file: Path, changes: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(RunConfig(file=str(file), set=changes))


def test_the_file_is_a_positional_argument(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(file), "--until", "world", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["stages"]) == {"world"}
    assert cli.main(["run", str(file), "--untill", "world"]) == 2
    assert "did you mean --until" in capsys.readouterr().err


def test_data_stands_for_the_folder_given(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[[stage]]\nverb = "tokenizer"\ndata = "{data}/texts.txt"\nvocab_size = 270\n')
    (tmp_path / "texts.txt").write_text("one two three")
    with pytest.raises(ConfigError, match="--data FOLDER"):
        run(RunConfig(file=str(path), out=str(tmp_path / "run")))
    summary = run(RunConfig(file=str(path), out=str(tmp_path / "run"), data=str(tmp_path)))
    assert set(summary["stages"]) == {"tokenizer"}


def test_a_preset_is_found_by_its_name(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    run(RunConfig(file="quick", out=out, until="world", set=("world.pretrain=3", "world.demonstrations=2")))
    assert states(tmp_path / "run") == {"world": "run"}
    with pytest.raises(ConfigError, match="did you mean quick"):
        run(RunConfig(file="quikc", out=out))


def test_no_file_and_no_such_stage(file: Path) -> None:
    with pytest.raises(ConfigError, match="no file was named"):
        run(RunConfig())
    with pytest.raises(ConfigError, match="there is no stage 'wolrd'"):
        run(RunConfig(file=str(file), until="wolrd"))


def test_every_verb_of_the_command_line_that_a_pipeline_can_run_is_the_same() -> None:
    for verb, place in recipe.STAGES.items():
        if verb in cli.VERBS:
            entry = cli.VERBS[verb]
            assert place == (entry.module, entry.config_class, entry.function)
    # A sweep is a pipeline of its own; the doctor needs no data and makes nothing that a stage could use; the
    # others wait for people, or are asked once about votes (preference, power).
    alone = {"demo", "run", "sweep", "doctor", "chat", "serve", "keys", "label", "preference", "power"}
    assert set(cli.VERBS) - set(recipe.STAGES) == alone


@pytest.mark.parametrize("quick", [False, True])
def test_presets_are_valid_to_the_last_key(tmp_path: Path, quick: bool, monkeypatch: Any) -> None:
    """Reading a preset checks every key of every stage; nothing runs."""
    seen: list[Any] = []
    monkeypatch.setattr(pipeline, "_execute", lambda plan, until, verb: seen.append(plan) or {})
    demo(DemoConfig(out=str(tmp_path / "demo"), seed=9, quick=quick, eval_prompts=7))
    (plan,) = seen
    assert plan.seed == 9 and plan.folder == tmp_path / "demo" and plan.summary == "evaluate"
    evaluate = next(stage for stage in plan.stages if stage.name == "evaluate")
    assert evaluate.values["main_prompts"] == 7
    assert plan.text == preset_path("quick" if quick else "demo").read_text(encoding="utf-8")


def test_the_quick_preset_has_the_stages_of_the_demo() -> None:
    shapes = []
    for name in ("demo", "quick"):
        plan = recipe.read_plan(preset_path(name), "", 0, ())
        shapes.append([(stage.name, stage.verb, sorted(stage.values)) for stage in plan.stages])
    assert shapes[0] == shapes[1]


def test_a_folder_that_cannot_be_made_is_one_clear_error(file: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(StorageError, match="can't write"):
        run(RunConfig(file=str(file), out=str(tmp_path / "taken" / "run")))
