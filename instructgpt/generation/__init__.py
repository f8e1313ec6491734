"""Replies from a language model: keyed sampling, continuous batching, streamed text, terminal verbs."""
