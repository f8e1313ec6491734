"""Step 1: instruction tuning on labelers' demonstrations."""
