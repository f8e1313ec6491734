"""A suite on tiny models: results on disk, going on where it was stopped, examples, mistakes; the handles."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from instructgpt.cli import main
from instructgpt.config import parse
from instructgpt.errors import ConfigError, ServiceError
from instructgpt.evaluation.eval_settings import EvalConfig
from instructgpt.evaluation.suite import run as suite_run
from instructgpt.evaluation.suite.asking import answer_all
from instructgpt.evaluation.suite.local import LocalModel
from instructgpt.evaluation.suite.models import named_models, open_handle
from instructgpt.evaluation.suite.results import read_results
from instructgpt.evaluation.suite.server import ServerModel
from instructgpt.evaluation.suite.task import Choices, Document, Generate, Item
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model
from instructgpt.pretrain.train import write_checkpoint
from instructgpt.text.chat import Message, render_prompt
from instructgpt.text.tokenizer import train_tokenizer

TEXTS = ["the cat sat on the mat. the dog ran to the door. no yes 早上好 cats and dogs.", "Question: Answer:"]


@pytest.fixture(scope="module")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    tokenizer = train_tokenizer(TEXTS, 300)
    config = ModelConfig.llama(vocab_size=tokenizer.vocab_size, width=16, layers=1, heads=2, context=64)

    def make(seed: int) -> Path:
        folder = tmp_path_factory.mktemp("model") / f"model-{seed}"
        model = new_language_model(config, seed)
        with torch.no_grad():
            model.unembedding.mul_(20)  # so that it has clear preferences
        write_checkpoint(model, tokenizer, folder)
        return folder

    return make


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rows = [
        {
            "id": n,
            "context": f"the cat {n}",
            "endings": ["sat on the mat.", "ran to the door.", "no"],
            "label": n % 3,
        }
        for n in range(7)
    ]
    (folder / "hellaswag.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines = ["sentence\tlabel", *(f"the dog {n}\t{n % 2}" for n in range(5))]
    (folder / "SST-2").mkdir()
    (folder / "SST-2" / "dev.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def evaluate(
    make_model: Callable[[int], Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    models = [f"first={make_model(0)}", f"second={make_model(1)}"]

    def call(*more: str, code: int = 0, suite: str = "hellaswag,sst2") -> dict[str, Any]:
        arguments = ["eval", *models, "--suite", suite, "--data", str(data), "--out", str(tmp_path / "out")]
        assert main([*arguments, *more, "--json"]) == code
        said = capsys.readouterr()
        return {"error": said.err} if code else json.loads(said.out)

    return call


def test_a_suite_on_two_models(evaluate: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    summary = evaluate()
    assert list(summary["models"]) == ["first", "second"]
    found = {(result.model, result.task): result for result in read_results(tmp_path / "out")}
    assert set(found) == {(m, t) for m in ("first", "second") for t in ("hellaswag", "sst2")}
    result = found["first", "hellaswag"]
    assert [record["id"] for record in result.records] == [str(n) for n in range(7)]
    right = [record["scores"]["accuracy"] for record in result.records]
    numbers = summary["models"]["first"]["tasks"]["hellaswag"]["accuracy"]
    assert numbers["value"] == pytest.approx(sum(right) / 7) and numbers["n"] == 7
    assert numbers["low"] <= numbers["value"] <= numbers["high"] and numbers["better"] == "higher"
    about = result.about
    assert about["items"] == 7 and about["shots"] == 0 and len(about["data"]["sha256"]) == 64
    assert (
        about["command"].startswith("instructgpt eval first=")
        and "--suite hellaswag,sst2" in about["command"]
    )
    assert about["headline"] == "accuracy_chars" and about["seconds"] >= 0
    assert result.metrics["accuracy"].mean == numbers["value"]
    assert "hellaswag" in summary["table"] and "accuracy_chars (share)" in summary["table"]
    # the same likelihoods as one question at a time
    handle = open_handle(about["model"]["spec"])
    record = result.records[3]
    nats = [
        one.nats
        for one in handle.loglikelihoods(
            [record["shown"]["prompt"]] * 3, [f" {choice}" for choice in record["shown"]["choices"]]
        )
    ]
    assert record["shown"]["nats"] == pytest.approx(nats, abs=2e-4)


def test_it_goes_on_where_it_was_stopped(
    evaluate: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite_run, "PORTION", 2)
    asked: list[str] = []
    broken = True

    def watched(handle: Any, task: str, items: Sequence[Item], *rest: Any) -> Any:
        asked.extend(f"{handle.name}:{task}:{item.id}" for item in items)
        if broken and len(asked) > 9:
            raise KeyboardInterrupt
        return answer_all(handle, task, items, *rest)

    monkeypatch.setattr(suite_run, "answer_all", watched)
    assert "run the same command again" in evaluate(code=130)["error"]
    assert len(read_results(tmp_path / "out")) == 1  # one task was whole
    broken, before = False, asked[:-2]
    asked.clear()
    whole = evaluate()
    every = [
        f"{m}:{t}:{n}"
        for m in ("first", "second")
        for t, c in (("hellaswag", 7), ("sst2", 5))
        for n in range(c)
    ]
    assert before + asked == every  # nothing twice but the portion that was lost
    asked.clear()
    assert evaluate()["models"] == whole["models"] and asked == []
    records = {r.task: len(r.records) for r in read_results(tmp_path / "out") if r.model == "first"}
    assert records == {"hellaswag": 7, "sst2": 5}


def test_the_result_does_not_depend_on_portions(
    evaluate: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate()["models"]
    monkeypatch.setattr(suite_run, "PORTION", 3)
    second = evaluate("--out", str(tmp_path / "other"))["models"]
    for model in first:
        for task, metrics in first[model]["tasks"].items():
            for name, numbers in metrics.items():
                assert second[model]["tasks"][task][name]["value"] == pytest.approx(
                    numbers["value"], abs=1e-5
                )


def test_more_tasks_and_other_settings(evaluate: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    evaluate(suite="sst2")
    assert set(evaluate(suite="hellaswag")["models"]["first"]["tasks"]) == {"hellaswag", "sst2"}
    error = evaluate("--shots", "2", code=2)["error"]
    assert "made with other settings" in error and "shots: 0 -> 2" in error
    limited = evaluate("--limit", "3", "--out", str(tmp_path / "few"))
    assert limited["models"]["second"]["tasks"]["hellaswag"]["accuracy"]["n"] == 3


def test_examples_are_the_same_for_all_items_but_never_the_item_itself(
    evaluate: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts: list[str] = []

    def watched(handle: Any, task: str, items: Sequence[Item], asks: Any, *rest: Any) -> Any:
        contexts.extend(ask.context for row in asks for ask in row)
        return answer_all(handle, task, items, asks, *rest)

    monkeypatch.setattr(suite_run, "answer_all", watched)
    evaluate("--shots", "2", suite="sst2")
    items = contexts[:5]
    assert contexts[5:] == items  # the second model sees the same
    examples = [context.split("\n\n") for context in items]
    assert all(len(parts) == 3 for parts in examples)
    for parts in examples:
        item = parts[2].split("\n")[0]
        assert all(item not in example for example in parts[:2])
    shown = {tuple(parts[:2]) for parts in examples}
    assert 1 <= len(shown) <= 3  # one pair, and the stand-in where one of the two is the item
    assert "to draw from" in evaluate("--shots", "5", "--out", str(tmp_path / "other"), code=2)["error"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--suite", "helaswag"], "did you mean hellaswag"),
        (["--data", "nowhere"], "no such file or folder"),
        (["--suite", "rte"], "rte needs RTE/dev.tsv or"),
        (["--suite", "rte,sst2,bias"], "3 of 4 tasks find no file in"),
        (["--chat", "third"], "there is no model third"),
        (["--option", "sst2.x=1"], "sst2 has no option 'x'"),
        (["--option", "x"], "sets nothing"),
        (["--limit", "-1"], "negative"),
        (["--prompts", "x.jsonl"], "--suite and --prompts are different"),
        (["--text", "x.txt"], "--suite and --text are different"),
        (["--samples", "x.jsonl"], "--suite and --samples FILE are different"),
        (["--samples", "-3"], "negative"),
        (["--models", "first=x"], "two models are called first"),
    ],
)
def test_mistakes_are_one_paragraph(
    more: list[str], message: str, evaluate: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    error = evaluate(*more, code=2)["error"]
    assert message in error and "Traceback" not in error and not (tmp_path / "out").exists()


def test_names_of_models(make_model: Callable[[int], Path]) -> None:
    assert named_models(["a=x/y", "x/z", "http://h:1/v1#m", "b=https://h/v1"]) == {
        "a": "x/y",
        "z": "x/z",
        "m": "http://h:1/v1#m",
        "b": "https://h/v1",
    }
    with pytest.raises(ConfigError, match="no model was named"):
        named_models([])


def local(folder: Path, **more: Any) -> LocalModel:
    return LocalModel.load(str(folder), **more)


def sums(handle: LocalModel, ids: Sequence[int], after: int) -> float:
    """log p of ids[after:] given those before, in one pass."""
    with torch.no_grad():
        hidden = handle.model(torch.tensor(ids), torch.arange(len(ids)), [len(ids)])
        logprobs = handle.model.logits(hidden).log_softmax(-1)
    return sum(float(logprobs[place - 1, ids[place]]) for place in range(after, len(ids)))


def test_a_text_is_encoded_whole_and_cut_where_the_context_ends(make_model: Callable[[int], Path]) -> None:
    handle = local(make_model(0))
    tokenizer = handle.tokenizer
    bos = tokenizer.bos_id
    assert bos is not None
    context, text = "the cat ", "sat on"
    (found,) = handle.loglikelihoods([context], [text])
    ids = [bos, *tokenizer.encode("the cat sat on")]
    start = 1 + len(tokenizer.encode("the cat"))  # the blank belongs to what follows
    assert found.nats == pytest.approx(sums(handle, ids, start), abs=1e-4)
    assert found.tokens == len(ids) - start
    # without a context the beginning of a document; without bos if that is wanted
    (alone,) = handle.loglikelihoods([""], ["the cat"])
    assert alone.nats == pytest.approx(sums(handle, [bos, *tokenizer.encode("the cat")], 1), abs=1e-4)
    (plain,) = local(make_model(0), bos="no").loglikelihoods([context], [text])
    assert plain.nats == pytest.approx(sums(handle, ids[1:], start - 1), abs=1e-4)
    (asked,) = local(make_model(0), chat=True).loglikelihoods([context], [" sat on"])
    prompt = render_prompt(tokenizer, [Message("user", context)])
    assert asked.nats == pytest.approx(
        sums(handle, [*prompt, *tokenizer.encode("sat on")], len(prompt)), abs=1e-4
    )


def test_documents_are_predicted_whole_in_windows(make_model: Callable[[int], Path]) -> None:
    handle = local(make_model(0))
    text = "the cat sat on the mat. " * 24
    ids = handle.tokenizer.encode(text)
    assert len(ids) > 2 * 64
    (found,) = handle.documents([Document(text)])
    windows = [[handle.tokenizer.bos_id, *ids[:64]]]
    windows += [ids[start - 1 : start + 64] for start in range(64, len(ids), 64)]
    expected = 0.0
    for window in windows:
        with torch.no_grad():
            count = len(window) - 1
            hidden = handle.model(torch.tensor(window[:-1]), torch.arange(count), [count])
            logprobs = handle.model.logits(hidden).log_softmax(-1)
        expected += float(logprobs[torch.arange(count), torch.tensor(window[1:])].sum())
    assert found.nats == pytest.approx(expected, rel=1e-5) and found.tokens == len(ids)


def test_replies_end_before_a_stop_string(make_model: Callable[[int], Path]) -> None:
    handle = local(make_model(1))
    whole = [Generate("the cat", max_new=24), Generate((Message("user", "the dog"),), max_new=24)]
    texts = [reply.text for reply in handle.generate(whole, [0, 0])]
    stop = texts[0][5:8]
    assert stop
    stopped = [Generate("the cat", max_new=24, stop=(stop, "\x00")), whole[1]]
    found = handle.generate(stopped, [0, 0])
    assert found[0].text == texts[0][: texts[0].index(stop)] and found[0].stopped
    assert found[0].tokens <= 24 and found[1].text == texts[1]
    assert handle.generate([], []) == [] and handle.cut == 0
    sampled = Generate("the cat", max_new=8, temperature=40.0)
    one, other, again = handle.generate([sampled] * 3, [1, 2, 1])
    assert one == again and one != other
    (long,) = handle.generate([Generate("the cat sat on the mat. " * 30, max_new=8)], [0])
    assert handle.cut == 1 and long.tokens <= 8


class Wire(BaseHTTPRequestHandler):
    """OpenAI's wire format over a local model: completions with echo, chat, two models listed."""

    model: LocalModel
    refusals = 0

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.answer(200, {"data": [{"id": "tiny"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if Wire.refusals:
            Wire.refusals -= 1
            return self.answer(503, {"error": "busy"})
        if self.path.endswith("/chat/completions"):
            turns = tuple(Message(turn["role"], turn["content"]) for turn in body["messages"])
            (reply,) = self.model.generate([Generate(turns, body["max_tokens"])], [0])
            choice: dict[str, Any] = {"message": {"content": reply.text}}
        elif body.get("echo"):
            choice = {"text": body["prompt"], "logprobs": self.echoed(body["prompt"])}
        else:
            (reply,) = self.model.generate(
                [Generate(body["prompt"], body["max_tokens"], tuple(body.get("stop", ())))], [0]
            )
            choice = {"text": reply.text}
        choice["finish_reason"] = "stop" if reply_ended(choice) else "length"
        self.answer(200, {"choices": [choice], "usage": {"completion_tokens": 3}})

    def echoed(self, text: str) -> dict[str, Any]:
        tokenizer = self.model.tokenizer
        ids = [tokenizer.bos_id, *tokenizer.encode(text)]
        with torch.no_grad():
            hidden = self.model.model(torch.tensor(ids), torch.arange(len(ids)), [len(ids)])
            logprobs = self.model.model.logits(hidden).log_softmax(-1)
        starts = [len(tokenizer.decode(ids[1:place])) for place in range(1, len(ids) + 1)]
        values = [float(logprobs[place - 1, ids[place]]) for place in range(1, len(ids))]
        tops = [float(logprobs[place - 1].max()) for place in range(1, len(ids))]
        return {
            "text_offset": [0, *starts],  # bos, the text's tokens, and the one that was drawn
            "token_logprobs": [None, *values, -1.0],
            "top_logprobs": [None, *({"x": top} for top in tops), {"x": -1.0}],
        }


def reply_ended(choice: dict[str, Any]) -> bool:
    return "logprobs" not in choice


@pytest.fixture
def url(make_model: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Wire, "model", local(make_model(0)), raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Wire)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_gives_the_numbers_of_its_model(
    url: str, make_model: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = local(make_model(0)), open_handle(url)
    asks = [Choices("the cat ", ("sat on", "早上好")), Choices("", ("the dog ran",))]
    assert far.name == "tiny" and far.spec == f"{url}#tiny"
    for mine, theirs in zip(near.choices(asks), far.choices(asks), strict=True):
        assert [one.nats for one in theirs] == pytest.approx([one.nats for one in mine], abs=1e-3)
        assert [(one.tokens, one.greedy) for one in theirs] == [(one.tokens, one.greedy) for one in mine]
    generate = [Generate("the cat", 6), Generate((Message("user", "the dog"),), 6)]
    monkeypatch.setattr("instructgpt.evaluation.suite.server._FIRST_PAUSE", 0.0)
    monkeypatch.setattr(Wire, "refusals", 1)
    texts = [reply.text for reply in far.generate(generate, [1, 2])]
    assert texts == [reply.text for reply in near.generate(generate, [0, 0])]
    chatty = ServerModel.connect(f"{url}#tiny", chat=True)
    with pytest.raises(ConfigError, match="no likelihoods of replies to chat"):
        chatty.choices(asks)
    for handle in (far, chatty):
        handle.close()


def test_what_a_server_can_not_do(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = open_handle(url)
    monkeypatch.setattr(Wire, "echoed", lambda self, text: None)
    with pytest.raises(ServiceError, match="does not give the log-probabilities"):
        handle.choices([Choices("a", (" b",))])
    bare = {"text_offset": [0, 1], "token_logprobs": [None, -1.0], "top_logprobs": [None, None]}
    monkeypatch.setattr(Wire, "echoed", lambda self, text: bare)
    with pytest.raises(ServiceError, match="no probability for the first token"):
        handle.documents([Document("ab")])
    handle.close()
    with pytest.raises(ConfigError, match="holds a name or a password"):
        open_handle("http://me:secret@127.0.0.1/v1")


def test_nobody_at_the_server() -> None:
    with socket.socket() as held:  # bound, but nobody listens there
        held.bind(("127.0.0.1", 0))
        with pytest.raises(ServiceError, match="nobody answers there"):
            open_handle(f"http://127.0.0.1:{held.getsockname()[1]}/v1")


def test_samples_are_a_number_or_a_file(tmp_path: Path) -> None:
    """`--samples` says how many are kept, or names a file of released ones; in a TOML file too."""
    assert parse(EvalConfig, ["--samples", "7"], "eval").samples == 7
    assert parse(EvalConfig, ["--samples", "x.jsonl"], "eval").samples == "x.jsonl"
    for text, value in (("samples = 20", 20), ('samples = "x.csv"', "x.csv")):
        (tmp_path / "c.toml").write_text(text, encoding="utf-8")
        assert parse(EvalConfig, ["--config", str(tmp_path / "c.toml")], "eval").samples == value
