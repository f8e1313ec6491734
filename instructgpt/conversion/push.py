"""A checkpoint or a GGUF file goes to the Hugging Face Hub with a model card: what goes up, said before.

Only the files that make the model are sent: never train_state, moving averages or value networks beside it.
What is sent of this machine's paths is in `card.public`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from instructgpt.conversion.card import card, public
from instructgpt.conversion.facts import facts_of
from instructgpt.conversion.settings import ConvertConfig
from instructgpt.errors import CheckpointError, ConfigError, InstructGPTError, ServiceError

_SENT = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "selftest.json",
    "LICENSE*",
    "NOTICE*",
)
CARD, STAGE = "README.md", "stage.json"


@dataclass(frozen=True)
class Entry:
    """One file of the repository: its name there, and a file here or the bytes themselves."""

    name: str
    content: Path | bytes

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


def push(target: Path, config: ConvertConfig) -> dict[str, Any]:
    """Upload the model folder or GGUF file `target` to `config.push`; returns `pushed` for the summary.

    `pushed`: `repository`, `url`, `private`, `files` (name -> bytes), `left_out`, `commit` (None after a dry
    run). A dry run has the card as `table`.

    Raises:
        CheckpointError: there is no model in the folder.
        ConfigError: no token, one that the Hub refuses, a repository that is there or is not, a bad name.
        ServiceError: the Hub is down or fails.
    """
    entries, left_out = gather(target, config)
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    _say(_announcement(entries, left_out, config, endpoint))
    pushed: dict[str, Any] = {
        "repository": config.push,
        "url": f"{endpoint}/{config.push}",
        "private": config.private,
        "files": {entry.name: entry.size for entry in entries},
        "left_out": left_out,
        "commit": None,
    }
    if config.dry_run:
        text = next(entry.content for entry in entries if entry.name == CARD)
        shown = text.decode() if isinstance(text, bytes) else text.read_text(encoding="utf-8")
        return {"pushed": pushed, "table": shown}
    pushed["commit"] = _upload(entries, config, endpoint)
    _say(f"{pushed['url']} has it")
    return {"pushed": pushed}


def gather(target: Path, config: ConvertConfig) -> tuple[list[Entry], list[str]]:
    """What goes up, the card first, and the names of what stays here."""
    if target.is_file():
        return [_card(target, config), Entry(target.name, target)], []
    found = sorted(path for path in target.iterdir() if not path.name.startswith("."))
    sent = [path for path in found if path.is_file() and any(fnmatch(path.name, p) for p in _SENT)]
    if not any(path.suffix == ".safetensors" for path in sent):
        raise CheckpointError(
            "there is no model to push in this folder",
            where=str(target),
            cure="give a checkpoint folder, the folder of a finished stage, or a GGUF file",
        )
    entries = [_card(target, config), *(Entry(path.name, path) for path in sent)]
    if (target / STAGE).is_file():
        made = public(json.loads((target / STAGE).read_text(encoding="utf-8")))
        text = json.dumps(made, indent=2, ensure_ascii=False) + "\n"
        entries.append(Entry(STAGE, text.encode()))
    names = {entry.name for entry in entries}
    left = [path.name + ("/" if path.is_dir() else "") for path in found if path.name not in names]
    return entries, left


def _card(target: Path, config: ConvertConfig) -> Entry:
    """The folder's own README.md if it has one, else a card written from what is known of the run."""
    own = target / CARD
    if own.is_file():
        return Entry(CARD, own)
    return Entry(CARD, card(facts_of(target), config.push, config.license).encode())


def _announcement(
    entries: Sequence[Entry], left_out: Sequence[str], config: ConvertConfig, endpoint: str
) -> str:
    seen = "what it is if it exists, else " if config.update else ""
    seen += "private" if config.private else "public"
    total = sum(entry.size for entry in entries)
    verb = "would go" if config.dry_run else "goes"
    lines = [f"This {verb} to {endpoint}/{config.push} ({seen}), {_bytes(total)} in all:"]
    lines += [f"  {_bytes(entry.size):>9}  {entry.name}" for entry in entries]
    if left_out:
        lines.append(f"It stays here: {', '.join(left_out)}")
    return "\n".join(lines)


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _upload(entries: Sequence[Entry], config: ConvertConfig, endpoint: str) -> str:
    """Create the repository if it may be, send everything in one commit; returns the commit's hash."""
    # Imported late: the client takes half a second to load, and most conversions stay at home.
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if not get_token():
        raise ConfigError(
            "the Hub takes no upload without a token, and there is none on this machine",
            where="--push",
            cure="log in with `hf auth login`, or set HF_TOKEN to a token with write permission",
        )
    api = HfApi(endpoint=endpoint)
    with _hub_errors(config, endpoint, "create the repository"):
        api.create_repo(config.push, private=config.private, exist_ok=config.update)
    operations = [
        CommitOperationAdd(
            path_in_repo=entry.name,
            path_or_fileobj=entry.content if isinstance(entry.content, bytes) else str(entry.content),
        )
        for entry in entries
    ]
    with _hub_errors(config, endpoint, "upload"):
        done = api.create_commit(
            config.push, operations, commit_message=f"Upload with instructgpt {_verb(entries)}"
        )
    return str(done.oid)


def _verb(entries: Sequence[Entry]) -> str:
    return "(GGUF)" if any(entry.name.endswith(".gguf") for entry in entries) else "convert"


@contextmanager
def _hub_errors(config: ConvertConfig, endpoint: str, what: str) -> Iterator[None]:
    """Whatever the client raises inside becomes one paragraph.

    Its errors of transport have no base class of their own that holds from version to version (they are
    those of requests, httpx or hf_xet), so that everything counts as the Hub's that is not ours.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except InstructGPTError:
        raise
    except HFValidationError as error:
        raise ConfigError(
            f"the Hub allows no such name: {error}", where="--push", cure="choose another OWNER/NAME"
        ) from error
    except HfHubHTTPError as error:
        raise _refusal(error, config, endpoint, what) from error
    except Exception as error:
        raise ServiceError(
            f"could not {what}: {_told(error)}",
            where=endpoint,
            cure="look at the network, then run the same command again"
            + ("" if what != "upload" or config.update else " with --update True: the repository exists now"),
        ) from error


def _told(error: BaseException) -> str:
    """The error and what caused it, as one line."""
    told = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return told if error.__cause__ is None else f"{told} (from {_told(error.__cause__)})"


def _refusal(error: Any, config: ConvertConfig, endpoint: str, what: str) -> InstructGPTError:
    """What an HTTP status of the Hub means for the user."""
    status = error.response.status_code
    said = " ".join(str(error.server_message or "").split()) or f"HTTP status {status}"
    where = f"--push {config.push}"
    if status == 401:
        return ConfigError(
            f"the Hub does not accept the token: {said}",
            where,
            "log in again with `hf auth login`, or set HF_TOKEN to a token with write permission",
        )
    if status == 403:
        owner = config.push.partition("/")[0]
        return ConfigError(
            f"the token may not {what} for {owner}: {said}",
            where,
            f"use a token with write permission of an account that belongs to {owner}",
        )
    if status == 409 and what != "upload":
        return ConfigError(
            "the Hub has a repository of this name already",
            where,
            "choose another name, or add --update to upload into it",
        )
    if status == 404:
        return ConfigError(
            f"the Hub can't find it: {said}", where, "check the owner's name and that the token may see it"
        )
    return ServiceError(
        f"the Hub could not {what} (status {status}): {said}", endpoint, "run the same command again later"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
