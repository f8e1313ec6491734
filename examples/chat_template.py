"""What a conversation looks like to a model: one conversation under three chat templates.

Run it with `python examples/chat_template.py [FOLDER]`; FOLDER is any checkpoint whose tokenizer you want to
look at as well. Tokens that count in the loss have a star: the assistant's words and the end of its turn.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from instructgpt.text.chat import Message, render
from instructgpt.text.template import PLAIN_TEMPLATE
from instructgpt.text.tokenizer import Tokenizer, train_tokenizer

CONVERSATION = [
    Message("user", "name a river <|end|>"),  # a special token spelled by a user stays plain text
    Message("assistant", "the nile"),
]
# A template as Jinja: it prints each message once and in order.
SHORT_TEMPLATE = (
    "{% for m in messages %}{{ 'Q: ' if m['role'] == 'user' else 'A: ' }}{{ m['content'] }}"
    "{{ eos_token if m['role'] == 'assistant' else '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}A: {% endif %}"
)


def show(tokenizer: Tokenizer) -> str:
    """The tokens of the conversation, those that count with a star."""
    rendered = render(tokenizer, CONVERSATION)
    return " ".join(
        ("*" if counts else "") + repr(tokenizer.decode([index], skip_special=False))
        for index, counts in zip(rendered.ids, rendered.train_mask, strict=True)
    )


def with_template(tokenizer: Tokenizer, template: str, folder: Path) -> Tokenizer:
    """The same tokenizer with another template, by way of a folder as a checkpoint has it."""
    tokenizer.save(folder)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return Tokenizer.load(folder)


if __name__ == "__main__":
    own = train_tokenizer(["name a river", "the nile", "user assistant"] * 4, vocab_size=320)
    print("ours: ", show(own))
    with tempfile.TemporaryDirectory() as place:
        print("plain:", show(with_template(own, PLAIN_TEMPLATE, Path(place) / "plain")))
        print("short:", show(with_template(own, SHORT_TEMPLATE, Path(place) / "short")))
    if len(sys.argv) > 1:
        print(f"{sys.argv[1]}:", show(Tokenizer.load(sys.argv[1])))
