"""A reward from a checkpoint or from a function of the user's, in batches."""
