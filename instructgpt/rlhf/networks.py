"""The four networks of PPO: reference, policy, value network; and rewards that are models.

With LoRA all that stand over one base share its weights (`model.shared`): the reference is the base or a
frozen adapter, the reward model a frozen adapter, policy and value network are adapters that are trained. A
reward model that is complete is a base too, which the value network that starts from it shares.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from instructgpt.errors import CheckpointError
from instructgpt.model.adapter import is_adapter, read_adapter
from instructgpt.model.heads import LanguageModel, ScalarModel, scalar_from_language
from instructgpt.model.hf import load_language_model, load_scalar_model
from instructgpt.model.lora_settings import lora_of
from instructgpt.model.shared import Bases, scalar_over, start_language, start_scalar
from instructgpt.rlhf.settings import PPOConfig
from instructgpt.runtime.seeds import derive_seed
from instructgpt.scoring.reward import Reward, load_reward


class Networks:
    """Opens each network once, in the order asked for; at a restart those that train as they were saved."""

    def __init__(self, config: PPOConfig, model: Path, latest: Path | None, device: torch.device) -> None:
        """`model` is the SFT checkpoint, `latest` the checkpoint to go on from, if any."""
        self._config, self._model, self._latest, self._device = config, model, latest, device
        self._lora = lora_of(config)
        self._bases = None if self._lora is None else Bases(device)

    def reference(self) -> LanguageModel:
        """The frozen SFT model."""
        if self._bases is not None:
            return self._bases.language(self._model, self._config.lora_base)
        return load_language_model(self._model).to(self._device).requires_grad_(False)

    def reward(self, spec: str) -> Reward:
        """What a --reward names; of models frozen ones."""
        return load_reward(spec, self._device, self._bases)

    def policy(self) -> LanguageModel:
        """The SFT model, to be trained."""
        start = self._latest or self._model
        if self._lora is not None and self._bases is not None:
            return start_language(self._bases, start, self._lora, derive_seed(self._config.seed, "adapters"))
        return load_language_model(start).to(self._device)

    def value(self, init: str, reward: str, policy: LanguageModel) -> ScalarModel:
        """V: `init` says whether from the reward's first checkpoint or the SFT body with a head of zeros."""
        first = Path(reward.split(",")[0])
        seed = derive_seed(self._config.seed, "value")
        if self._lora is not None and self._bases is not None:
            if self._latest is not None:
                return cast(ScalarModel, self._bases.attach(read_adapter(self._latest / "value")))
            if init != "reward":
                return start_scalar(self._bases, self._model, self._lora, seed, zero_head=True)
            if is_adapter(first):
                return cast(ScalarModel, self._bases.attach(read_adapter(first)))
            # Its own scores must stay what they are, so this base is never rounded.
            return scalar_over(self._bases.open(first), replace(self._lora, base="float32"), seed)
        if self._latest is not None:
            return load_scalar_model(self._latest / "value").to(self._device)
        if init == "reward":
            return load_scalar_model(first).to(self._device)
        return scalar_from_language(policy, seed, zero_head=True)

    def average(self) -> LanguageModel:
        """The policy's moving average in the checkpoint to go on from."""
        assert self._latest is not None
        folder = self._latest / "ema"
        if self._bases is None:
            return load_language_model(folder)
        model = self._bases.attach(read_adapter(folder))
        if not isinstance(model, LanguageModel):
            raise CheckpointError("this is no policy", str(folder), "copy the checkpoint again")
        return model
