"""Planted faults: what is sampled, what the models see, and what the reward model says."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import torch
from fault import fault
from pytest import MonkeyPatch

import instructgpt.rlhf.round as rounds
from instructgpt.maths import ranking
from instructgpt.model.heads import ScalarModel
from instructgpt.model.transformer import Transformer
from instructgpt.reward_model import comparisons
from instructgpt.reward_model import train as reward_training
from instructgpt.rlhf import networks, prepare, rollout, update
from instructgpt.scoring import reward as scoring
from instructgpt.text.chat import Rendered


@fault("ratio_is_1_at_learning_rate_0")
def the_sampler_ignores_the_temperature(patch: MonkeyPatch) -> None:
    """Field fault 11."""
    real = rounds.sample_episodes
    patch.setattr(rounds, "sample_episodes", lambda *a, **named: real(*a, **(named | {"temperature": 1.0})))


@fault("ratio_is_1_at_learning_rate_0", "policy_steps_follow_eq_2")
def the_update_ignores_the_temperature(patch: MonkeyPatch) -> None:
    """Field fault 11, the other side."""
    real = update.token_logprobs_and_entropy
    patch.setattr(
        update, "token_logprobs_and_entropy", lambda h, u, t, temperature, **named: real(h, u, t, **named)
    )


@fault("networks_are_read_at_their_tokens", "kl_is_exact_on_all_one_token_replies")
def the_reference_ignores_the_temperature(patch: MonkeyPatch) -> None:
    """The KL is then between two temperatures as well as between two models."""
    real = rollout.episode_logprobs

    def at_one(model: Any, episodes: Any, micros: Any, temperature: float, *rest: Any) -> Any:
        frozen = not next(model.parameters()).requires_grad
        return real(model, episodes, micros, 1.0 if frozen else temperature, *rest)

    patch.setattr(rollout, "episode_logprobs", at_one)


@fault("samples_come_from_the_policy_whole")
def the_sampler_truncates(patch: MonkeyPatch) -> None:
    """Field fault 12: top-k sampling makes the mean KL negative."""
    real = rollout.Request
    patch.setattr(rollout, "Request", lambda *a, **named: real(*a, **named, top_k=20))


@fault("samples_come_from_the_policy_whole")
def every_round_draws_the_same_numbers(patch: MonkeyPatch) -> None:
    """The round is left out of the key, and of the prompts' order."""
    real, order = rounds.sample_episodes, rounds.prompt_indices
    patch.setattr(rounds, "sample_episodes", lambda *a, **named: real(*a, **(named | {"iteration": 0})))
    patch.setattr(rounds, "prompt_indices", lambda n, batch, iteration, seed: order(n, batch, 0, seed))


@fault("samples_come_from_the_policy_whole")
def the_end_is_no_part_of_the_reply(patch: MonkeyPatch) -> None:
    """Field fault 17: the decision to stop is neither rewarded nor trained."""
    real = rollout.build_episodes

    def without_ends(prompts: Any, ids: Any, completions: Any) -> Any:
        cut = [
            dataclasses.replace(c, ids=c.ids[:-1], logprobs=c.logprobs[:-1])
            if c.stopped and len(c.ids) > 1
            else c
            for c in completions
        ]
        return real(prompts, ids, cut)

    patch.setattr(rollout, "build_episodes", without_ends)


@fault("ratio_is_1_at_learning_rate_0", "the_cut_changes_nothing")
def dropout_is_left_on(patch: MonkeyPatch) -> None:
    """Field faults 9 and 10: in the passes that take gradients."""
    real = Transformer.forward

    def dropping(*given: Any, **named: Any) -> Any:
        asked = inspect.signature(real).bind(*given, **named)
        asked.arguments["dropout"] = 0.1 if torch.is_grad_enabled() else 0.0
        return real(*asked.args, **asked.kwargs)

    patch.setattr(Transformer, "forward", dropping)


@fault("all_stages_see_the_same_ids")
def rl_adds_a_second_bos(patch: MonkeyPatch) -> None:
    """Field fault 18: the template's text is tokenized again with special tokens."""
    real = prepare.render_prompt
    patch.setattr(prepare, "render_prompt", lambda tok, messages: [tok.bos_id, *real(tok, messages)])


@fault("all_stages_see_the_same_ids")
def the_reward_model_trains_with_a_second_bos(patch: MonkeyPatch) -> None:
    """Field fault 18, where it costs about a point of accuracy and nobody looks."""
    real = comparisons.render_reply

    def doubled(tokenizer: Any, *rest: Any) -> Rendered:
        made = real(tokenizer, *rest)
        return Rendered([tokenizer.bos_id, *made.ids], [False, *made.train_mask])

    patch.setattr(comparisons, "render_reply", doubled)


# -- the reward model --------------------------------------------------------------------------------------


def _without_head(load: Callable[..., ScalarModel]) -> Callable[..., ScalarModel]:
    def fresh(folder: Any) -> ScalarModel:
        model = load(folder)
        torch.nn.init.normal_(model.head.weight, std=0.2, generator=torch.Generator().manual_seed(0))
        return model

    return fresh


@fault("the_reward_model_says_what_it_said")
def the_reward_head_is_not_loaded(patch: MonkeyPatch) -> None:
    """Field fault 19: a warning says that it is newly initialised."""
    patch.setattr(scoring, "load_scalar_model", _without_head(scoring.load_scalar_model))


@fault("the_reward_model_says_what_it_said", "return_is_score_minus_beta_kl")
def the_reward_head_is_not_loaded_nor_tested(patch: MonkeyPatch) -> None:
    """The same without the self-test that would refuse it."""
    patch.setattr(scoring, "load_scalar_model", _without_head(scoring.load_scalar_model))
    patch.setattr(scoring, "check_selftest", lambda *a: None)


@fault("value_starts_as_the_reward_model")
def the_value_network_is_not_the_reward_model(patch: MonkeyPatch) -> None:
    """Field fault 20: the documents say so, the code starts elsewhere."""
    patch.setattr(networks, "load_scalar_model", _without_head(networks.load_scalar_model))


@fault("value_starts_as_the_reward_model", "return_is_score_minus_beta_kl")
def the_score_is_read_one_token_early(patch: MonkeyPatch) -> None:
    """Field fault 6: at the token before the end."""
    real = scoring.RewardModel.score_ids
    early = lambda self, sequences, *rest: real(self, [ids[:-1] for ids in sequences], *rest)  # noqa: E731
    patch.setattr(scoring.RewardModel, "score_ids", early)


@fault("return_is_score_minus_beta_kl")
def the_score_is_read_where_padding_was_looked_for(patch: MonkeyPatch) -> None:
    """Field fault 6: before the first end-of-turn, be it the prompt's own."""
    real = scoring.RewardModel.score_ids

    def searched(self: Any, sequences: Any, *rest: Any) -> Any:
        end = self.tokenizer.end_of_turn_id
        return real(self, [ids[: ids.index(end)] if end in ids else ids for ids in sequences], *rest)

    patch.setattr(scoring.RewardModel, "score_ids", searched)


@fault("the_reward_model_says_what_it_said", "demonstrations_have_mean_reward_0")
def the_mean_0_shift_has_the_wrong_sign(patch: MonkeyPatch) -> None:
    """The demonstrations' mean reward becomes twice what it was."""
    patch.setattr(
        ScalarModel, "score", lambda self, hidden: self.head(hidden).squeeze(-1).float() + self.reward_bias
    )


@fault("k_way_loss_is_the_naive_mean")
def ties_count_as_wins(patch: MonkeyPatch) -> None:
    """App. C.2 drops them; here each is a win for both sides."""
    real = ranking._pairs

    def with_ties(rewards: Any, ranks: Any, counts: Any) -> Any:
        margins, better = real(rewards, ranks, counts)
        _, any_two = real(rewards, torch.arange(len(ranks)), counts)
        return margins, better | ((any_two | any_two.transpose(1, 2)) & ~better.transpose(1, 2))

    patch.setattr(ranking, "_pairs", with_ties)


@fault("k_way_loss_is_the_naive_mean")
def the_ranking_loss_is_a_mean_over_all_pairs(patch: MonkeyPatch) -> None:
    """A prompt of nine replies then weighs as much as six prompts of four."""

    def over_pairs(rewards: Any, ranks: Any, counts: Any, prompts: float | None = None) -> Any:
        margins, is_pair = ranking._pairs(rewards, ranks, counts)
        return -torch.nn.functional.logsigmoid(margins[is_pair]).mean(), int(is_pair.sum())

    patch.setattr(ranking, "ranking_loss", over_pairs)


@fault("k_way_loss_is_the_naive_mean")
def the_reward_models_step_is_a_mean_of_means(patch: MonkeyPatch) -> None:
    """Field fault 16: each micro-batch is divided by its own number of prompts."""
    real = reward_training.ranking_loss
    patch.setattr(reward_training, "ranking_loss", lambda *a, prompts: real(*a))
