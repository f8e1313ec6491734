"""The InstructGPT recipe, complete: pretraining, instruction tuning, reward model, PPO-ptx, and around it.

Importing this package is cheap: no torch, no model code. Import the room you need, for example
`from instructgpt.rlhf.train import PPOConfig, train`.
"""

__version__ = "0.1.0"
