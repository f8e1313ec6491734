"""Translation: WMT, Multi30k and Tatoeba; BLEU and chrF of the whole corpus.

Files: parallel text, a sentence a line (`NAME.fr` and `NAME.en`); WMT's SGML (`...-src.fr.sgm`,
`...-ref.en.sgm`); tabbed pairs as manythings.org packs Tatoeba (`cmn.txt`: English, Chinese); or records
with a text a language (`{"en": ..., "fr": ...}`). Prompt: the paper's (App. D.2, figure 25). BLEU is
sacrebleu's, tokenised as WMT does, `zh` into Chinese; each sentence's counts are kept, so that intervals draw
sentences again.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from instructgpt.data.jsonl import read_text
from instructgpt.errors import DataError
from instructgpt.evaluation.metrics.translation import bleu, bleu_statistics, chrf, chrf_statistics
from instructgpt.evaluation.suite.reading import lines, rows, text_of
from instructgpt.evaluation.suite.task import Answer, Generate, Item, Metric, Options, Scored, Task, each
from instructgpt.evaluation.tasks.squad import reply_line

_LANGUAGES = {
    "en": "English",
    "fr": "French",
    "de": "German",
    "zh": "Chinese",
    "cs": "Czech",
    "ru": "Russian",
}
_LONGEST = 256
_SEGMENT = re.compile(r"<seg[^>]*>(.*?)</seg>", re.DOTALL | re.IGNORECASE)
Pairs = Iterator[tuple[str, str, str]]  # place, source, target


def wmt15_fr_en(options: Options) -> Task:
    """WMT 2015, French to English: the paper's translation task."""
    return _task("wmt15_fr_en", "fr", "en", ("newsdiscusstest2015-fren-*", "wmt15.fr-en.*", "wmt15*fr-en*"))


def wmt14_fr_en(options: Options) -> Task:
    """WMT 2014, French to English: GPT-3's translation task."""
    files = ("newstest2014-fren-*", "wmt14.fr-en.*", "wmt14*fr-en*")
    return _task("wmt14_fr_en", "fr", "en", files, hub="wmt/wmt14:fr-en/test-00000-of-00001.parquet")


def wmt14_en_de(options: Options) -> Task:
    """WMT 2014, English to German."""
    files = ("newstest2014-deen-*", "wmt14.en-de.*", "wmt14*en-de*")
    return _task("wmt14_en_de", "en", "de", files, hub="wmt/wmt14:de-en/test-00000-of-00001.parquet")


def multi30k_en_fr(options: Options) -> Task:
    """Multi30k captions, English to French."""
    return _task("multi30k_en_fr", "en", "fr", _MULTI30K, _MULTI30K_SHOTS)


def multi30k_fr_en(options: Options) -> Task:
    """Multi30k captions, French to English."""
    return _task("multi30k_fr_en", "fr", "en", _MULTI30K, _MULTI30K_SHOTS)


def tatoeba_en_zh(options: Options) -> Task:
    """Tatoeba sentences, English to Chinese."""
    return _task("tatoeba_en_zh", "en", "zh", _TATOEBA)


def tatoeba_zh_en(options: Options) -> Task:
    """Tatoeba sentences, Chinese to English."""
    return _task("tatoeba_zh_en", "zh", "en", _TATOEBA)


_MULTI30K = ("test_2016_flickr.??", "multi30k-en-fr-test*.jsonl")
_MULTI30K_SHOTS = ("train.??", "multi30k-en-fr-train*.jsonl")
_TATOEBA = ("cmn.txt", "tatoeba-en-zh*.jsonl", "tatoeba*en-zh*")
_SOURCES = {
    "wmt15": "Bojar et al. 2015 (WMT15); prompt: arXiv:2203.02155, App. D.2",
    "wmt14": "Bojar et al. 2014 (WMT14); prompt: arXiv:2203.02155, App. D.2",
    "multi30k": "Elliott et al. 2016, arXiv:1605.00459, test_2016_flickr",
    "tatoeba": "Tatoeba (CC BY 2.0 FR), pairs of manythings.org",
}


def _task(
    name: str,
    source: str,
    target: str,
    files: tuple[str, ...],
    shot_files: tuple[str, ...] = (),
    hub: str = "",
) -> Task:
    tokenizer = "zh" if target == "zh" else "13a"
    instruction = f"Translate the following sentences from {_LANGUAGES[source]} into {_LANGUAGES[target]}."

    def ask(item: Item, shots: Sequence[Item]) -> list[Generate]:
        blocks = [f"{_block(shot)} {shot.data['target']}" for shot in shots]
        return [Generate("\n\n".join([instruction, *blocks, _block(item)]), _LONGEST, stop=("\n",))]

    def _block(item: Item) -> str:
        return f"{_LANGUAGES[source]}: {item.data['source']}\n{_LANGUAGES[target]}:"

    def score(item: Item, answers: Sequence[Answer]) -> Scored:
        said, reference = reply_line(answers[0]), item.data["target"]
        counts = bleu_statistics(said, [reference], tokenizer) | chrf_statistics(said, reference)
        return Scored(counts, {"prompt": item.data["source"], "reply": said, "references": [reference]})

    return Task(
        name=name,
        version=1,
        files=files,
        read=lambda paths: read(paths, source, target),
        ask=ask,
        score=each(score),
        metrics=(Metric("bleu", bleu, unit="points"), Metric("chrf", chrf, unit="points")),
        shot_files=shot_files,
        hub=(hub,) if hub else (),
        source=f"{_SOURCES[name.partition('_')[0]]}; sacrebleu tok:{tokenizer}",
    )


def read(paths: Sequence[Path], source: str, target: str) -> list[Item]:
    """Sentences with their translations, from one file of both or from a file of each.

    Raises:
        DataError: the files can't be read, or hold different numbers of sentences.
    """
    found = [path for path in paths if _language(path) in (source, target)]
    pairs: Pairs
    if len(found) >= 2:
        ours = next((path for path in found if _language(path) == source), None)
        theirs = next((path for path in found if _language(path) == target), None)
        if ours is None or theirs is None:
            cure = f"put the file of the other language beside it (.{source} and .{target})"
            raise DataError("there are sentences of one language only", str(found[0]), cure)
        pairs = _parallel(ours, theirs)
    else:
        pairs = _together(paths[0], source, target)
    items = []
    for number, (place, text, translation) in enumerate(pairs):
        if not text.strip() or not translation.strip():
            raise DataError("a sentence or its translation is empty", place, "leave the pair out")
        items.append(Item(str(number), {"source": text.strip(), "target": translation.strip()}))
    return items


def _language(path: Path) -> str:
    """The language that a file's name ends with: NAME.fr, NAME-src.fr.sgm, packed or not."""
    name = path.name.removesuffix(".gz").removesuffix(".sgm").removesuffix(".txt")
    return name.rpartition(".")[2]


def _parallel(ours: Path, theirs: Path) -> Pairs:
    texts, translations = _sentences(ours), _sentences(theirs)
    if len(texts) != len(translations):
        what = f"{len(texts)} sentences beside {len(translations)}"
        raise DataError(what, f"{ours} and {theirs}", "take both files from one release")
    for number, (text, translation) in enumerate(zip(texts, translations, strict=True), start=1):
        yield f"{ours}:{number}", text, translation


def _sentences(path: Path) -> list[str]:
    if ".sgm" not in path.name:
        return lines(path)
    found = [html.unescape(segment.strip()) for segment in _SEGMENT.findall(read_text(path))]
    if not found:
        raise DataError("the file holds no <seg>", str(path), "give the SGML file of the test set")
    return found


def _together(path: Path, source: str, target: str) -> Pairs:
    name = path.name.removesuffix(".gz")
    read_pairs: Callable[[Path, str, str], Pairs] = _tabbed if name.endswith((".txt", ".tsv")) else _records
    yield from read_pairs(path, source, target)


def _tabbed(path: Path, source: str, target: str) -> Pairs:
    """English, a tab, the other language; what stands behind (attribution) is passed over."""
    for number, line in enumerate(lines(path), start=1):
        cells = line.split("\t")
        if len(cells) < 2:
            cure = "give lines of English, a tab, the translation"
            raise DataError("the line holds no pair", f"{path}:{number}", cure)
        pair = {"en": cells[0], (target if source == "en" else source): cells[1]}
        yield f"{path}:{number}", pair[source], pair[target]


def _records(path: Path, source: str, target: str) -> Pairs:
    for place, row in rows(path):
        pair = row.get("translation", row)
        if not isinstance(pair, Mapping):
            raise DataError("'translation' is no object", place, 'write {"en": "...", "fr": "..."}')
        yield place, text_of(pair, source, place), text_of(pair, target, place)
