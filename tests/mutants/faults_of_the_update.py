"""Planted faults: rewards, advantages, losses and gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from fault import fault
from pytest import MonkeyPatch

import instructgpt.rlhf.round as rounds
from instructgpt.maths import gae, masked, ppo
from instructgpt.maths.kl import bounded_exp
from instructgpt.rlhf import advantage, prepare, reward, rollout, update
from instructgpt.scoring import likelihood
from instructgpt.text.chat import Rendered


@fault("return_is_score_minus_beta_kl")
def the_score_lands_one_token_late(patch: MonkeyPatch) -> None:
    """Field fault 4: on the first slot of padding, where the mask then drops it."""
    late = property(lambda self: self.response_length.clamp(max=self.response_ids.shape[1] - 1))
    patch.setattr(rollout.Episodes, "last_index", late)


@fault("return_is_score_minus_beta_kl", "kl_is_exact_on_all_one_token_replies")
def the_kl_has_the_wrong_sign(patch: MonkeyPatch) -> None:
    """Field fault 13."""
    patch.setattr(reward, "k1", lambda logprobs, reference: reference - logprobs)


@fault("return_is_score_minus_beta_kl", "kl_is_exact_on_all_one_token_replies")
def the_reference_is_the_policy(patch: MonkeyPatch) -> None:
    """One object under two names: the KL is 0 for ever."""
    real = prepare.prepare

    def shared(*arguments: Any) -> prepare.Parts:
        parts = real(*arguments)
        return dataclasses.replace(parts, reference=parts.learner.policy)

    patch.setattr(prepare, "prepare", shared)


@fault("a_reply_without_an_end_gets_the_penalty")
def the_missing_end_rule_is_inverted(patch: MonkeyPatch) -> None:
    """Replies that ended are punished."""
    real = rounds.shape_rewards

    def inverted(made: rollout.Rollout, *rest: Any) -> reward.Rewards:
        episodes = dataclasses.replace(made.episodes, stopped=~made.episodes.stopped)
        return real(dataclasses.replace(made, episodes=episodes), *rest)

    patch.setattr(rounds, "shape_rewards", inverted)


@fault("nothing_beyond_a_reply_is_read")
def the_mask_is_applied_after_gae(patch: MonkeyPatch) -> None:
    """Field fault 15: what stands in the padding leaks into the last tokens."""

    def late_mask(values: Any, rewards: Any, mask: Any, gamma: float, lam: float) -> Any:
        everywhere = gae.gae(values, rewards, torch.ones_like(mask), gamma, lam)
        return tuple(torch.where(mask, x, 0.0) for x in everywhere)

    patch.setattr(advantage, "gae", late_mask)


@fault("advantages_are_the_double_loop")
def gamma_and_lambda_are_swapped(patch: MonkeyPatch) -> None:
    """Without a discount and with lambda 0.95 it looks almost right."""
    patch.setattr(advantage, "gae", lambda v, r, m, gamma, lam: gae.gae(v, r, m, lam, gamma))


@fault("whitening_centres_advantages_and_scales_rewards")
def advantages_are_not_centred(patch: MonkeyPatch) -> None:
    """`shift_mean` read the wrong way round."""
    patch.setattr(advantage, "whiten", lambda x, m, shift_mean=True: masked.whiten(x, m, not shift_mean))


@fault("whitening_centres_advantages_and_scales_rewards")
def padding_counts_in_the_whitening(patch: MonkeyPatch) -> None:
    """Zeros of the padding make the variance small and the advantages large."""
    patch.setattr(advantage, "whiten", lambda x, m, **named: masked.whiten(x, torch.ones_like(m), **named))


@fault("networks_are_read_at_their_tokens")
def values_are_those_after_the_token(patch: MonkeyPatch) -> None:
    """V has then seen the action that it is a baseline for."""
    real = rollout.episode_values

    def shifted(model: Any, episodes: Any, micros: Any, *rest: Any) -> Any:
        moved = [dataclasses.replace(micro, before=micro.before + 1) for micro in micros]
        return real(model, episodes, moved, *rest)

    patch.setattr(rollout, "episode_values", shifted)


# -- the losses ------------------------------------------------------------------------------------------


@fault("policy_steps_follow_eq_2", "value_steps_follow_the_clipped_loss")
def padding_counts_in_the_loss(patch: MonkeyPatch) -> None:
    """Field fault 5: the mean is over all slots of the grid."""
    patch.setattr(update, "_tokens", lambda minibatch: 6 * sum(len(micro.lengths) for micro in minibatch))


@fault("policy_steps_follow_eq_2", "the_cut_changes_nothing")
def the_loss_is_a_mean_of_means(patch: MonkeyPatch) -> None:
    """Field fault 16: tokens of micro-batches with few of them weigh more."""
    real_policy, real_value = update.ppo_gradients, update.value_gradients

    def each_by_itself(real: Callable[..., Any]) -> Callable[..., Any]:
        def run(model: Any, minibatch: Any, *rest: Any) -> Any:
            tokens = [len(micro.targets) for micro in minibatch]
            patch.setattr(update, "_tokens", lambda _: tokens[0] * len(tokens))
            totals = real(model, minibatch[:1], *rest)
            for place in range(1, len(minibatch)):
                patch.setattr(update, "_tokens", lambda _, n=tokens[place]: n * len(tokens))
                real(model, minibatch[place : place + 1], *rest)
            return totals

        return run

    patch.setattr(update, "ppo_gradients", each_by_itself(real_policy))
    patch.setattr(update, "value_gradients", each_by_itself(real_value))


@fault("policy_steps_follow_eq_2")
def the_ratio_is_clipped_on_one_side(patch: MonkeyPatch) -> None:
    """Only above: bad tokens may be pushed down without end."""

    def one_sided(new: Any, old: Any, advantages: Any, mask: Any, clip: float, count: float) -> Any:
        ratio = bounded_exp(new - old)
        loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(max=1 + clip)).sum() / count
        return loss, ppo.policy_loss(new, old, advantages, mask, clip, count)[1]

    patch.setattr(update, "policy_loss", one_sided)


@fault("policy_steps_follow_eq_2")
def old_logprobs_are_recomputed_after_each_step(patch: MonkeyPatch) -> None:
    """The ratio is 1 for ever, and the clip never acts."""
    patch.setattr(update, "policy_loss", lambda new, old, *rest: ppo.policy_loss(new, new.detach(), *rest))


@fault("value_steps_follow_the_clipped_loss")
def the_value_is_not_clipped(patch: MonkeyPatch) -> None:
    """A flag without effect."""
    patch.setattr(update, "value_loss", lambda *a: ppo.value_loss(*a[:4], 1e9, a[5]))


@fault("policy_steps_follow_eq_2")
def the_ptx_term_is_not_scaled(patch: MonkeyPatch) -> None:
    """Field fault 26: its coefficient is a no-op."""
    real = update.ptx_gradients
    patch.setattr(
        update, "ptx_gradients", lambda *a: real(*a[:2], dataclasses.replace(a[2], ptx_coef=1.0), *a[3:])
    )


@fault("policy_steps_follow_eq_2")
def the_ptx_term_takes_a_step_of_its_own(patch: MonkeyPatch) -> None:
    """Adam then scales both terms to the same size, whatever the coefficient."""
    real = rounds.update

    def in_turn(learner: Any, made: Any, advantages: Any, returns: Any, pretraining: Any, *rest: Any) -> Any:
        stats = real(learner, made, advantages, returns, None, *rest)
        update.ptx_gradients(learner.policy, pretraining(0), rest[0])
        learner.policy_optimizer.step()
        learner.policy_optimizer.zero_grad(set_to_none=True)
        return stats

    patch.setattr(rounds, "update", in_turn)


@fault("policy_steps_follow_eq_2")
def the_first_token_of_a_document_is_predicted_from_the_one_before(patch: MonkeyPatch) -> None:
    """Pretraining texts run into one another where they are packed."""
    real = likelihood.pack

    def joined(texts: Any) -> Any:
        ids = [token for text in texts for token in text.ids]
        return real([Rendered(ids, [True] * len(ids))])

    patch.setattr(likelihood, "pack", joined)


@fault("policy_steps_follow_eq_2", "value_steps_follow_the_clipped_loss")
def gradients_are_not_cleared(patch: MonkeyPatch) -> None:
    """Each minibatch goes on with the gradients of those before it."""
    patch.setattr(torch.optim.Optimizer, "zero_grad", lambda self, **named: None)
