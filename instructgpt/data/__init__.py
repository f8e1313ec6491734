"""Records of text, their files, and packed batches. Only collate.py and shards.py import torch or numpy."""
