"""Evaluation suites: what a task is, what a model must offer, how results lie on disk."""
