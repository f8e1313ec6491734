"""The shape of a decoder-only Transformer of the GPT-2 or the Llama family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from instructgpt.errors import ConfigError

Family = Literal["gpt2", "llama"]

# What each family fixes. `family` decides the names and the layout in Hugging Face checkpoints, so a mixture
# (say GPT-2 names with rotary positions) could be trained but never opened by another program.
_FIXED: dict[str, dict[str, object]] = {
    "gpt2": {
        "positions": "learned",
        "norm": "layer",
        "activation": "gelu",
        "attention_bias": True,
        "mlp_bias": True,
    },
    "llama": {"positions": "rotary", "norm": "rms", "activation": "swiglu"},
}
_SIZES = (
    "vocab_size",
    "width",
    "layers",
    "heads",
    "kv_heads",
    "head_dim",
    "ffn_width",
    "context",
)


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and choices of one model; build it with `ModelConfig.llama` or `ModelConfig.gpt2`.

    Raises `ConfigError` when the values do not make a model of their family.
    """

    family: Family
    vocab_size: int
    width: int
    """D, the size of a hidden state."""
    layers: int
    heads: int
    kv_heads: int
    """Key/value heads; fewer than `heads` is grouped-query attention (arXiv:2305.13245)."""
    head_dim: int
    ffn_width: int
    context: int
    """Longest sequence in tokens."""
    positions: Literal["learned", "rotary"]
    norm: Literal["layer", "rms"]
    activation: Literal["gelu", "swiglu"]
    """gelu is the tanh form ("gelu_new" in Hugging Face configurations)."""
    attention_bias: bool
    mlp_bias: bool
    tied: bool
    """The unembedding is the embedding matrix."""
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.family not in _FIXED:
            raise ConfigError(
                f"unknown model family {self.family!r}",
                where="family",
                cure='use "gpt2" or "llama"',
            )
        for name in _SIZES:
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}",
                    where=name,
                    cure="give a whole number of at least 1",
                )
        for name, value in _FIXED[self.family].items():
            if getattr(self, name) != value:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}, but a {self.family} model has {value!r}",
                    where=name,
                    cure=f"leave it out or set it to {value!r}",
                )
        self._check_heads()

    def _check_heads(self) -> None:
        if self.heads % self.kv_heads:
            below = max(k for k in range(1, self.kv_heads + 1) if self.heads % k == 0)
            raise ConfigError(
                f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}",
                where="kv_heads",
                cure=f"use kv_heads {below} or {self.heads}",
            )
        if self.family == "gpt2" and (
            self.kv_heads != self.heads or self.heads * self.head_dim != self.width
        ):
            raise ConfigError(
                f"a gpt2 model needs kv_heads = heads and heads x head_dim = width; got heads {self.heads}, "
                f"kv_heads {self.kv_heads}, head_dim {self.head_dim}, width {self.width}",
                where="heads",
                cure="choose heads that divide width and leave kv_heads and head_dim out",
            )
        if self.positions == "rotary" and self.head_dim % 2:
            raise ConfigError(
                f"head_dim {self.head_dim} is odd; rotary positions turn pairs of numbers",
                where="head_dim",
                cure="choose width and heads so that width / heads is even",
            )

    @classmethod
    def llama(
        cls,
        *,
        vocab_size: int,
        width: int,
        layers: int,
        heads: int,
        context: int,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        ffn_width: int | None = None,
        attention_bias: bool = False,
        mlp_bias: bool = False,
        tied: bool = True,
        rope_theta: float = 10_000.0,
        norm_eps: float = 1e-5,
    ) -> ModelConfig:
        """A Llama-family model; `ffn_width` defaults to 8/3 of the width, rounded up to a multiple of 32.

        8/3 gives SwiGLU's 3 matrices the parameters of a plain 4x feed-forward (arXiv:2002.05202, section 3).
        """
        return cls(
            family="llama",
            vocab_size=vocab_size,
            width=width,
            layers=layers,
            heads=heads,
            kv_heads=heads if kv_heads is None else kv_heads,
            head_dim=_derived_head_dim(width, heads) if head_dim is None else head_dim,
            ffn_width=-(-8 * width // 3 // 32) * 32 if ffn_width is None else ffn_width,
            context=context,
            positions="rotary",
            norm="rms",
            activation="swiglu",
            attention_bias=attention_bias,
            mlp_bias=mlp_bias,
            tied=tied,
            rope_theta=rope_theta,
            norm_eps=norm_eps,
        )

    @classmethod
    def gpt2(
        cls,
        *,
        vocab_size: int,
        width: int,
        layers: int,
        heads: int,
        context: int,
        ffn_width: int | None = None,
        tied: bool = True,
        norm_eps: float = 1e-5,
    ) -> ModelConfig:
        """A GPT-2-family model; `ffn_width` defaults to four times the width."""
        return cls(
            family="gpt2",
            vocab_size=vocab_size,
            width=width,
            layers=layers,
            heads=heads,
            kv_heads=heads,
            head_dim=_derived_head_dim(width, heads),
            ffn_width=4 * width if ffn_width is None else ffn_width,
            context=context,
            positions="learned",
            norm="layer",
            activation="gelu",
            attention_bias=True,
            mlp_bias=True,
            tied=tied,
            norm_eps=norm_eps,
        )


def _derived_head_dim(width: int, heads: int) -> int:
    if heads < 1 or width % heads:
        raise ConfigError(
            f"width {width} is not divisible by heads {heads}",
            where="heads",
            cure="choose heads that divide the width, or set head_dim",
        )
    return width // heads
