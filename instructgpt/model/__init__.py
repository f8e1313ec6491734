"""ids -> hidden states -> logits or a scalar: a decoder-only Transformer and its files (torch only)."""
