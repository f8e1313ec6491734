"""How toxic a text is: a word list, a reward model trained for it, Perspective. It holds offensive words."""
