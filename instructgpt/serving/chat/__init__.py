"""The chat page of `serve`: talk, compare, and say which reply is better."""
