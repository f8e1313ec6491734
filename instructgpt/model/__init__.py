"""ids -> hidden states -> logits or a scalar: the decoder-only Transformer and its file formats (torch only)."""
