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
    """Negative log-likelihood in nats and number of predicted tokens, one of each a document."""

    nats: list[float]
    tokens_each: list[int]

    @property
    def loss(self) -> float:
        """Mean over all predicted tokens, nats per token."""
        return sum(self.nats) / self.tokens

    @property
    def tokens(self) -> int:
        """Predicted tokens of all documents."""
        return sum(self.tokens_each)

    @property
    def documents(self) -> int:
        """How many documents there are."""
        return len(self.nats)


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
    return document_loss(model, documents, max_tokens)


@torch.inference_mode()
def document_loss(
    model: LanguageModel, documents: Sequence[list[int]], max_tokens: int = MAX_TOKENS
) -> TextLoss:
    """Loss of documents given as ids; see `text_loss`."""
    context = model.config.context
    cut = [
        (number, ids[start : start + context])
        for number, ids in enumerate(documents)
        for start in range(0, max(1, len(ids) - 1), context - 1)
    ]
    owners = [number for number, piece in cut if len(piece) > 1]
    pieces = [piece for _, piece in cut if len(piece) > 1]
    if not pieces:
        raise DataError("there is no text whose loss could be taken", cure="give documents with text in them")
    device = next(model.parameters()).device
    nats, tokens = [0.0] * len(documents), [0] * len(documents)
    for batch in plan_batches([len(piece) for piece in pieces], max_tokens):
        ids, positions, lengths = pack_ids([pieces[i] for i in batch])
        hidden = model(ids.to(device), positions.to(device), lengths)  # (N, D)
        predicts = torch.ones(len(ids), dtype=torch.bool)
        predicts[torch.tensor(lengths).cumsum(0) - 1] = False  # the last token of a piece predicts nothing
        targets = ids.roll(-1)[predicts].to(device)
        logprobs = token_logprobs(hidden[predicts.to(device)], model.unembedding, targets)
        each = logprobs.cpu().double().split([length - 1 for length in lengths])
        for i, piece in zip(batch, each, strict=True):
            nats[owners[i]] -= float(piece.sum())
            tokens[owners[i]] += len(piece)
    return TextLoss(nats, tokens)
