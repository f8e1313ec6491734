"""The labelers' side: demonstrations, prompts, rankings and comparisons made by people."""
