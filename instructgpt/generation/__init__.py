"""Sampling replies from a language model: keyed sampling, continuous batching, streaming text, terminal verbs."""
