"""Lines in the shapes of other projects -> lines in ours, told apart by their keys, line by line.

| shape | keys |
|---|---|
| Alpaca | `instruction, input, output` (and `history` of [user, assistant] pairs) |
| Dolly | `instruction, context, response, category` |
| Self-Instruct seeds | `instruction, instances: [{input, output}]` |
| prompt and completion | `prompt, completion` |
| Hugging Face conversational | `messages: [{role, content}]` |
| LIMA, ShareGPT | `conversations: [str]` in turn, or `[{from, value}]` |
| Hugging Face preference | `prompt, chosen, rejected`, each a string or messages |
| Anthropic HH-RLHF | `chosen, rejected`: transcripts with `\\n\\nHuman:` and `\\n\\nAssistant:` |
| OASST-style rankings | `prompt, history, responses: [str], ranking: [int]` |

Wherever a `history` of [user, assistant] pairs stands beside a `prompt`, it becomes earlier messages of it.

White space around replies of these shapes is cut off: it is an accident of how they were gathered, and a
model would learn it. Other lines in our own shape pass unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from instructgpt.errors import DataError

Kind = Literal["prompt", "demonstration", "ranking", "text"]

_KEPT = ("id", "user_id", "category", "group", "split", "source", "consent", "labeler", "answer", "checks")
_ROLES = {"human": "user", "prompter": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
_TURN = re.compile(r"\n\n(Human|Assistant):")


def normalise(row: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """A line of any known shape as one with our keys; faults that remain are found by the reader of the
    record.

    Args:
        row: the JSON object of one line.
        kind: what it is read as; a conversation gives its last reply as `response` only to a demonstration.

    Raises:
        DataError: the shape is known but this line breaks it (no place given: the reader adds file and line).
    """
    if kind == "text":
        return dict(row)
    if "prompt" in row and "history" in row:
        row = _with_history(row)
    if "response" in row and "prompt" in row:
        return dict(row)
    kept = {key: row[key] for key in _KEPT if key in row}
    if "chosen" in row and "rejected" in row:
        return kept | _preference(row)
    if "instruction" in row and "prompt" not in row:
        return kept | _instruction(row)
    if "messages" in row and "prompt" not in row:
        return kept | _conversation(_messages(row["messages"], "messages"), kind)
    if "conversations" in row and "prompt" not in row:
        return kept | _conversation(_turns(row["conversations"]), kind)
    if "completion" in row and "prompt" in row:
        prompt = row["prompt"]
        completion = row["completion"]
        if isinstance(completion, list):
            completion = _last_reply(_messages(completion, "completion"), "completion")
        return kept | {"prompt": prompt, "response": _strip(completion)}
    if "ranking" in row and "responses" in row:
        return kept | _ranking(row)
    return dict(row)


def _strip(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value  # a wrong type is the reader's to tell


def _prompt(history: list[dict[str, Any]], question: Any) -> Any:
    """A plain string where there is no history, else messages."""
    return [*history, {"role": "user", "content": question}] if history else question


def _history(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Earlier turns, [[user, assistant], ...], as messages."""
    pairs = row.get("history") or []
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise DataError(
            "'history' is not a list of [user, assistant] pairs", cure='write it as [["Hi", "Hello!"]]'
        )
    messages = []
    for user, assistant in pairs:
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return messages


def _with_history(row: Mapping[str, Any]) -> dict[str, Any]:
    """The line with its `history` put before its prompt, as earlier messages."""
    rest = {key: value for key, value in row.items() if key != "history"}
    prompt, history = row["prompt"], _history(row)
    return rest | {"prompt": [*history, *prompt] if isinstance(prompt, list) else _prompt(history, prompt)}


def _instruction(row: Mapping[str, Any]) -> dict[str, Any]:
    """Alpaca, Dolly and Self-Instruct seeds: an instruction, and perhaps a text that it speaks of below
    it."""
    source = row
    instances = row.get("instances")
    if instances is not None:
        if not isinstance(instances, list) or not instances or not isinstance(instances[0], dict):
            raise DataError(
                "'instances' is not a list of objects", cure='write it as [{"input": "...", "output": "..."}]'
            )
        source = instances[0]
    context = source.get("input") or source.get("context") or ""
    question = row["instruction"]
    if isinstance(question, str) and isinstance(context, str) and context.strip():
        question = f"{question.strip()}\n\n{context.strip()}"
    found: dict[str, Any] = {"prompt": _prompt(_history(row), _strip(question))}
    reply = next((source[key] for key in ("output", "response") if key in source), None)
    return found if reply is None else found | {"response": _strip(reply)}


def _messages(value: Any, name: str) -> list[dict[str, Any]]:
    """Messages with our roles; a content given in parts is joined from its texts."""
    if not isinstance(value, list) or not all(isinstance(turn, dict) and "role" in turn for turn in value):
        raise DataError(
            f"{name!r} is not a list of messages",
            cure='write it as [{"role": "user", "content": "..."}, ...]',
        )
    messages = []
    for turn in value:
        content = turn.get("content")
        if isinstance(content, list):
            texts = [
                part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"
            ]
            if len(texts) != len(content) or not all(isinstance(text, str) for text in texts):
                raise DataError(
                    f"a message of {name!r} holds more than text", cure="leave out images and tool calls"
                )
            content = "".join(str(text) for text in texts)
        messages.append({"role": _ROLES.get(turn["role"], turn["role"]), "content": content})
    return messages


def _turns(value: Any) -> list[dict[str, Any]]:
    """LIMA's list of strings in turn, or ShareGPT's list of {from, value}."""
    if isinstance(value, list) and value and all(isinstance(turn, str) for turn in value):
        return [
            {"role": ("user", "assistant")[place % 2], "content": turn} for place, turn in enumerate(value)
        ]
    if not isinstance(value, list) or not all(isinstance(turn, dict) and "from" in turn for turn in value):
        raise DataError(
            "'conversations' is neither a list of strings nor of {from, value} objects",
            cure='write it as [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]',
        )
    turns = [{"role": turn["from"], "content": turn.get("value")} for turn in value]
    return _messages(turns, "conversations")


def _conversation(messages: list[dict[str, Any]], kind: Kind) -> dict[str, Any]:
    """Prompt and last reply of a conversation; turns after the last reply wait for an answer that never
    came."""
    replies = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    if kind == "prompt":  # a prompt may end with the user's turn as it is
        return {
            "prompt": messages[: replies[-1]] if replies and replies[-1] == len(messages) - 1 else messages
        }
    if not replies:
        return {"prompt": messages}  # the reader tells that the response is missing
    return {"prompt": messages[: replies[-1]], "response": _strip(messages[replies[-1]]["content"])}


def _preference(row: Mapping[str, Any]) -> dict[str, Any]:
    """A pair, as a ranking of two: chosen before rejected; two equal replies are a tie."""
    chosen, rejected = row["chosen"], row["rejected"]
    if type(chosen) is not type(rejected) or not isinstance(chosen, str | list):
        raise DataError(
            "'chosen' and 'rejected' must both be strings or both be lists of messages", cure="mend them"
        )
    prompt = row.get("prompt")
    if isinstance(chosen, list):
        first, second = _messages(chosen, "chosen"), _messages(rejected, "rejected")
        if prompt is None:
            prompt, better, worse = _common_prompt(first, second)
        else:
            better, worse = _last_reply(first, "chosen"), _last_reply(second, "rejected")
    elif prompt is None:
        prompt, better, worse = _common_prompt(
            _transcript(chosen, "chosen"), _transcript(rejected, "rejected")
        )
    else:
        better, worse = chosen, rejected
    better, worse = _strip(better), _strip(worse)
    responses = [{"text": better, "rank": 1}, {"text": worse, "rank": 1 if better == worse else 2}]
    return {"prompt": prompt, "responses": responses}


def _last_reply(messages: list[dict[str, Any]], name: str) -> Any:
    if not messages or messages[-1]["role"] != "assistant":
        raise DataError(f"{name!r} does not end with the assistant's message", cure="end it with the reply")
    return messages[-1]["content"]


def _transcript(text: str, name: str) -> list[dict[str, Any]]:
    """Turns of an HH-RLHF dialogue; what one side says in two goes is joined."""
    parts = _TURN.split(text)
    if parts[0].strip() or len(parts) < 3:
        raise DataError(
            f"{name!r} is neither a reply to a 'prompt' nor a transcript",
            cure="add \"prompt\", or start turns with '\\n\\nHuman:' and '\\n\\nAssistant:'",
        )
    messages: list[dict[str, Any]] = []
    for speaker, said in zip(parts[1::2], parts[2::2], strict=True):
        role = "user" if speaker == "Human" else "assistant"
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] = f"{messages[-1]['content']}\n\n{said.strip()}"
        else:
            messages.append({"role": role, "content": said.strip()})
    return messages


def _common_prompt(
    first: list[dict[str, Any]], second: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], Any, Any]:
    """Turns that two dialogues share, and the replies with which they part.

    Dialogues of the pair normally differ in their last reply only. A few of HH-RLHF part earlier; then the
    replies are those at the parting, and what follows is left out, since its own prompt is not the same.
    """
    same = 0
    while same < min(len(first), len(second)) and first[same] == second[same]:
        same += 1
    if same and same == min(len(first), len(second)) and first[same - 1]["role"] == "assistant":
        same -= 1  # one is the other, or its beginning: they say the same last thing, which is a tie
    if same < 1 or same >= min(len(first), len(second)):
        raise DataError(
            "'chosen' and 'rejected' do not answer the same prompt",
            cure="give both the same turns but for the reply",
        )
    better, worse = first[same], second[same]
    if better["role"] != "assistant" or worse["role"] != "assistant":
        raise DataError(
            "'chosen' and 'rejected' part at a turn of the user, not at a reply",
            cure="give both the same turns but for the assistant's last one",
        )
    return first[:same], better["content"], worse["content"]


def _ranking(row: Mapping[str, Any]) -> dict[str, Any]:
    """Replies as strings, and beside them the rank of each."""
    replies, ranks = row["responses"], row["ranking"]
    if not isinstance(replies, list) or not isinstance(ranks, list) or len(replies) != len(ranks):
        raise DataError(
            "'ranking' is not a list with one rank for each of 'responses'",
            cure="write a whole number for each reply",
        )
    responses = [{"text": _strip(text), "rank": rank} for text, rank in zip(replies, ranks, strict=True)]
    found: dict[str, Any] = {"responses": responses}
    if "prompt" in row:
        found["prompt"] = row["prompt"]
    return found
