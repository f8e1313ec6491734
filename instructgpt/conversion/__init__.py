"""Models in and out of the house: GGUF and Hugging Face folders, mixtures of two models, the Hub."""
