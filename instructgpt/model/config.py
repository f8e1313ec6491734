"""The shape of a decoder-only Transformer: GPT-2, Llama (SmolLM2, TinyLlama), Mistral, Qwen 2, 2.5 and 3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from instructgpt.errors import ConfigError

Family = Literal["gpt2", "llama", "mistral", "qwen2", "qwen3"]

# What each family fixes. `family` decides the names and the layout in Hugging Face checkpoints, so a mixture
# (say GPT-2 names with rotary positions) could be trained but never opened by another program.
_GATED: dict[str, object] = {"positions": "rotary", "norm": "rms", "activation": "swiglu"}
_FIXED: dict[str, dict[str, object]] = {
    "gpt2": {
        "positions": "learned",
        "norm": "layer",
        "activation": "gelu",
        "attention_bias": True,
        "mlp_bias": True,
        "qk_norm": False,
        "window": None,
        "rope": None,
    },
    "llama": {**_GATED, "qk_norm": False, "window": None},
    "mistral": {**_GATED, "attention_bias": False, "mlp_bias": False, "qk_norm": False},
    "qwen2": {**_GATED, "attention_bias": True, "mlp_bias": False, "qk_norm": False},
    "qwen3": {**_GATED, "mlp_bias": False, "qk_norm": True},
}
FAMILIES: tuple[str, ...] = tuple(_FIXED)
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
class RopeScaling:
    """How rotary frequencies are changed so that a model reads more than it was first trained on.

    kind: "linear" (positions divided, arXiv:2306.15595), "dynamic" (the base grows with the length of the
    sequence beyond the context), "yarn" (arXiv:2309.00071), "llama3" (arXiv:2407.21783).
    The other fields hold for the kinds named. Raises `ConfigError` for a kind or a number that can't be.
    """

    kind: Literal["linear", "dynamic", "yarn", "llama3"]
    factor: float
    original_context: int = 0
    """yarn, llama3: tokens that the model was first trained on."""
    attention_factor: float | None = None
    """yarn: cosines and sines are multiplied by it; None is 0.1 ln(factor) + 1 (eq. 22 there)."""
    mscale: float | None = None
    mscale_all_dim: float | None = None
    """yarn, both or neither: the attention factor is the ratio of eq. 22 with each in the place of 1."""
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    """yarn: turns over the original context above which a frequency stays, below which it is divided."""
    truncate: bool = True
    """yarn: the two bounds are rounded outwards to whole dimensions."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    """llama3: the same two bounds, the slow one first."""

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "dynamic", "yarn", "llama3"):
            raise ConfigError(
                f"rotary positions of type {self.kind!r} are not computed here",
                where="rope_type",
                cure="use a checkpoint with rope_type default, linear, dynamic, yarn or llama3",
            )
        numbers = {"factor": self.factor}
        if self.kind in ("yarn", "llama3"):
            numbers["original_max_position_embeddings"] = self.original_context
        for name, value in numbers.items():
            if not value > 0:
                raise ConfigError(f"{name} is {value}", where="rope", cure="give a number above 0")
        if self.kind == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            raise ConfigError(
                f"high_freq_factor {self.high_freq_factor} is not above low_freq_factor "
                f"{self.low_freq_factor}",
                where="rope",
                cure="Llama 3.1 has 4 and 1",
            )


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and choices of one model; build it with `ModelConfig.llama`, `ModelConfig.gpt2` or by family.

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
    """Of query, key and value; the output projection has one too, but for Qwen 2."""
    mlp_bias: bool
    tied: bool
    """The unembedding is the embedding matrix."""
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    rope: RopeScaling | None = None
    qk_norm: bool = False
    """RMSNorm of each query and key head before the rotation (Qwen 3, arXiv:2505.09388 section 2)."""
    window: int | None = None
    """A token sees itself and the window - 1 tokens before it (arXiv:2310.06825 section 2); None: all."""

    def __post_init__(self) -> None:
        if self.family not in _FIXED:
            raise ConfigError(
                f"unknown model family {self.family!r}",
                where="family",
                cure=f"use one of {', '.join(FAMILIES)}",
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
        if self.window is not None and self.window < 1:
            raise ConfigError(
                f"window is {self.window}", where="window", cure="give at least 1, or leave it out"
            )
        self._check_heads()

    @property
    def output_bias(self) -> bool:
        """Whether attention's output projection has a bias."""
        return self.attention_bias and self.family != "qwen2"

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
        if self.rope is not None and self.rope.kind == "dynamic" and self.head_dim < 4:
            raise ConfigError(
                f"head_dim {self.head_dim} has no second frequency for rotary positions of type dynamic",
                where="head_dim",
                cure="use a head_dim of at least 4",
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
        rope: RopeScaling | None = None,
        window: int | None = None,
        family: Family = "llama",
    ) -> ModelConfig:
        """A Llama, Mistral, Qwen 2 or Qwen 3 model; biases, window and q/k norm must fit the family.

        `ffn_width` defaults to 8/3 of the width, rounded up to a multiple of 32:
        8/3 gives SwiGLU's 3 matrices the parameters of a plain 4x feed-forward (arXiv:2002.05202, section 3).
        """
        return cls(
            family=family,
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
            rope=rope,
            qk_norm=family == "qwen3",
            window=window,
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
