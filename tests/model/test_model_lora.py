"""LoRA over a frozen base: hand arithmetic, the `peft` library both ways, merging, sharing, 8-bit bases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from benchmarks.parity import MODELS, SPECIAL, documents, packed
from instructgpt.errors import CheckpointError, ConfigError
from instructgpt.model.adapter import read_adapter
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model, new_scalar_model
from instructgpt.model.hf import load_language_model, load_scalar_model, save_model
from instructgpt.model.int8 import Int8Linear, dequantise, quantise
from instructgpt.model.linear import Linear
from instructgpt.model.lora import (
    LoraLinear,
    Part,
    adapters,
    copy_trained,
    merge,
    parts_of,
    targeted,
    unmerge,
)
from instructgpt.model.lora_settings import Lora
from instructgpt.model.shared import Bases, language_over, scalar_over, start_language, start_scalar

FAMILIES = pytest.mark.parametrize(
    "kind", ["GPT-2", "GPT-2, untied", "Llama, biases", "SmolLM2", "Mistral", "Qwen 2.5", "Qwen 3, window"]
)
ROWS = documents([9, 30, 1, 12], 0)
# peft asks transformers for a property under a name that it gives up.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def saved(kind: str, folder: Path) -> Path:
    """A random model of transformers, on disk."""
    MODELS[kind][1](0).save_pretrained(folder)
    return folder


def randomised(model):
    """An adapted model whose B is not 0 any more."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in adapters(model, model.config).values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
    return model


def adapted(base: Path, lora: Lora):
    return randomised(language_over(Bases().open(base), lora, seed=1))


def logits(model):
    """Of a ragged packed batch."""
    return model.logits(model(*packed(ROWS)))


def their_logits(model):
    """Of a transformers model, each row alone."""
    return torch.cat([model(row[None]).logits[0] for row in ROWS])


def test_the_product_by_hand() -> None:
    # W x = (1*1 + 2*2, 3*1 + 4*2, 0*1 + 1*2) = (5, 11, 2); A x = 1*1 - 1*2 = -1; scale 6 / 1 = 6;
    # the change is 6 * -1 * B = (-3, 6) with B = (0.5, -1), on the last two rows only.
    base = Linear(2, 3, bias=False)
    with torch.no_grad():
        base.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]]))
    layer = LoraLinear(base, [Part("a", "b.c", 1, 2, 2)], Lora(rank=1, alpha=6.0))
    with torch.no_grad():
        layer.lora_A["c"].copy_(torch.tensor([[1.0, -1.0]]))
        layer.lora_B["c"].copy_(torch.tensor([[0.5], [-1.0]]))
    assert layer(torch.tensor([1.0, 2.0])).tolist() == [5.0, 11.0 - 3.0, 2.0 + 6.0]


def test_scales() -> None:
    assert Lora(rank=16, alpha=32.0).scale == 2.0
    assert Lora(rank=16, alpha=32.0, rslora=True).scale == 8.0  # 32 / sqrt(16)


@FAMILIES
@pytest.mark.parametrize("targets", ["all", "attention"])
def test_peft_gives_the_same_logits_and_gradients(kind, targets, tmp_path) -> None:
    """What we save, loaded by `peft` over the transformers model: logits to 1e-5, gradients of A and B."""
    base = saved(kind, tmp_path / "base")
    ours = adapted(base, Lora(rank=3, alpha=6.0, targets=targets, rslora=kind == "SmolLM2"))
    save_model(ours, tmp_path / "adapter")
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter", is_trainable=True
    )
    got, expected = logits(ours), their_logits(theirs)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)

    wanted = torch.cat(documents([52], 9))
    torch.nn.functional.cross_entropy(got, wanted).backward()
    torch.nn.functional.cross_entropy(expected, wanted).backward()
    gradients = {
        name.removeprefix("base_model.model.").replace(".default", ""): parameter.grad
        for name, parameter in theirs.named_parameters()
        if parameter.requires_grad
    }
    found = {name: tensor.grad for name, tensor in adapters(ours, ours.config).items()}
    assert found.keys() == gradients.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, gradients[name], atol=1e-5, rtol=1e-4)
    assert all(p.grad is None for p in ours.parameters() if not p.requires_grad)


@FAMILIES
def test_an_adapter_of_peft_loads(kind, tmp_path) -> None:
    base = saved(kind, tmp_path / "base")
    gpt2 = kind.startswith("GPT-2")
    wanted = ["c_attn", "mlp.c_proj"] if gpt2 else ["q_proj", "v_proj", "down_proj"]
    settings = LoraConfig(
        r=2, lora_alpha=5, target_modules=wanted, fan_in_fan_out=gpt2, task_type="CAUSAL_LM"
    )
    torch.manual_seed(3)
    theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.2)
    theirs.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = their_logits(theirs)
        torch.testing.assert_close(
            logits(load_language_model(tmp_path / "adapter")), expected, atol=1e-5, rtol=1e-5
        )
        attached = Bases().language(tmp_path / "adapter")
        torch.testing.assert_close(logits(attached), expected, atol=1e-5, rtol=1e-5)
    assert read_adapter(tmp_path / "adapter").lora.alpha == 5.0


@pytest.mark.parametrize("kind", ["GPT-2", "SmolLM2"])
def test_a_reward_adapter_goes_to_peft_and_back(kind, tmp_path) -> None:
    """Head and mean-0 shift included: `peft` scores hidden . w, ours subtracts reward_bias 0.25."""
    base = saved(kind, tmp_path / "base")
    ours = randomised(scalar_over(Bases().open(base), Lora(rank=2, alpha=4.0), seed=4))
    ours.reward_bias.fill_(0.25)
    save_model(ours, tmp_path / "adapter", special=SPECIAL)
    body = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, pad_token_id=0)
    theirs = PeftModel.from_pretrained(body, tmp_path / "adapter")
    last = torch.tensor([len(row) for row in ROWS]).cumsum(0) - 1
    with torch.no_grad():
        expected = torch.cat([theirs(row[None]).logits[0] for row in ROWS]) - 0.25
        torch.testing.assert_close(ours.score(ours(*packed(ROWS))[last]), expected, atol=1e-5, rtol=1e-5)
        for loaded in (load_scalar_model(tmp_path / "adapter"), Bases().scalar(tmp_path / "adapter")):
            torch.testing.assert_close(
                loaded.score(loaded(*packed(ROWS))[last]), expected, atol=1e-5, rtol=1e-5
            )
        theirs.save_pretrained(tmp_path / "again")  # by PEFT, without our base.json: no shift
        again = load_scalar_model(tmp_path / "again")
        torch.testing.assert_close(
            again.score(again(*packed(ROWS))[last]), expected + 0.25, atol=1e-5, rtol=1e-5
        )


@FAMILIES
def test_merge_and_unmerge(kind, tmp_path) -> None:
    base = saved(kind, tmp_path / "base")
    lora = Lora(rank=3, alpha=6.0)
    ours = adapted(base, lora)
    plain, before = load_language_model(base), load_language_model(base).state_dict()
    tensors = {name: tensor.detach() for name, tensor in adapters(ours, ours.config).items()}
    merge(plain, plain.config, lora, tensors)
    with torch.no_grad():
        torch.testing.assert_close(logits(plain), logits(ours), atol=1e-5, rtol=1e-5)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())
    unmerge(plain, plain.config, lora, tensors)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(tensor, before[name], atol=1e-6, rtol=0.0)


def test_a_fresh_adapter_changes_nothing_and_the_seed_decides_it(tmp_path) -> None:
    base = Bases().open(saved("SmolLM2", tmp_path))
    one, same, other = (language_over(base, Lora(rank=2, alpha=4.0), seed) for seed in (1, 1, 2))
    with torch.no_grad():
        assert torch.equal(logits(one), logits(base.model))
    a, b, c = (adapters(model, model.config) for model in (one, same, other))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)
    drawn = torch.cat(
        [tensor.flatten() for name, tensor in a.items() if "lora_A" in name and "q_proj" in name]
    )
    assert drawn.abs().max() <= 32**-0.5  # uniform within 1 / sqrt(in)
    assert drawn.std().item() == pytest.approx((32 * 3) ** -0.5, rel=0.1)  # so its variance is 1 / (3 in)


def test_models_over_one_base_share_its_tensors(tmp_path) -> None:
    bases = Bases()
    folder = saved("SmolLM2", tmp_path)
    base = bases.open(folder)
    assert bases.open(folder) is base
    policy, value = (
        language_over(base, Lora(rank=2, alpha=4.0)),
        scalar_over(base, Lora(rank=2, alpha=4.0), 0),
    )
    own = {p.data_ptr() for p in base.model.parameters()}
    for model, new in ((policy, 2 * 2 * 7), (value, 2 * 2 * 7 + 1)):  # A and B, two layers, seven matrices
        trained = [p for p in model.parameters() if p.requires_grad]
        assert len(trained) == new and not {p.data_ptr() for p in trained} & own
        assert {p.data_ptr() for p in model.parameters() if not p.requires_grad} <= own
    twin = copy_trained(policy)
    assert not {p.data_ptr() for p in twin.parameters() if p.requires_grad} & {
        p.data_ptr() for p in policy.parameters()
    }
    assert {p.data_ptr() for p in twin.parameters() if not p.requires_grad} <= own


def test_targets(tmp_path) -> None:
    gpt2 = load_language_model(saved("GPT-2", tmp_path / "gpt2")).config
    llama = load_language_model(saved("SmolLM2", tmp_path / "llama")).config
    assert [part.kind for part in targeted(gpt2, "all")[:4]] == [
        "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj",
    ]  # fmt: skip
    assert len(targeted(gpt2, "c_proj")) == 4 and len(targeted(gpt2, "attn.c_proj")) == 2
    assert {part.name for part in targeted(llama, "attention")} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert {part.name for part in targeted(llama, "mlp")} == {"gate_proj", "up_proj", "down_proj"}
    assert {part.name for part in targeted(llama, "q_proj, v_proj")} == {"q_proj", "v_proj"}
    assert len(parts_of(llama)) == 14
    with pytest.raises(ConfigError, match=r"no layers named 'c_attn'.*self_attn\.q_proj"):
        targeted(llama, "q_proj,c_attn")


def test_an_adapter_is_gone_on_with(tmp_path) -> None:
    """SFT's adapter is where policy and reward model start; flags of another kind are refused."""
    base, lora = saved("SmolLM2", tmp_path / "base"), Lora(rank=2, alpha=4.0)
    first = adapted(base, lora)
    save_model(first, tmp_path / "sft")
    bases = Bases()
    policy = start_language(bases, tmp_path / "sft", lora, 0)
    reward = start_scalar(bases, tmp_path / "sft", lora, 0, zero_head=True)
    with torch.no_grad():
        hidden = first(*packed(ROWS))
        assert torch.equal(policy(*packed(ROWS)), hidden) and torch.equal(reward(*packed(ROWS)), hidden)
    assert reward.head.weight.requires_grad and not reward.head.weight.any()
    for wrong in (Lora(rank=3), Lora(rank=2), Lora(rank=2, alpha=4.0, targets="mlp")):
        with pytest.raises(ConfigError, match="--lora-rank 2 --lora-alpha 4"):
            start_language(bases, tmp_path / "sft", wrong, 0)


def test_the_base_is_found_when_the_tree_is_moved_and_checked(tmp_path) -> None:
    base = saved("SmolLM2", tmp_path / "runs" / "base")
    ours = adapted(base, Lora(rank=2, alpha=4.0))
    save_model(ours, tmp_path / "runs" / "sft" / "adapter")
    (tmp_path / "runs").rename(tmp_path / "moved")
    folder = tmp_path / "moved" / "sft" / "adapter"
    with torch.no_grad():
        torch.testing.assert_close(logits(load_language_model(folder)), logits(ours), atol=1e-5, rtol=1e-5)
    MODELS["SmolLM2"][1](1).save_pretrained(tmp_path / "moved" / "base")  # another model in its place
    with pytest.raises(CheckpointError, match="is not the model that this adapter was trained over"):
        load_language_model(folder)
    (tmp_path / "moved" / "base").rename(tmp_path / "moved" / "elsewhere")
    with pytest.raises(CheckpointError, match="the base of this adapter is not there"):
        load_language_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"init_lora_weights": "pissa"}, "changes the base"),
        ({"bias": "all"}, "bias 'all'"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"lora_alpha": None}, "settings can't be read"),
    ],
)
def test_other_kinds_of_adapters_are_refused(tmp_path, change, message) -> None:
    save_model(adapted(saved("SmolLM2", tmp_path / "base"), Lora(rank=2, alpha=4.0)), tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        load_language_model(tmp_path / "adapter")


def test_an_adapter_of_another_shape_is_refused(tmp_path) -> None:
    save_model(adapted(saved("SmolLM2", tmp_path / "base"), Lora(rank=2, alpha=4.0)), tmp_path / "adapter")
    (tmp_path / "adapter" / "base.json").unlink()
    shape = ModelConfig.llama(vocab_size=97, width=16, layers=2, heads=4, context=96)
    for old in (tmp_path / "base").iterdir():
        old.unlink()
    save_model(new_language_model(shape, 0), tmp_path / "base")
    with pytest.raises(CheckpointError, match="does not fit its base"):
        load_language_model(tmp_path / "adapter")


def test_language_and_reward_adapters_are_told_apart(tmp_path) -> None:
    base = saved("SmolLM2", tmp_path / "base")
    save_model(adapted(base, Lora(rank=2, alpha=4.0)), tmp_path / "language")
    save_model(scalar_over(Bases().open(base), Lora(rank=2, alpha=4.0), 0), tmp_path / "scalar")
    for load in (load_scalar_model, Bases().scalar):
        with pytest.raises(CheckpointError, match="reward"):
            load(tmp_path / "language")
    for load in (load_language_model, Bases().language):
        with pytest.raises(CheckpointError, match="a reward or value model"):
            load(tmp_path / "scalar")


def test_rounding_to_8_bits_by_hand() -> None:
    # The largest number 2.54 gives the scale 2.54 / 127 = 0.02: 1.0 is 50 of them, -0.031 is -1.55 -> -2.
    whole, scale = quantise(torch.tensor([[2.54, 1.0, -0.031], [0.0, 0.0, 0.0]]))
    assert whole.tolist() == [[127, 50, -2], [0, 0, 0]] and whole.dtype == torch.int8
    assert scale.tolist() == pytest.approx([0.02, 0.0])
    assert dequantise(whole, scale)[0].tolist() == pytest.approx([2.54, 1.0, -0.04])


def test_rounding_moves_a_weight_by_half_a_step_at_most() -> None:
    weight = torch.randn(40, 60, generator=torch.Generator().manual_seed(0))
    step = weight.abs().amax(1, keepdim=True) / 127
    error = (dequantise(*quantise(weight)) - weight).abs()
    assert bool((error <= 0.5001 * step).all()) and bool((error.amax(1) > 0.4 * step[:, 0]).all())


def test_gradients_go_through_an_8_bit_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = Linear(6, 5)
    exact = Int8Linear(layer)
    inputs = torch.randn(4, 6, generator=generator, requires_grad=True)
    upstream = torch.randn(4, 5, generator=generator)
    (exact(inputs) * upstream).sum().backward()
    torch.testing.assert_close(inputs.grad, upstream @ dequantise(exact.whole, exact.scale))
    with torch.no_grad():
        torch.testing.assert_close(
            exact(inputs), inputs @ dequantise(exact.whole, exact.scale).T + layer.bias
        )


@pytest.mark.parametrize("kind", ["GPT-2", "SmolLM2"])
def test_an_8_bit_base(kind, tmp_path) -> None:
    """It takes a quarter of the memory, errs little, and loads again as the model that was trained."""
    folder = saved(kind, tmp_path / "base")
    base = Bases().open(folder, "int8")
    ours = randomised(language_over(base, Lora(rank=2, alpha=4.0, base="int8")))
    blocks = base.model.transformer.blocks
    matrices = sum(part.rows * part.columns for part in parts_of(base.config))
    assert sum(b.numel() for n, b in blocks.named_buffers() if n.endswith("whole")) == matrices
    assert sum(p.numel() for p in blocks.parameters() if p.dim() == 2) == 0
    with torch.no_grad():
        exact = logits(load_language_model(folder))
        spread = exact.std()
        assert 0 < (logits(base.model) - exact).abs().mean() < 0.02 * spread
    save_model(ours, tmp_path / "adapter")
    assert read_adapter(tmp_path / "adapter").lora.base == "int8"
    with torch.no_grad():
        torch.testing.assert_close(
            logits(load_language_model(tmp_path / "adapter")), logits(ours), atol=1e-5, rtol=1e-5
        )
    with pytest.raises(ConfigError, match="use --lora-base int8"):
        Bases().language(tmp_path / "adapter", "float32")


def test_a_complete_reward_model_may_be_a_base(tmp_path) -> None:
    """Its value network starts as it is, head and shift included, and trains adapters and head."""
    reward = new_scalar_model(ModelConfig.llama(vocab_size=97, width=32, layers=2, heads=4, context=96), 1)
    reward.reward_bias = torch.tensor(0.5)
    save_model(reward, tmp_path / "reward")
    bases = Bases()
    value = scalar_over(bases.open(tmp_path / "reward"), Lora(rank=2, alpha=4.0), 0)
    with torch.no_grad():
        assert torch.equal(value.score(value(*packed(ROWS))), reward.score(reward(*packed(ROWS))))
        value.head.weight.add_(1.0)
    assert torch.equal(bases.scalar(tmp_path / "reward").head.weight, reward.head.weight)
    save_model(value, tmp_path / "value")
    with torch.no_grad():
        torch.testing.assert_close(
            load_scalar_model(tmp_path / "value").score(reward(*packed(ROWS))),
            value.score(reward(*packed(ROWS))),
            atol=1e-5,
            rtol=1e-5,
        )
