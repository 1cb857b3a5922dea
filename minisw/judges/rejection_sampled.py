"""RS-FT, rejection-sampling fine-tuning (StepWiser §3.3): SFT on the base's own analyses whose verdict is right.

    1. sample replies of the bare base to every training label
    2. keep those that the reward pays: an analysis, and a verdict equal to the label; at most `rs_keep` for each label
    3. repeat examples of the rarer verdict until both are equally many, and train on them
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minisw.engine import distributed
from minisw.engine.logprobs import Example
from minisw.engine.requests import Request, Sampling
from minisw.judges.base import JudgeContext, JudgeTrainer, seeds_from
from minisw.judges.generative import GenerativeJudge
from minisw.prompts import VERDICT
from minisw.records import LabelledStep, write_json
from minisw.training.monitor import Monitor
from minisw.training.sft import train_sft
from minisw.verdicts import parse_verdict, verdict_reward

REJECTION_SAMPLED = "rejection_sampled"
_LAST_LINE = re.compile(r"[\s*]*\bVerdict\W[^\n]*$")  # a last line with a verdict but without its box


def sample_replies(
    context: JudgeContext, steps: Sequence[LabelledStep], count: int, seed: int
) -> list[list[str]]:
    r"""`count` replies of the bare base to the request to judge each step: [steps][count].

    A small base ends most analyses without a verdict. To these "Verdict: \boxed{" is appended, and the base completes the
    line. Asking for the verdict separately is fair: only the labels decide which replies are learned from.
    """
    lm, sampler, seed_of = context.lm, context.sampler, seeds_from(seed)
    judge = GenerativeJudge(context, None)
    requests = [Request(judge.prompt(step), count) for step in steps]
    with lm.using(None):
        groups = sampler.generate(requests, Sampling(context.max_new_tokens), seed_of("analysis"))
        replies = [[lm.decode(c.ids) for c in group] for group in groups]
        beginnings = {
            (i, k): _LAST_LINE.sub("", text.rstrip()) + VERDICT
            for i, group in enumerate(replies)
            for k, text in enumerate(group)
            if context.analysis and groups[i][k].finished and parse_verdict(text) is None
        }
        followups = [Request(requests[i].ids + lm.encode(text)) for (i, _), text in beginnings.items()]
        ends = sampler.generate(followups, Sampling(8, stop="}"), seed_of("verdict"))
    for ((i, k), text), (end,) in zip(beginnings.items(), ends, strict=True):
        replies[i][k] = text + lm.decode(end.ids)
    return replies


def right_examples(
    context: JudgeContext, steps: Sequence[LabelledStep], replies: Sequence[Sequence[str]], keep: int
) -> list[Example]:
    """SFT examples from the replies that the reward pays, as many Positive as Negative ones. `replies`: [steps][any number].

    At most the first `keep` right replies to a step count.
    Examples of the rarer verdict are repeated; dropping the others would waste scarce data. If only one verdict occurs, its
    examples are returned once.
    """
    lm, judge = context.lm, GenerativeJudge(context, None)
    reward = verdict_reward(steps, judge.beginning)
    sides: dict[bool, list[Example]] = {True: [], False: []}
    for index, (step, group) in enumerate(zip(steps, replies, strict=True)):
        right = [reply for reply in group if reward(index, reply)][:keep]
        prompt = judge.prompt(step)
        sides[step.label] += [Example(prompt, lm.encode(reply) + [lm.tokenizer.eos_token_id]) for reply in right]
    if not sides[True] or not sides[False]:
        return sides[True] + sides[False]
    most = max(len(side) for side in sides.values())
    return [side[i % len(side)] for i in range(most) for side in sides.values()]


def distinct(steps: Sequence[LabelledStep]) -> list[LabelledStep]:
    """The steps without repetitions, in order of first appearance. Balancing in several passes repeats the rarer label."""
    return list(dict.fromkeys(steps))


def saved_once(file: Path | None, make: Callable[[], Any]) -> Any:
    """What `make()` returns (JSON values), saved in `file` at once; if the file exists, its contents. None saves nothing."""
    if file and distributed.broadcast(file.exists()):
        return json.loads(file.read_text(encoding="utf-8"))
    value = make()
    if file:
        write_json(file, value)
    return value


def train_rejection_sampled(trainer: JudgeTrainer, name: str = REJECTION_SAMPLED) -> dict:
    """Train adapter `name` by RS-FT on the trainer's labels; returns its curve and the counts of labels and replies.

    Without a single right reply the adapter stays untrained, with a warning. In a stage the replies are saved as soon as they
    are sampled, so that a training that was killed does not sample them again.
    """
    context, steps, knobs = trainer.context, distinct(trainer.steps), trainer.knobs
    training = knobs.rs_training

    def fit(checkpoint: Path | None, tick) -> dict:
        saved = checkpoint.with_name(f"{name}-replies.json") if checkpoint else None
        seed = trainer.seed_of(f"replies-{name}")
        replies = saved_once(saved, lambda: sample_replies(context, steps, knobs.rs_samples, seed))
        reward = verdict_reward(steps, GenerativeJudge(context, None).beginning)
        counts = {
            "replies": sum(len(group) for group in replies),
            "right": sum(int(reward(i, reply)) for i, group in enumerate(replies) for reply in group),
        }
        examples = right_examples(context, steps, replies, knobs.rs_keep)
        if not examples:
            trainer.warn("no reply of the base agrees with its label: the judge stays untrained")
            return {**counts, "curve": []}
        seed = trainer.seed_of(f"sft-{name}")
        curve = train_sft(context.lm, name, examples, training, context.micro_tokens, seed, Monitor(checkpoint, progress=tick))
        return {**counts, "curve": curve}

    expected = training.epochs * max(1, len(steps) * min(knobs.rs_samples, knobs.rs_keep) // training.batch)
    metrics = trainer.train(name, fit, expected, "RS-FT")
    described = f"SFT, {training.epochs} epochs, on the {metrics['right']} right ones of {metrics['replies']} replies of the base"
    return {"training": described, "labels": len(steps), **metrics}
