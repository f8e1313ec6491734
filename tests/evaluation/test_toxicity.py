"""Scorers of toxicity: the word list, Perspective by a server of our own, a reward model trained for it."""

import json
import math
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from instructgpt.cli import main
from instructgpt.errors import ConfigError, DataError, ServiceError
from instructgpt.evaluation.toxicity.perspective import Perspective
from instructgpt.evaluation.toxicity.rankings import ScoredText, rankings, read_scored, split
from instructgpt.evaluation.toxicity.scorer import TOXICITY_PROMPT, RewardScorer, open_scorer, sigmoid
from instructgpt.evaluation.toxicity.train import calibrate
from instructgpt.evaluation.toxicity.words import WordList
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model
from instructgpt.pretrain.train import write_checkpoint
from instructgpt.text.tokenizer import train_tokenizer

FORMATS = Path(__file__).parent / "formats"


def test_word_list() -> None:
    words = WordList.built_in()
    score = words.score(
        ["A calm sea.", "You idiot!", "idiot idiot", "an IDIOT and a liar", "sh*t", "$tupid", ""]
    )
    # 1 - (1 - .75)(1 - .55); a word counts once; starred and disguised words are known
    assert score == pytest.approx([0, 0.75, 0.75, 1 - 0.25 * 0.45, 0.85, 0.75, 0])
    assert words.found("Go to hell, you") == {"go to hell": 0.95, "hell": 0.35}
    assert words.score(["hello, classic assessment of a shitake"])[0] == pytest.approx(
        0.85
    )  # a list sees no more


def test_word_list_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("# mine\nmeh\t0.4\nnope*  # any ending\nno way\t0.5\n", encoding="utf-8")
    scorer = open_scorer(f"words:{path}")
    assert scorer.name == "word list mine.txt"
    assert scorer.score(["Meh.", "nopes", "no way", "noway"]) == pytest.approx([0.4, 1, 0.5, 0])
    path.write_text("meh\tmuch\n")
    with pytest.raises(DataError, match=r"weight of 'meh' is 'much'.*mine\.txt:1"):
        open_scorer(f"words:{path}")


def test_unknown_scorers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERSPECTIVE_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="no scorer of toxicity 'gpt'"):
        open_scorer("gpt")
    with pytest.raises(ConfigError, match="set PERSPECTIVE_API_KEY"):
        open_scorer("perspective")


class Service(BaseHTTPRequestHandler):
    """Answers as the Perspective API does; the third request is told to come back later."""

    asked: list[dict[str, Any]] = []  # noqa: RUF012
    keys: list[str] = []  # noqa: RUF012

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Service.asked.append(body)
        Service.keys.append(self.headers["X-Goog-Api-Key"])
        if self.headers["X-Goog-Api-Key"] != "right":
            self._answer(403, {"error": {"message": "no such key"}})
        elif len(Service.asked) == 2:
            self._answer(429, {"error": {"message": "slowly"}})
        else:
            value = 0.9 if "idiot" in body["comment"]["text"] else 0.1
            self._answer(200, {"attributeScores": {"TOXICITY": {"summaryScore": {"value": value}}}})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        raw = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


@pytest.fixture
def url() -> Iterator[str]:
    Service.asked, Service.keys = [], []
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_perspective(url: str) -> None:
    waited: list[float] = []
    scorer = Perspective("right", url, 1.0, waited.append)
    assert scorer.score(["hello", "you idiot", " "]) == [0.1, 0.9, 0.0]
    assert Service.asked[0] == {
        "comment": {"text": "hello"},
        "languages": ["en"],
        "requestedAttributes": {"TOXICITY": {}},
        "doNotStore": True,
    }
    assert waited == [1.0, 2.0, 1.0]  # between texts, after the refusal, between texts
    with pytest.raises(ServiceError, match=r"403: .*no such key"):
        Perspective("wrong", url, 0.0, waited.append).score(["hello"])


class Loudness:
    """A reward: the fewer exclamation marks, the better."""

    name = "loudness"

    def score(self, prompts: Sequence[Any], replies: Sequence[str]) -> list[float]:
        assert all(prompt == TOXICITY_PROMPT for prompt in prompts)
        return [-float(reply.count("!")) for reply in replies]


def test_reward_becomes_toxicity() -> None:
    scorer = RewardScorer(Loudness(), slope=-2.0, offset=-1.0)
    assert scorer.name == "reward loudness"
    assert scorer.score(["a", "a!"]) == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e)])
    assert sigmoid(-800.0) == 0 and sigmoid(800.0) == 1


def test_calibration_by_least_squares() -> None:
    # logits of 0.5, 0.731, 0.881 are 0, 1, 2: on a line with the rewards
    slope, offset = calibrate([3.0, 2.0, 1.0], [0.5, sigmoid(1.0), sigmoid(2.0)])
    assert (slope, offset) == pytest.approx((-1.0, 3.0))
    assert calibrate([1.0, 1.0], [0.5, 0.5]) == (0.0, 0.0)
    low, high = calibrate([0.0, 1.0], [0.0, 1.0])  # scores of 0 and 1 have no logit and are taken as near it
    assert (low, high) == pytest.approx((2 * math.log(199), -math.log(199)))


def test_scored_texts_and_rankings() -> None:
    texts = read_scored([FORMATS / "toxicity" / "prompts.jsonl"])
    # the third record's prompt has no score
    assert [(one.text, one.toxicity) for one in texts][-2:] == [
        ("you stupid idiot, shut up", 0.95),
        ("a damned nuisance", 0.5),
    ]
    assert len(texts) == 5 and texts[0].key == texts[1].key
    many = [ScoredText(f"text {i}", (i % 25) / 25, f"prompt {i // 4}") for i in range(200)]
    learnt, held = split(many, 0.25, seed=3)
    assert {one.key for one in learnt}.isdisjoint(one.key for one in held)
    assert 0 < len(held) < len(learnt) and len(held) + len(learnt) == 200
    made = rankings(many, seed=1)
    toxicity = {one.text: one.toxicity for one in many}
    assert sum(len(ranking.responses) for ranking in made) == 200
    for ranking in made:
        ranked = [(response.rank, toxicity[response.text]) for response in ranking.responses]
        assert ranking.prompt.messages == TOXICITY_PROMPT
        assert all((a < b) == (p < q) for a, p in ranked for b, q in ranked)
    assert len({ranking.prompt.id for ranking in made}) == len(made)
    assert rankings(many, seed=1) == made != rankings(many, seed=2)


def test_rows_without_scores_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"context": "He", "sample": "ran"}\n')
    with pytest.raises(DataError, match=r"no text with its toxicity.*x\.jsonl:1"):
        read_scored([path])


def test_a_scorer_is_trained_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A word that no list knows is bad in these texts: a tiny reward model finds out, the list does not."""
    rows = []
    for number in range(120):
        bad = number % 2
        sample = " ".join(("sun", "sea", "tree")[(number + i) % 3] for i in range(3)) + (
            " blerg" if bad else " bird"
        )
        rows.append(
            {"context": f"prompt {number}", "sample": f"{sample} {number}", "toxicity": 0.9 if bad else 0.05}
        )
    (tmp_path / "real_toxicity.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    tokenizer = train_tokenizer([row["sample"] for row in rows] * 3, 300)
    config = ModelConfig.llama(vocab_size=tokenizer.vocab_size, width=32, layers=1, heads=2, context=96)
    write_checkpoint(new_language_model(config, 0), tokenizer, tmp_path / "model")
    out = tmp_path / "scorer"
    command = ["eval", str(tmp_path / "model"), "--suite", "toxicity_scorer", "--data", str(tmp_path)]
    command += ["--option", "lr=0.02", "--option", "passes=6", "--option", "batch=8", "--device", "cpu"]
    assert main([*command, "--out", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    found = {name.partition(" ")[0]: value for name, value in summary["rank_correlation"].items()}
    assert found["reward"] > 0.8  # two levels of toxicity in random order would give about 0 +- 0.2
    assert found["word"] is None
    scorer = open_scorer(f"reward:{out}/reward")
    low, high = scorer.score(["sun sea tree bird 7", "sun sea tree blerg 7"])
    assert low < 0.5 < high
