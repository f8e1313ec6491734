"""Step 2: a reward model from labelers' rankings."""
