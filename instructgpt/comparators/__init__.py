"""What PPO-ptx must be measured against, on the same models and data: DPO, RLOO, GRPO, A2C, distillation.

One method a file, each a plain `train(config)`; their formulas are in `maths.preference` and
`maths.policy_gradient`. Sampling, scoring and the KL are those of `rlhf`.
"""
