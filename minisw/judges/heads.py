"""What judges with a scalar head share: fresh heads, hidden states at given positions, and scores of states.

The head itself is in `engine/heads.py`, because models save and load it with its adapter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from minisw.engine.batches import Example, collate
from minisw.engine.heads import Head
from minisw.engine.logprobs import hidden_states, in_batches
from minisw.engine.model import LanguageModel
from minisw.judges.base import JudgeContext
from minisw.policy import Policy
from minisw.recipe import PolicyKnobs
from minisw.records import Judgment, LabelledStep


def new_head(lm: LanguageModel, seed: int, *widths: int) -> Head:
    """A fresh head for the states of this model, on its device, with hidden layers of these widths (none: a linear head)."""
    torch.manual_seed(seed)
    return Head(lm.causal_lm.get_output_embeddings().weight.shape[1], *widths).to(lm.device)


def states_at(
    context: JudgeContext, adapter: str | None, rows: Sequence[list[int]], positions: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    """Hidden states of the last layer, after the final norm, at some positions of each row of token ids, under an adapter.

    Returns fp32 [positions, hidden] on the CPU for each row. They are what the model's output head reads, so a state has seen
    the tokens up to and including its own. Memory: see `in_batches`.
    """
    lm = context.lm

    @torch.no_grad()
    def forward(indices: list[int]) -> list[torch.Tensor]:
        batch = collate([Example(rows[i], []) for i in indices], lm.tokenizer.pad_token_id, lm.device, "plain")
        with lm.autocast():
            hidden = hidden_states(lm.causal_lm.get_decoder(), batch)  # [rows, length, hidden]
        return [hidden[row, list(positions[i])].float().cpu() for row, i in enumerate(indices)]

    with lm.using(adapter):
        return in_batches(lm, rows, context.micro_tokens, forward)


def step_states(context: JudgeContext, adapter: str, steps: Sequence[LabelledStep]) -> list[torch.Tensor]:
    """The policy's hidden states at the ends of the steps, in order: a tensor [its steps, hidden] for each run of steps.

    A run is a sequence of consecutive steps of one solution; it is one row of a forward pass. Tokens are
    those that the policy writes: its prompt, then each chunk in its tags.
    """
    policy = Policy(context.lm, context.sampler, context.prompts, PolicyKnobs(), adapter)
    rows: list[list[int]] = []
    ends: list[list[int]] = []
    path = None  # question and chunks of the row so far
    for step in steps:
        if (step.question, step.history) != path:
            rows.append(policy.path_ids(step.question, step.history))
            ends.append([])
        rows[-1] += policy.encode_chunks([step.chunk])[0]
        ends[-1].append(len(rows[-1]) - 1)
        path = (step.question, (*step.history, step.chunk))
    return states_at(context, adapter, rows, ends)


@torch.no_grad()
def scores(head: Head, states: Sequence[torch.Tensor]) -> list[float]:
    """The head's probabilities for all states, [states, hidden] each, in order."""
    if not states:
        return []
    device = next(head.parameters()).device
    return head(torch.cat(list(states)).to(device)).sigmoid().tolist()


def judgments(scores: Sequence[float], threshold: float, tokens: int) -> list[Judgment]:
    """One judgment for each score, Positive at `threshold` and above, counted as so many sampled tokens."""
    return [Judgment(score >= threshold, p_positive=score, tokens=tokens) for score in scores]
