"""Text to ids and back: tokenizer and chat templates. Imports no torch."""
