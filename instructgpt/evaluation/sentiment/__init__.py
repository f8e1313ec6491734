"""Sentiment of reviews: a language model beside two classical baselines trained on the same data."""
