"""PPO-ptx (arXiv:2203.02155, section 3.5): rollout -> reward -> advantage -> update, joined by train."""
