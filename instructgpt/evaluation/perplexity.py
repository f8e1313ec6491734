"""Loss of a language model on held-out text, in nats per token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from instructgpt.data.collate import pack_ids
from instructgpt.data.packing import plan_batches
from instructgpt.data.records import Text
from instructgpt.errors import DataError
from instructgpt.maths.logprobs import token_logprobs
from instructgpt.model.heads import LanguageModel
from instructgpt.text.tokenizer import Tokenizer

MAX_TOKENS = 8192


@dataclass(frozen=True)
class TextLoss:
    """Mean negative log-likelihood over `tokens` predicted tokens of `documents` documents."""

    loss: float
    tokens: int
    documents: int


def text_loss(
    model: LanguageModel,
    tokenizer: Tokenizer,
    texts: Sequence[Text | str],
    max_tokens: int = MAX_TOKENS,
) -> TextLoss:
    """Loss on documents, each encoded as in pretraining: bos (if there is one), text, eos.

    Documents never see each other. One longer than the model's context is cut into pieces of the context's
    length; each piece but the first starts with the last token of the piece before, so that every token after
    the first of the document is predicted exactly once.

    Raises:
        DataError: there is nothing to predict.
    """
    head = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    plain = [text if isinstance(text, str) else text.text for text in texts]
    documents = [[*head, *ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(plain)]
    loss, tokens = document_loss(model, documents, max_tokens)
    return TextLoss(loss, tokens, len(documents))


@torch.inference_mode()
def document_loss(
    model: LanguageModel, documents: Sequence[list[int]], max_tokens: int = MAX_TOKENS
) -> tuple[float, int]:
    """(nats per token, predicted tokens) of documents given as ids; see `text_loss`."""
    context = model.config.context
    pieces = [
        ids[start : start + context]
        for ids in documents
        for start in range(0, max(1, len(ids) - 1), context - 1)
    ]
    pieces = [piece for piece in pieces if len(piece) > 1]
    if not pieces:
        raise DataError("there is no text whose loss could be taken", cure="give documents with text in them")
    device = next(model.parameters()).device
    total, count = 0.0, 0
    for batch in plan_batches([len(piece) for piece in pieces], max_tokens):
        ids, positions, lengths = pack_ids([pieces[i] for i in batch])
        hidden = model(ids.to(device), positions.to(device), lengths)  # (N, D)
        predicts = torch.ones(len(ids), dtype=torch.bool)
        predicts[torch.tensor(lengths).cumsum(0) - 1] = False  # the last token of a piece predicts nothing
        targets = ids.roll(-1)[predicts].to(device)
        logprobs = token_logprobs(hidden[predicts.to(device)], model.unembedding, targets)
        total -= float(logprobs.cpu().double().sum())
        count += len(targets)
    return total / count, count
