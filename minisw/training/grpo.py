"""Group relative policy optimisation, by hand: sample groups → reward → group advantage → clipped token loss → step.

After StepWiser §3.3 and the papers it builds on (GRPO; token-level loss and clip-higher from DAPO). How it differs from
the textbook: no value model, no KL by default, the loss is summed over tokens and divided by *all* target tokens of the
step (long analyses weigh as much a token as short ones, and the micro-batch size changes nothing), and groups whose
rewards are all equal are left out before the forward pass, because their advantage is zero.

Metrics are named as in TRL:
    reward, reward_std            mean reward; mean over the groups of the standard deviation within a group
    frac_reward_zero_std          share of groups with equal rewards: they teach nothing
    completions/mean_length       tokens an analysis
    completions/clipped_ratio     share that was cut off at max_new_tokens
    entropy                       mean entropy of the trained tokens' distribution, in nats
    clip_ratio/low_mean, …/high_mean   share of tokens whose ratio was clipped below, above
    kl                            mean KL towards the start (only with kl > 0)
    grad_norm, loss, num_tokens   as usual
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from minisw.engine.batches import shared_layout
from minisw.engine.logprobs import Batch, Example, collate, micro_batches, token_logprobs
from minisw.engine.model import LanguageModel
from minisw.engine.requests import Request, Sampling
from minisw.engine.sampler import Sampler
from minisw.recipe import JudgeKnobs
from minisw.training import checkpoints
from minisw.training.step import accumulate, clipped_step

Reward = Callable[[int, str], float]  # (index of the prompt, completion text) -> reward


@dataclass(frozen=True)
class Episode:
    """Everything about one sample: its tokens, its reward, and its advantage within its group."""

    example: Example
    reward: float
    advantage: float
    finished: bool


def train_grpo(
    lm: LanguageModel,
    adapter: str,
    prompts: Sequence[list[int]],
    reward: Reward,
    knobs: JudgeKnobs,
    sampler: Sampler,
    micro_tokens: int,
    seed: int,
    checkpoint: Path | None = None,
    warn: Callable[[str], None] = print,
    progress: Callable[[int, dict], None] | None = None,
    save_every: int = 5,
) -> list[dict]:
    """Train `adapter` on `prompts` (token ids) by GRPO, in place; returns one dict of metrics a step.

    With `checkpoint`, a killed training goes on from the last saved step with the same numbers as one that was not killed.
    Raises ValueError without prompts.
    """
    if not prompts:
        raise ValueError("no prompts for GRPO: the balanced labels are empty; annotate more solutions")
    parameters = lm.adapter_parameters(adapter)
    optimizer = torch.optim.AdamW(parameters.values(), lr=knobs.lr, weight_decay=0.0)
    reference = {name: p.detach().clone() for name, p in parameters.items()} if knobs.kl else {}
    scaler = lm.new_scaler()
    start, metrics = checkpoints.load(checkpoint, parameters, optimizer, scaler) if checkpoint else (0, [])
    with lm.using(adapter):
        for step in range(start, knobs.steps):
            chosen = prompts_of_step(len(prompts), knobs.prompts, step, seed)
            episodes, record = collect(prompts, chosen, reward, knobs, sampler, seed * 100_003 + step)
            for parameter in parameters.values():
                parameter.requires_grad_(True)
            record |= update(lm, episodes, parameters, optimizer, knobs, micro_tokens, reference)
            for parameter in parameters.values():
                parameter.requires_grad_(False)
            metrics.append({"step": step + 1, **record})
            warn_if_stalled(metrics, parameters, warn)
            if progress:
                progress(1, metrics[-1])
            if checkpoint and ((step + 1) % save_every == 0 or step + 1 == knobs.steps):
                checkpoints.save(checkpoint, parameters, optimizer, step + 1, metrics, scaler)
    return metrics


def prompts_of_step(count: int, batch: int, step: int, seed: int) -> list[int]:
    """Which prompts step `step` uses: endless shuffled passes, a function of the step alone so that it needs no state."""
    chosen: list[int] = []
    for at in range(step * batch, (step + 1) * batch):
        epoch, index = divmod(at, count)
        order = list(range(count))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        chosen.append(order[index])
    return chosen


def collect(
    prompts: Sequence[list[int]], chosen: Sequence[int], reward: Reward, knobs: JudgeKnobs, sampler: Sampler, seed: int
) -> tuple[list[Episode], dict]:
    """Sample a group for each chosen prompt, reward it, and turn rewards into advantages (reward − mean) / std."""
    sampling = Sampling(knobs.max_new_tokens, knobs.temperature)
    groups = sampler.generate([Request(prompts[i], knobs.group) for i in chosen], sampling, seed)
    episodes, stds = [], []
    for index, group in zip(chosen, groups, strict=True):
        rewards = torch.tensor([reward(index, sampler.lm.decode(c.ids)) for c in group])
        # the mean of equal floats need not be that float: rounding must not become an advantage
        spread = rewards - rewards.mean() if rewards.max() > rewards.min() else torch.zeros_like(rewards)
        std = spread.square().mean().sqrt()
        stds.append(std.item())
        advantages = spread / (std + 1e-4)
        episodes += [
            Episode(Example(prompts[index], c.ids), r.item(), a.item(), c.finished)
            for c, r, a in zip(group, rewards, advantages, strict=True)
        ]
    lengths = [len(e.example.completion) for e in episodes]
    return episodes, {
        "reward": sum(e.reward for e in episodes) / len(episodes),
        "reward_std": sum(stds) / len(stds),
        "frac_reward_zero_std": sum(std == 0 for std in stds) / len(stds),
        "completions/mean_length": sum(lengths) / len(lengths),
        "completions/clipped_ratio": sum(not e.finished for e in episodes) / len(episodes),
        "num_tokens": sum(lengths),
    }


def update(
    lm: LanguageModel,
    episodes: Sequence[Episode],
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    knobs: JudgeKnobs,
    micro_tokens: int,
    reference: dict[str, torch.Tensor],
) -> dict:
    """`knobs.updates` optimizer steps, each on its share of the episodes, with the clipped token loss."""
    share = -(-len(episodes) // knobs.updates)
    parts = [episodes[at : at + share] for at in range(0, len(episodes), share)]
    # the first part's old log-probabilities are those of its own training forward; later parts need theirs beforehand
    old: dict[int, torch.Tensor] = {}  # by the episode's id
    for part in parts[1:]:
        for rows, batch in learning_batches(lm, part, micro_tokens >> lm.halvings):
            old |= zip(map(id, rows), split_rows(batch, token_logprobs_of(lm, batch, knobs)), strict=True)
    sums: dict[str, float] = {}
    norms = []
    for part in parts:
        total = sum(len(e.example.completion) for e in part)

        def learn(item: tuple[list[Episode], Batch], total: int = total) -> tuple[torch.Tensor, dict[str, float]]:
            rows, batch = item
            start = reference_logprobs(lm, batch, parameters, reference, knobs) if reference else None
            logp, entropy = token_logprobs(lm, batch, knobs.temperature)
            before = torch.cat([old[id(e)] for e in rows]) if id(rows[0]) in old else logp.detach()
            advantage = batch.per_token([e.advantage for e in rows])
            return clipped_loss(logp, before, advantage, entropy, total, knobs, start)

        counts = accumulate(lm, micro_tokens, functools.partial(learning_batches, lm, part), learn, parameters.values())
        if counts:
            norms.append(clipped_step(lm, optimizer, parameters.values()))
        sums = {key: sums.get(key, 0.0) + counts.get(key, 0.0) for key in sums | counts}
    learnt, loss = sums.pop("tokens", 0), sums.pop("loss", 0.0)
    means = {key: value / learnt for key, value in sums.items()}  # of no token there is no mean
    return {"loss": loss / len(parts), "grad_norm": sum(norms) / max(1, len(norms)), **means}


def clipped_loss(
    logp: torch.Tensor,
    before: torch.Tensor,
    advantage: torch.Tensor,
    entropy: torch.Tensor,
    total: int,
    knobs: JudgeKnobs,
    start: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """The clipped token loss of a micro-batch, divided by the step's `total` tokens, and what is counted. All [targets].

    StepWiser §3.3 with clip-higher (Yu et al. 2025): min(r·A, clip(r, 1 − clip_low, 1 + clip_high)·A), r = exp(logp − before).
    `start`, log-probabilities under the adapter at the start, adds the KL term.
    """
    ratio = (logp - before).exp()
    clipped = ratio.clamp(1 - knobs.clip_low, 1 + knobs.clip_high)
    loss = -torch.minimum(ratio * advantage, clipped * advantage)
    counts = {
        "tokens": len(logp),
        "entropy": entropy.sum().item(),
        "clip_ratio/low_mean": ((ratio < 1 - knobs.clip_low) & (advantage < 0)).sum().item(),
        "clip_ratio/high_mean": ((ratio > 1 + knobs.clip_high) & (advantage > 0)).sum().item(),
        "kl": 0.0,
    }
    if start is not None:
        gap = start - logp
        kl = gap.exp() - gap - 1  # k3, never negative
        loss = loss + knobs.kl * kl
        counts["kl"] = kl.sum().item()
    loss = loss.sum() / total
    return loss, counts | {"loss": loss.item()}


def split_rows(batch: Batch, values: torch.Tensor) -> list[torch.Tensor]:
    """Values of targets [targets] as one tensor a row."""
    return list(values.split(batch.counts))


def learning_batches(lm: LanguageModel, episodes: Sequence[Episode], micro_tokens: int) -> list[tuple[list[Episode], Batch]]:
    """Micro-batches of the episodes that can teach (advantage not zero)."""
    alive = [e for e in episodes if e.advantage != 0]
    share = shared_layout(lm)
    return [
        ([alive[i] for i in rows], collate([alive[i].example for i in rows], lm.tokenizer.pad_token_id, lm.device, share))
        for rows in micro_batches([e.example for e in alive], micro_tokens, share)
    ]


@torch.no_grad()
def token_logprobs_of(lm: LanguageModel, batch: Batch, knobs: JudgeKnobs) -> torch.Tensor:
    return token_logprobs(lm, batch, knobs.temperature)[0]


def reference_logprobs(lm: LanguageModel, batch: Batch, parameters: dict, reference: dict, knobs: JudgeKnobs) -> torch.Tensor:
    """Log-probabilities under the adapter as it was at the start: its few weights are swapped in for one forward."""
    now = {name: p.detach().clone() for name, p in parameters.items()}
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(reference[name])
        try:
            return token_logprobs_of(lm, batch, knobs)
        finally:  # memory may run out in between
            for name, p in parameters.items():
                p.copy_(now[name])


def warn_if_stalled(metrics: Sequence[dict], parameters: dict[str, torch.nn.Parameter], warn: Callable[[str], None]) -> None:
    """Say aloud when nothing is learnt; each cause once, when it first appears."""
    step, first = len(metrics), metrics[0]["completions/mean_length"]

    def stuck(step: int) -> bool:
        return step >= 5 and all(m["frac_reward_zero_std"] > 0.95 for m in metrics[step - 5 : step])

    def shrunk(step: int) -> bool:
        return metrics[step - 1]["completions/mean_length"] < 0.25 * first

    if stuck(step) and not any(map(stuck, range(5, step))):
        warn(
            f"GRPO step {step}: for 5 steps over 95% of the groups had equal rewards, so almost nothing is learnt; "
            "raise judge.group or judge.temperature, or check the labels"
        )
    if step == 3 and all(not p.any() for name, p in parameters.items() if "lora_B" in name):
        warn("GRPO step 3: LoRA B is still zero: no gradient reaches the adapter")
    if shrunk(step) and not any(map(shrunk, range(1, step))):
        warn(
            f"GRPO step {step}: the analyses have shrunk from {first:.0f} tokens to "
            f"{metrics[-1]['completions/mean_length']:.0f}: the judge may have stopped reasoning"
        )
