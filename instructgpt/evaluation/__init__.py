"""What a model is worth: win rates with intervals, divergence, loss on text, baselines, the report."""
