"""RS-FT, rejection-sampling fine-tuning (StepWiser §3.3): SFT on the base's own analyses whose verdict is right.

    1. sample replies to every training label, of the bare base or of the model that the recipe names as writer
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
    context: JudgeContext, steps: Sequence[LabelledStep], count: int, seed: int, kind: Callable = GenerativeJudge
) -> list[list[str]]:
    r"""`count` replies of the context's bare model to the request to judge each step: [steps][count].

    `kind` makes the judge that asks.

    A small model ends most analyses without a verdict. To these "Verdict: \boxed{" is appended, and the model completes the
    line. Asking for the verdict separately is fair: only the labels decide which replies are learned from.
    """
    lm, seed_of = context.lm, seeds_from(seed)
    judge = kind(context, None, temperature=1.0, votes=count)
    groups = judge.sample(steps, seed_of("analysis"))
    replies = [[reply.text for reply in group] for group in groups]
    beginnings = {
        (i, k): _LAST_LINE.sub("", text.rstrip()) + VERDICT
        for i, group in enumerate(replies)
        for k, text in enumerate(group)
        if context.analysis and groups[i][k].finished and parse_verdict(text) is None
    }
    followups = [Request(judge.prompt(steps[i]) + lm.encode(text)) for (i, _), text in beginnings.items()]
    with lm.using(None):
        ends = context.sampler.generate(followups, Sampling(8, stop="}"), seed_of("verdict"))
    for ((i, k), text), (end,) in zip(beginnings.items(), ends, strict=True):
        replies[i][k] = text + lm.decode(end.ids)
    return replies


def right_examples(
    context: JudgeContext, steps: Sequence[LabelledStep], replies: Sequence[Sequence[str]], keep: int
) -> list[Example]:
    """SFT examples from the replies that the reward pays, as many Positive as Negative ones. `replies`: [steps][any number].

    At most the first `keep` right replies to a step count.
    """
    lm, judge = context.lm, GenerativeJudge(context, None)
    reward = verdict_reward(steps, judge.beginning)
    groups = []
    for index, (step, group) in enumerate(zip(steps, replies, strict=True)):
        right = [reply for reply in group if reward(index, reply)][:keep]
        prompt = judge.prompt(step)
        groups.append([Example(prompt, lm.encode(reply) + [lm.tokenizer.eos_token_id]) for reply in right])
    return balanced_examples(steps, groups)


def balanced_examples(steps: Sequence[LabelledStep], groups: Sequence[Sequence[Example]]) -> list[Example]:
    """The examples of each step, `groups` [steps][any number], as many for Positive as for Negative labels; they alternate.

    Examples of the rarer label are repeated; dropping the others would waste scarce data. If only one label occurs, its
    examples are returned once.
    """
    sides: dict[bool, list[Example]] = {True: [], False: []}
    for step, group in zip(steps, groups, strict=True):
        sides[step.label] += group
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


def train_on_replies(
    trainer: JudgeTrainer,
    name: str,
    labels: int,
    sample: Callable[[], list[list[str]]],
    choose: Callable[[list[list[str]]], tuple[list[Example], dict]],
) -> dict:
    """Train adapter `name` by SFT on sampled replies; returns the metrics of `choose`, and the curve.

    `sample()` gives the replies to `labels` steps: [steps][any number]. In a stage they are saved as soon as they are sampled,
    so that a training that was killed does not sample them again. `choose(replies)` gives the examples and metrics. Without a
    single example the adapter stays untrained, with a warning.
    """
    knobs, training = trainer.knobs, trainer.knobs.rs_training

    def fit(checkpoint: Path | None, tick) -> dict:
        replies = saved_once(checkpoint.with_name(f"{name}-replies.json") if checkpoint else None, sample)
        examples, metrics = choose(replies)
        if not examples:
            trainer.warn("no reply to train on is left: the judge stays untrained; sample more (--judge.rs-samples)")
            return {**metrics, "curve": []}
        lm, micro_tokens, seed = trainer.context.lm, trainer.context.micro_tokens, trainer.seed_of(f"sft-{name}")
        curve = train_sft(lm, name, examples, training, micro_tokens, seed, Monitor(checkpoint, progress=tick))
        return {**metrics, "curve": curve}

    expected = training.epochs * max(1, labels * min(knobs.rs_samples, knobs.rs_keep) // training.batch)
    return trainer.train(name, fit, expected, "RS-FT")


def train_rejection_sampled(trainer: JudgeTrainer, name: str = REJECTION_SAMPLED) -> dict:
    """Train adapter `name` by RS-FT on the trainer's labels; returns its curve and the counts of labels and replies."""
    context, steps, knobs = trainer.context, distinct(trainer.steps), trainer.knobs

    def sample() -> list[list[str]]:
        return sample_replies(trainer.writer, steps, knobs.rs_samples, trainer.seed_of(f"replies-{name}"))

    def choose(replies: list[list[str]]) -> tuple[list[Example], dict]:
        reward = verdict_reward(steps, GenerativeJudge(context, None).beginning)
        right = sum(int(reward(i, reply)) for i, group in enumerate(replies) for reply in group)
        return right_examples(context, steps, replies, knobs.rs_keep), {"replies": sum(map(len, replies)), "right": right}

    metrics = train_on_replies(trainer, name, len(steps), sample, choose)
    epochs = knobs.rs_training.epochs
    replies = f"{metrics['replies']} replies of {trainer.writer_name}, of which {metrics['right']} were right"
    described = f"SFT, {epochs} epochs, on right ones of {replies}"
    return {"training": described, "labels": len(steps), **metrics}
