"""Step 0: a tokenizer and a language model from plain text."""
