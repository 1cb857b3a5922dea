"""Group relative policy optimisation (GRPO), written out (StepWiser §3.3).

A step of `train_grpo`:

    1. `rollout`: sample a group of completions for each prompt of the batch
    2. `score`: reward each completion, or all at once (`GroupReward`)     [prompts, group]
    3. `group_advantages`: (reward - mean) / std within each group         [prompts, group]
    4. `update`: clipped token loss, optimizer step

How this differs from the textbook:
- No value model: the mean reward of the group is the baseline. No KL term by default.
- The loss is summed over tokens and divided by *all* tokens of the mini-batch, so a token counts the same in short and in long
  completions; the upper clip bound may be wider than the lower one, "clip-higher" (both: DAPO, Yu et al. 2025).
- Groups with equal rewards have advantage 0. They are left out of the forward pass, which saves time, but their tokens still
  count in the denominator.
- The sampler computes in other types than training does, and with merged weights, so it does not sample from exactly the
  distribution that is trained. Each token's loss is multiplied by a truncated importance weight (Yao et al. 2025).

Metrics of a step, named as in TRL where TRL has the metric:
    step                          number of the step, from 1
    reward                        mean reward of the completions
    reward_std                    standard deviation of the rewards within a group, averaged over groups
    frac_reward_zero_std          share of groups with equal rewards, which teach nothing
    completions/mean_length       mean length of a completion, in tokens
    completions/clipped_ratio     share of completions cut off at max_new_tokens
    completions/num_tokens        tokens sampled in this step (TRL's num_tokens adds up all steps, and prompts)
    loss                          mean of the losses of the step's mini-batches
    grad_norm                     norm of the gradient before clipping, averaged over the step's mini-batches
    overflows                     repetitions of an update because its gradient overflowed in fp16
and, if any group had unequal rewards, averaged over the tokens of those groups:
    entropy                       entropy of the distribution that predicts the token, in nats
    clip_ratio/low_mean           share of tokens whose ratio was clipped from below
    clip_ratio/high_mean          share of tokens whose ratio was clipped from above
    kl                            KL divergence from the adapter at the start (only with kl > 0)
    sampling/logprob_difference   |log-probability in the sampler - log-probability in training| (only if the sampler returns any)
Each function in `Monitor.measures` adds a metric: the mean of its values over the sampled texts. A `GroupReward` adds its own
metrics. Training a judge logs
    verdicts/positive             share of sampled replies whose verdict is Positive
"""

from __future__ import annotations

import contextlib
import dataclasses
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from minisw.engine import distributed
from minisw.engine.logprobs import Batch, Example, token_logprobs
from minisw.engine.model import LanguageModel
from minisw.engine.requests import Completion, Request, Sampling
from minisw.engine.sampler import Sampler
from minisw.recipe import JudgeKnobs
from minisw.training import checkpoints
from minisw.training.losses import clip_counts, clipped_loss, group_advantages, importance_weights, kl_k3
from minisw.training.monitor import DEFAULT_MONITOR, Monitor, warn_if_stalled
from minisw.training.step import attempts, batches, epoch_order, trainable
from minisw.verdicts import Reward


@dataclass(frozen=True, kw_only=True)
class GRPOConfig:
    """The knobs of GRPO; recipe.JudgeKnobs explains those that it shares."""

    steps: int
    prompts: int  # in a step
    group: int  # completions sampled for each prompt
    updates: int  # mini-batches, each an optimizer step, that the samples of one step are split into
    lr: float
    clip_low: float
    clip_high: float
    kl: float
    temperature: float
    max_new_tokens: int
    micro_tokens: int  # tokens in one forward and backward (recipe.ModelKnobs)

    @classmethod
    def of(cls, knobs: JudgeKnobs, micro_tokens: int) -> GRPOConfig:
        """The configuration of a judge's GRPO."""
        names = {f.name for f in dataclasses.fields(cls)} - {"micro_tokens"}
        return cls(**{name: getattr(knobs, name) for name in names}, micro_tokens=micro_tokens)


@dataclass(frozen=True)
class Group:
    """The completions of one prompt. `index` is the prompt's place in the list that `train_grpo` was given."""

    index: int
    prompt: list[int]
    completions: list[Completion]
    texts: list[str]  # the completions, decoded


@dataclass(frozen=True)
class GroupReward:
    """A reward that needs all completions of a step at once, such as one that asks a judge about them in one batch.

    `of(groups, seed)` returns the rewards, [groups][n], and metrics that are logged with the step. Each step has its own seed.
    """

    of: Callable[[Sequence[Group], int], tuple[Sequence[Sequence[float]], dict[str, float]]]


@dataclass
class Sample:
    """One completion in `update`, with log-probabilities of its tokens at the sampling temperature: [tokens] each."""

    example: Example
    advantage: float
    sampler_logprobs: list[float]  # as the sampler computed them; empty if it returned none
    old_logprobs: torch.Tensor | None = None  # as training computes them before the first update; None: no update came before
    ref_logprobs: torch.Tensor | None = None  # under the adapter at the start of the training; None without a KL term


def train_grpo(
    sampler: Sampler,
    adapter: str,
    prompts: Sequence[list[int]],
    reward: Reward | GroupReward,
    config: GRPOConfig,
    seed: int,
    monitor: Monitor = DEFAULT_MONITOR,
) -> list[dict]:
    """Train `adapter` of the sampler's model on `prompts` (token ids) in place; returns the metrics of every step.

    State is saved every `monitor.save_every` steps: a training that was killed resumes from there with the same numbers.
    Raises ValueError without prompts, for groups of one, at temperature 0, and if a reward is not finite.
    """
    if not prompts:
        raise ValueError("no prompts for GRPO: the balanced labels are empty; annotate more solutions")
    if config.group < 2:
        raise ValueError(f"GRPO compares the completions of a prompt, and group is {config.group}: give --judge.group 2 or more")
    if not config.temperature > 0:
        raise ValueError(f"GRPO needs samples that differ, and temperature is {config.temperature}: raise --judge.temperature")
    lm = sampler.lm
    parameters = lm.adapter_parameters(adapter)
    optimizer = torch.optim.AdamW(parameters.values(), lr=config.lr, weight_decay=0.0)
    scaler = lm.new_scaler()
    reference = [p.detach().clone() for p in parameters.values()] if config.kl else None
    start, history = checkpoints.load(monitor.checkpoint, parameters, optimizer, scaler)
    with lm.using(adapter), trainable(parameters.values()):
        for step in range(start, config.steps):
            batch = batch_indices(len(prompts), config.prompts, step, seed)
            groups = rollout(sampler, prompts, batch, config, step_seed(seed, step))  # 1. sample a group for each prompt
            rewards, measured = score_step(groups, reward, step_seed(seed, step, "reward"))  # 2. reward each [prompts, group]
            advantages = group_advantages(rewards)  # 3. (reward - mean) / std within the group [prompts, group]
            metrics = update(lm, groups, advantages, optimizer, config, reference)  # 4. clipped token loss, optimizer step
            sampled = sampling_metrics(groups, rewards, monitor.measures)
            history.append({"step": step + 1, **sampled, **measured, **metrics})
            warn_if_stalled(history, parameters, monitor.warn)
            if monitor.progress:
                monitor.progress(1, history[-1])
            if monitor.checkpoint and ((step + 1) % monitor.save_every == 0 or step + 1 == config.steps):
                checkpoints.save(monitor.checkpoint, parameters, optimizer, step + 1, history, scaler)
    return history


# --- 1. sample -----------------------------------------------------------------------------------------------------------


def batch_indices(count: int, batch: int, step: int, seed: int) -> list[int]:
    """The `batch` prompts, out of `count`, of step `step` (from 0): consecutive pieces of endless shuffled epochs.

    It depends on the arguments alone, so resuming needs no state.
    """
    places = range(step * batch, (step + 1) * batch)  # in the sequence of all epochs
    return [epoch_order(count, place // count, seed)[place % count] for place in places]


def step_seed(seed: int, step: int, use: str = "rollout") -> int:
    """The seed of step `step` for one use: of its samples, or of a `GroupReward` ("reward")."""
    return zlib.crc32(f"{seed}/{use}/{step}".encode())


def rollout(sampler: Sampler, prompts: Sequence[list[int]], batch: Sequence[int], config: GRPOConfig, seed: int) -> list[Group]:
    """`config.group` completions for each of `prompts[i]`, i in `batch`, by the active adapter."""
    requests = [Request(prompts[i], config.group) for i in batch]
    completions = sampler.generate(requests, Sampling(config.max_new_tokens, config.temperature), seed)
    return [
        Group(i, prompts[i], group, [sampler.lm.decode(c.ids) for c in group])
        for i, group in zip(batch, completions, strict=True)
    ]


# --- 2. reward -----------------------------------------------------------------------------------------------------------


def score_step(groups: Sequence[Group], reward: Reward | GroupReward, seed: int) -> tuple[torch.Tensor, dict[str, float]]:
    """The reward of every completion, [groups, n], and the metrics of a `GroupReward` (none of a `Reward`)."""
    if not isinstance(reward, GroupReward):
        return score(groups, reward), {}
    rows, metrics = reward.of(groups, seed)
    if [len(row) for row in rows] != [len(group.texts) for group in groups]:
        raise ValueError("a GroupReward must return one reward for each completion of each group: check the reward function")
    return _finite([[float(value) for value in row] for row in rows]), metrics


def score(groups: Sequence[Group], reward: Reward) -> torch.Tensor:
    """The reward of every completion: [groups, n]. Raises ValueError if one is not finite."""
    return _finite([[float(reward(group.index, text)) for text in group.texts] for group in groups])


def _finite(rows: Sequence[Sequence[float]]) -> torch.Tensor:
    rewards = torch.tensor(rows)
    if not rewards.isfinite().all():
        raise ValueError("a reward is not a finite number: check the reward function")
    return rewards


def sampling_metrics(
    groups: Sequence[Group], rewards: torch.Tensor, measures: Mapping[str, Callable[[str], float]]
) -> dict[str, float]:
    """The metrics that samples and rewards [groups, n] give; the module's docstring explains each."""
    completions = [c for group in groups for c in group.completions]
    texts = [text for group in groups for text in group.texts]
    num_tokens = sum(len(c.ids) for c in completions)
    return {
        "reward": rewards.mean().item(),
        "reward_std": rewards.std(1, correction=0).mean().item(),
        "frac_reward_zero_std": (rewards.amax(1) == rewards.amin(1)).float().mean().item(),
        "completions/mean_length": num_tokens / len(completions),
        "completions/clipped_ratio": sum(not c.finished for c in completions) / len(completions),
        "completions/num_tokens": num_tokens,
        **{name: sum(float(measure(text)) for text in texts) / len(texts) for name, measure in measures.items()},
    }


# --- 4. update -----------------------------------------------------------------------------------------------------------


def update(
    lm: LanguageModel,
    groups: Sequence[Group],
    advantages: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    config: GRPOConfig,
    reference: Sequence[torch.Tensor] | None = None,
) -> dict[str, float]:
    """`config.updates` optimizer steps, each on a mini-batch of the samples; returns the metrics of the update.

    advantages: [groups, n]. `reference`: the optimizer's parameters as they were at the start of the training, for the KL term.
    """
    samples = [
        Sample(Example(group.prompt, completion.ids), advantage, completion.logprobs)
        for group, row in zip(groups, advantages.tolist(), strict=True)
        for completion, advantage in zip(group.completions, row, strict=True)
    ]
    size = -(-len(samples) // config.updates)  # rounded up
    mini_batches = [samples[at : at + size] for at in range(0, len(samples), size)]
    add_fixed_logprobs(lm, mini_batches, optimizer, config, reference)
    sums: Counter[str] = Counter()
    norms, overflows = [], 0
    for mini_batch in mini_batches:
        num_tokens = sum(len(sample.example.completion) for sample in mini_batch)
        trained = [sample for sample in mini_batch if sample.advantage]
        if not trained:  # a step with zero gradients would still move the adapter, by Adam's momentum
            continue
        for attempt in attempts(lm, config.micro_tokens, optimizer):
            with attempt, lm.training():
                for rows, batch in batches(lm, [sample.example for sample in trained], attempt.micro_tokens):
                    attempt.backward(*grpo_loss(lm, batch, [trained[i] for i in rows], num_tokens, config))
            attempt.step()
        norms.append(attempt.grad_norm)
        overflows += attempt.overflows
        sums.update(attempt.sums)  # adds
    loss, count = sums.pop("loss", 0.0), sums.pop("tokens", 0)
    return {
        "loss": loss / len(mini_batches),
        "grad_norm": sum(norms) / max(1, len(norms)),
        "overflows": overflows,
        **{key: value / count for key, value in sums.items()},  # means over tokens
    }


def add_fixed_logprobs(
    lm: LanguageModel,
    mini_batches: Sequence[Sequence[Sample]],
    optimizer: torch.optim.Optimizer,
    config: GRPOConfig,
    reference: Sequence[torch.Tensor] | None,
) -> None:
    """Compute the log-probabilities that the updates take as constants, before the first update, and put them into the samples.

    The old ones of the first mini-batch are left out: its own forward gives the same values, as no update comes before it.
    """
    later = [sample for sample in chain(*mini_batches[1:]) if sample.advantage]
    for sample, logprobs in zip(later, logprobs_of(lm, later, config), strict=True):
        sample.old_logprobs = logprobs
    if reference is not None:
        trained = [sample for sample in chain(*mini_batches) if sample.advantage]
        with weights_swapped(optimizer, reference):
            ref_logprobs = logprobs_of(lm, trained, config)
        for sample, logprobs in zip(trained, ref_logprobs, strict=True):
            sample.ref_logprobs = logprobs


def grpo_loss(
    lm: LanguageModel, batch: Batch, samples: Sequence[Sample], num_tokens: int, config: GRPOConfig
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of a micro-batch (`samples` are its rows), and sums over its tokens for the metrics."""
    logprobs, entropy = token_logprobs(lm, batch, config.temperature)  # [targets]
    if samples[0].old_logprobs is None:
        old_logprobs = logprobs.detach()
    else:
        old_logprobs = torch.cat([sample.old_logprobs for sample in samples])
    advantages = batch.per_token([sample.advantage for sample in samples])
    sums = {"tokens": len(logprobs), "entropy": entropy.sum().item()}
    low, high = clip_counts(logprobs, old_logprobs, advantages, config.clip_low, config.clip_high)
    sums |= {"clip_ratio/low_mean": low, "clip_ratio/high_mean": high}
    if all(sample.sampler_logprobs for sample in samples):
        sampler_logprobs = torch.tensor([x for sample in samples for x in sample.sampler_logprobs], device=logprobs.device)
        sums["sampling/logprob_difference"] = (old_logprobs - sampler_logprobs).abs().sum().item()
        advantages = advantages * importance_weights(old_logprobs, sampler_logprobs)  # equals weighting the token's loss
    loss = clipped_loss(logprobs, old_logprobs, advantages, num_tokens, config.clip_low, config.clip_high)
    if samples[0].ref_logprobs is not None:
        kl = kl_k3(logprobs, torch.cat([sample.ref_logprobs for sample in samples])).sum()
        loss = loss + config.kl * kl / num_tokens
        sums["kl"] = kl.item()
    return loss, sums | {"loss": loss.item()}


@torch.no_grad()
def logprobs_of(lm: LanguageModel, samples: Sequence[Sample], config: GRPOConfig) -> list[torch.Tensor]:
    """Log-probabilities of every sample's tokens under the active adapter, at the sampling temperature: [tokens] each."""
    examples = [sample.example for sample in samples]
    for attempt in attempts(lm, config.micro_tokens):
        mine: dict[int, list[float]] = {}  # this process's share, by index of the sample
        with attempt:
            for rows, batch in batches(lm, examples, attempt.micro_tokens):
                logprobs, _ = token_logprobs(lm, batch, config.temperature)
                lengths = [len(examples[i].completion) for i in rows]
                mine |= {i: values.tolist() for i, values in zip(rows, logprobs.split(lengths), strict=True)}
    every = {i: values for part in distributed.all_gather(mine) for i, values in part.items()}
    return [torch.tensor(every[i], device=lm.device) for i in range(len(samples))]


@contextlib.contextmanager
def weights_swapped(optimizer: torch.optim.Optimizer, weights: Sequence[torch.Tensor]) -> Iterator[None]:
    """Give the optimizer's parameters the values `weights` within the block, and their own again after it."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    own = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for parameter, value in zip(parameters, weights, strict=True):
            parameter.copy_(value)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, own, strict=True):
                parameter.copy_(value)
