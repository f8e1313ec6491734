"""Verb `data feedback`: what users said of replies, as files for `reward`, `ppo` and `sft` (field fault 45).

| file | from | read by |
|---|---|---|
| rankings.jsonl | comparisons; ties have equal ranks, two bad replies the flag `both_bad` too | reward |
| demonstrations.jsonl | edited replies | sft, reward --demonstrations |
| prompts.jsonl | every conversation, once | ppo |
| thumbs.jsonl | thumbs, as `{"prompt", "completion", "label"}` | who trains on single judgements |
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError
from urllib.request import Request, urlopen

from tyro.conf import Positional

from instructgpt.data.jsonl import expand, write_jsonl
from instructgpt.data.records import Demonstration, Prompt, RankedResponse, Ranking, to_row
from instructgpt.errors import ConfigError, DataError, ServiceError
from instructgpt.runtime.checkpoint import open_run
from instructgpt.serving.journal import Entries, read_journal
from instructgpt.text.chat import Message

TOKEN = "INSTRUCTGPT_FEEDBACK_TOKEN"
"""Environment variable with the token that a URL is asked with."""
_SECONDS = 60.0
_LONGEST = 1 << 30  # bytes of an answer


@dataclass(frozen=True)
class DataConfig:
    """Make training data: `feedback` turns what users said of replies into records for the stages."""

    what: Positional[Literal["feedback"]] = "feedback"
    """What to make it from."""
    source: Positional[str] = ""
    """The file of `serve --feedback`, several with commas, a glob, or a URL that gives such lines."""
    out: str = ""
    """Folder to write."""
    model: str = ""
    """Keep feedback on replies of this model only: a name, or a hash as /v1/models shows it."""
    since: str = ""
    """Keep feedback from this day on (UTC), such as 2026-09-30."""

    def __post_init__(self) -> None:
        if self.since:
            try:
                date.fromisoformat(self.since)
            except ValueError:
                cure = "write it like 2026-09-30"
                raise ConfigError(f"{self.since!r} is no day", "--since", cure) from None


def run(config: DataConfig) -> dict[str, Any]:
    """Write the files; returns the summary.

    Rows without consent are passed over and counted. Where somebody judged the same replies again, the last
    word counts. Summary: `rows`, `torn` (lines that a kill of the server cut), `without_consent`, `repeated`,
    `rankings`, `ties`, `both_bad`, `demonstrations`, `prompts`, `thumbs`, `users`, and the names of the
    `files`; a file that would be empty is not written.

    Raises:
        ConfigError, DataError, ServiceError: a flag, a row or the URL can't be used; or nothing is left.
    """
    if not config.source:
        cure = "give the file that `instructgpt serve --feedback FILE` writes"
        raise ConfigError("no feedback was named", "instructgpt data feedback", cure)
    remote = config.source.startswith(("http://", "https://"))
    inputs = {"feedback": "" if remote else ",".join(map(str, expand(config.source)))}
    with open_run(config.out, "data", config, inputs) as opened:
        # What a URL gives may have grown since.
        if opened.finished is not None and not remote:
            return opened.finished
        paths = [_fetch(config.source, opened.folder / "feedback.jsonl")] if remote else expand(config.source)
        return opened.finish(_write(opened.folder, [read_journal(path) for path in paths], config))


def _fetch(url: str, path: Path) -> Path:
    """The lines that a URL gives, kept in `path`."""
    token = os.environ.get(TOKEN, "").strip()
    headers = {"Accept": "application/jsonl"} | ({"Authorization": f"Bearer {token}"} if token else {})
    shown = url.split("?")[0]
    try:
        with urlopen(Request(url, headers=headers), timeout=_SECONDS) as response:
            content = response.read(_LONGEST)
    except (URLError, HTTPException, OSError, ValueError) as error:
        cure = f"check the address, and the token in {TOKEN} if the server asks for one"
        raise ServiceError(f"the feedback can't be fetched: {error}", shown, cure) from error
    path.write_bytes(content)
    return path


def _write(folder: Path, journals: Sequence[Entries], config: DataConfig) -> dict[str, Any]:
    placed = [pair for found in journals for pair in zip(found.places, found.rows, strict=True)]
    torn = [place for found in journals for place in found.torn]
    consented = [_checked(row, place) for place, row in placed if row.get("consent") is True]
    wanted = [row for row in consented if _wanted(row, config)]
    about = {_about(row): row for row in wanted}
    # By content: what was said at the same time may have been stored in any order.
    last = [about[key] for key in sorted(about)]
    rankings = [_ranking(row) for row in last if row["kind"] == "comparison"]
    demonstrations = [
        Demonstration(_prompt(row), row["edited"])
        for row in last
        if row["kind"] == "edit" and row["edited"].strip()
    ]
    thumbs = [_thumb(row) for row in last if row["kind"] == "thumb"]
    prompts = {prompt.messages: prompt for prompt in map(_prompt, last)}
    files: dict[str, Iterable[Mapping[str, Any]]] = {
        "rankings": map(to_row, rankings),
        "demonstrations": map(to_row, demonstrations),
        "prompts": map(to_row, prompts.values()),
        "thumbs": thumbs,
    }
    counts = {
        "rankings": len(rankings),
        "demonstrations": len(demonstrations),
        "prompts": len(prompts),
        "thumbs": len(thumbs),
    }
    if not prompts:
        cut = f", {len(torn)} lines that can't be read, the first at {torn[0]}" if torn else ""
        what = f"of {len(placed)} rows none may be used ({len(placed) - len(consented)} without consent{cut})"
        raise DataError(what, config.source, "collect more feedback, or ask for less with --model, --since")
    for name, lines in files.items():
        if counts[name]:
            write_jsonl(folder / f"{name}.jsonl", lines)
    choices = [row["choice"] for row in last if row["kind"] == "comparison"]
    return {
        "rows": len(placed),
        "torn": len(torn),
        "without_consent": len(placed) - len(consented),
        "repeated": len(wanted) - len(last),
        **counts,
        "ties": choices.count("tie"),
        "both_bad": choices.count("both_bad"),
        "users": len({row.get("user") or row.get("key") or row["id"] for row in last}),
        "files": [f"{name}.jsonl" for name in files if counts[name]],
    }


def _checked(row: dict[str, Any], place: str) -> dict[str, Any]:
    """The row, if all can be made of it that its kind stands for."""
    try:
        _prompt(row), _about(row), [_model(reply) for reply in row["replies"]]
        kind = row["kind"]
        if kind == "comparison":
            _ranking(row)
        elif kind == "thumb":
            _thumb(row)
        elif not (kind == "edit" and isinstance(row["edited"], str)):
            raise ValueError(f"kind is {kind!r}")
    except (KeyError, TypeError, ValueError) as error:
        what = f"this row is not as `serve` writes one: {type(error).__name__} {error}"
        raise DataError(what, place, "remove the line, or take the file that `serve` wrote") from error
    return row


def _wanted(row: Mapping[str, Any], config: DataConfig) -> bool:
    if config.since and str(row.get("time", "")) < config.since:
        return False
    names = {name for reply in row["replies"] for name in (reply["model"], reply.get("model_hash"))}
    return not config.model or config.model in names


def _about(row: Mapping[str, Any]) -> str:
    """What a row judges, and who does: of two rows about the same the later one counts."""
    texts = [reply["text"] for reply in row["replies"]]
    who = row.get("user") or row.get("key") or row.get("id")
    return json.dumps([who, row["kind"], row["prompt"], texts], ensure_ascii=True)


def _prompt(row: Mapping[str, Any]) -> Prompt:
    messages = tuple(Message(turn["role"], turn["content"]) for turn in row["prompt"])
    return Prompt(messages, user_id=row.get("user") or None, source="feedback", consent=True)


def _model(reply: Mapping[str, Any]) -> str:
    return f"{reply['model']}@{reply['model_hash']}" if reply.get("model_hash") else str(reply["model"])


def _ranking(row: Mapping[str, Any]) -> Ranking:
    choice = row["choice"]
    flags = ("both_bad",) if choice == "both_bad" else ()
    responses = tuple(
        RankedResponse(
            reply["text"],
            rank=1 if isinstance(choice, str) or place == choice else 2,
            flags=flags,
            model=_model(reply),
        )
        for place, reply in enumerate(row["replies"])
    )
    return Ranking(_prompt(row), responses, row.get("user") or None)


def _thumb(row: Mapping[str, Any]) -> dict[str, Any]:
    (reply,) = row["replies"]
    thumb = {"completion": reply["text"], "label": row["thumb"] == "up", "model": _model(reply)}
    said = {name: row[name] for name in ("reason", "flags") if row.get(name)}
    return to_row(_prompt(row)) | thumb | said
