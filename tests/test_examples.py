"""Every script of examples/ runs as a user would run it, and shows what it says it shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, folder: Path) -> str:
    """Standard output of an example, run in an empty folder: only the installed package is found."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "INSTRUCTGPT_PROGRESS": "0"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_reward_function_of_ones_own(tmp_path: Path) -> None:
    found = re.search(r"plain letters: ([\d.]+) -> ([\d.]+)", run("custom_reward.py", tmp_path))
    assert found is not None
    before, after = float(found[1]), float(found[2])
    assert 0 < before < after <= 1
    assert after - before > 0.1


def test_own_rankings(tmp_path: Path) -> None:
    output = run("own_rankings.py", tmp_path)
    assert (
        '{"prompt": "name a river", "responses": [{"text": "the nile, with pleasure.", "rank": 1}' in output
    )
    polite, rude = (float(number) for number in re.findall(r"reply: (-?[\d.]+)", output))
    assert polite > rude


def test_chat_templates(tmp_path: Path) -> None:
    lines = {
        line.split(":")[0]: line.split(":", 1)[1] for line in run("chat_template.py", tmp_path).splitlines()
    }
    assert set(lines) == {"ours", "plain", "short"}
    # Two ends of turns; the one that the user spelled is plain text. Only the assistant's turn counts.
    assert lines["ours"].endswith(" *'<|end|>'") and lines["ours"].count("'<|end|>'") == 2
    assert lines["ours"].strip().startswith("'<|bos|>' '<|user|>'")
    assert lines["plain"].endswith(" *'<|eos|>'") and "'<|user|>'" not in lines["plain"]
    assert lines["short"].endswith(" *'<|eos|>'") and "'<|bos|>'" not in lines["short"]
    for line in lines.values():
        counted = "".join(re.findall(r"\*'([^']*)'", line))
        assert counted in ("the nile<|end|>", "the nile<|eos|>")


def test_every_example_is_tested() -> None:
    tested = set(re.findall(r'run\("(\w+\.py)"', Path(__file__).read_text(encoding="utf-8")))
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested | {"tiny_model.py"}
