"""The generative judge (StepWiser §3.3): analysis first, then the verdict; taught its format, then trained by GRPO."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

from minisw import prompts, stats
from minisw.annotate import balanced, load_steps
from minisw.grpo import train_grpo
from minisw.judges import Progress
from minisw.logprobs import Example, next_token_probabilities
from minisw.model import LanguageModel, copy_adapter
from minisw.problems import World
from minisw.prompts import Prompts
from minisw.recipe import JudgeKnobs, Training
from minisw.records import Judgment, LabelledStep, write_json
from minisw.rollout import Request, Sampler, Sampling
from minisw.runs import Run
from minisw.sft import train_sft

START, JUDGE, TENTH_START, TENTH = "start", "judge", "tenth-start", "tenth"
_LAST_LINE = re.compile(r"[\s*]*\bVerdict\W[^\n]*$")  # a verdict without its box


def parse_verdict(reply: str) -> bool | None:
    """The last boxed verdict of a reply: True for Positive, False for Negative, None where there is none."""
    positive, negative = reply.rfind(prompts.POSITIVE), reply.rfind(prompts.NEGATIVE)
    if positive == negative:  # both absent
        return None
    return positive > negative


class GenerativeJudge:
    """Samples an analysis and a verdict for each step, from adapter `adapter` (None: the untrained base)."""

    def __init__(
        self,
        lm: LanguageModel,
        sampler: Sampler,
        words: Prompts,
        adapter: str | None,
        max_new_tokens: int,
        micro_tokens: int,
        name: str = "generative",
        temperature: float = 0.0,
        votes: int = 1,
    ):
        self.lm, self.sampler, self.words, self.adapter, self.name = lm, sampler, words, adapter, name
        self.max_new_tokens, self.micro_tokens, self.temperature, self.votes = max_new_tokens, micro_tokens, temperature, votes

    def prompt(self, step: LabelledStep) -> list[int]:
        return self.lm.chat(self.words.for_judge(step.question, step.history, step.chunk))

    def judge(
        self, steps: Sequence[LabelledStep], seed: int, progress: Progress = None, probabilities: bool = False
    ) -> list[Judgment]:
        """One judgment a step; with `votes` > 1 the majority's verdict (Negative at a tie) and its first analysis.

        `probabilities` adds P(Positive) by the verdict token, at the price of one more forward.
        """
        with self.lm.using(self.adapter):
            requests = [Request(self.prompt(s), self.votes) for s in steps]
            groups = self.sampler.generate(requests, Sampling(self.max_new_tokens, self.temperature), seed, progress)
            replies = [[self.lm.decode(c.ids) for c in group] for group in groups]
            judgments = []
            for group, completions in zip(replies, groups, strict=True):
                verdicts = [parse_verdict(reply) for reply in group]
                read = [v for v in verdicts if v is not None]
                share = stats.mean(read) if read else 0.5
                verdict = None if not read else share > 0.5
                pick = verdicts.index(verdict)
                judgments.append(
                    Judgment(
                        verdict,
                        group[pick],
                        float(verdict) if verdict is not None else 0.5,
                        share,
                        sum(len(c.ids) for c in completions),
                    )
                )
            if probabilities:
                judgments = self._with_probabilities(requests, judgments)
        return judgments

    def _with_probabilities(self, requests: Sequence[Request], judgments: Sequence[Judgment]) -> list[Judgment]:
        box = len(self.lm.encode(prompts.BOX))
        words = [self.lm.encode(verdict)[box] for verdict in (prompts.POSITIVE, prompts.NEGATIVE)]
        readable = [i for i, j in enumerate(judgments) if j.verdict is not None]
        texts = [judgments[i].analysis for i in readable]
        texts = [text[: max(text.rfind(prompts.POSITIVE), text.rfind(prompts.NEGATIVE)) + len(prompts.BOX)] for text in texts]
        asked = [requests[i].ids + self.lm.encode(text) for i, text in zip(readable, texts, strict=True)]
        p = next_token_probabilities(self.lm, asked, words, self.micro_tokens)[:, 0].tolist() if asked else []
        out = list(judgments)
        for i, value in zip(readable, p, strict=True):
            out[i] = dataclasses.replace(out[i], p_positive=value)
        return out


class ElicitedJudge:
    """The bare base asked through the world's own chain (problems/elicit.py), greedily: what it can say without any label."""

    name = "untrained base, asked in parts"

    def __init__(self, lm: LanguageModel, sampler: Sampler, world: World):
        self.lm, self.sampler, self.world = lm, sampler, world

    def judge(self, steps: Sequence[LabelledStep], seed: int, progress: Progress = None) -> list[Judgment]:
        with self.lm.using(None):
            replies = [group[0] for group in self.world.elicit(self.lm, self.sampler, steps, 1, seed, temperature=0.0)]
        if progress:
            progress(len(steps))
        verdicts = [parse_verdict(reply) for reply in replies]
        shares = [0.5 if v is None else float(v) for v in verdicts]
        sizes = [len(self.lm.encode(reply)) for reply in replies]
        return [Judgment(v, r, p, p, n) for v, r, p, n in zip(verdicts, replies, shares, sizes, strict=True)]


# --- training --------------------------------------------------------------------------------------------------------


def elicit(
    lm: LanguageModel, sampler: Sampler, world: World, steps: Sequence[LabelledStep], knobs: JudgeKnobs, seed: int
) -> list[list[str]]:
    """First replies of the bare base: through the world's own chain, or by the judge's prompt where the base can follow it.

    Only the labels decide which of them are learned from (`format_examples`), so a verdict may be asked for separately.
    """
    if world.elicit is not None:
        return world.elicit(lm, sampler, steps, knobs.format_samples, seed)
    requests = [Request(lm.chat(world.prompts.for_judge(s.question, s.history, s.chunk)), knobs.format_samples) for s in steps]
    groups = sampler.generate(requests, Sampling(knobs.max_new_tokens), seed)
    replies = [[lm.decode(c.ids) for c in group] for group in groups]
    # a small base ends most analyses without a verdict: its last line is begun for it there
    begun = {
        (i, k): _LAST_LINE.sub("", text.rstrip()) + prompts.VERDICT
        for i, group in enumerate(replies)
        for k, text in enumerate(group)
        if groups[i][k].finished and parse_verdict(text) is None
    }
    asked = [Request(requests[i].ids + lm.encode(text)) for (i, _), text in begun.items()]
    ends = sampler.generate(asked, Sampling(8, stop="}"), seed + 1)
    for ((i, k), text), (end,) in zip(begun.items(), ends, strict=True):
        replies[i][k] = text + lm.decode(end.ids)
    return replies


def format_examples(
    lm: LanguageModel, world: World, steps: Sequence[LabelledStep], replies: Sequence[Sequence[str]]
) -> list[Example]:
    """The base's own replies whose verdict equals the label (the paper's RS-FT data), as many of each side.

    These labels are label use: `steps` must come out of the judge's label budget.
    """
    sides: dict[bool, list[Example]] = {True: [], False: []}
    for step, group in zip(steps, replies, strict=True):
        for reply in group:
            if parse_verdict(reply) is step.label:
                prompt = lm.chat(world.prompts.for_judge(step.question, step.history, step.chunk))
                sides[step.label].append(Example(prompt, lm.encode(reply) + [lm.tokenizer.eos_token_id]))
    # the smaller side is repeated rather than the larger one thrown away: there are few
    most = max(len(side) for side in sides.values())
    if not min(len(side) for side in sides.values()):
        return sides[True] + sides[False]
    return [side[i % len(side)] for i in range(most) for side in sides.values()]


def teach_format(run: Run, steps: Sequence[LabelledStep], name: str, training: Training) -> tuple[list[dict], dict]:
    """Adapter `name`: SFT on the base's own replies to `steps` that agree with the labels (the paper's RS-FT).

    Returns its curve and the counts of labels, replies, and right ones.
    """
    knobs, lm, world, folder = run.recipe.judge, run.lm, run.world, run.folder / "judge"
    counts = {"labels": len(set(steps))}

    def teach(checkpoint: Path, tick) -> list[dict]:
        with lm.using(None):
            replies = elicit(lm, run.sampler, world, steps, knobs, run.seed_of(f"elicit-{name}"))
        examples = format_examples(lm, world, steps, replies)
        counts["replies"] = sum(len(group) for group in replies)
        counts["right"] = sum(parse_verdict(r) is s.label for s, group in zip(steps, replies, strict=True) for r in group)
        write_json(folder / f"{name}-counts.json", counts)
        if not examples:
            run.console.print("  [yellow]no reply of the base agrees with its label: the judge starts untrained[/]")
            return []
        micro = run.recipe.model.micro_tokens
        return train_sft(lm, name, examples, training, micro, run.seed_of(f"format-{name}"), checkpoint, progress=tick)

    expected = training.epochs * max(1, len(steps) * knobs.format_samples // training.batch)
    curve = run.train(name, folder, teach, expected, f"{name}: teaching the format")
    return curve, json.loads((folder / f"{name}-counts.json").read_text(encoding="utf-8"))


def train_judge(run: Run, steps: Sequence[LabelledStep], start: str, name: str, training: Training, grpo_steps: int) -> dict:
    """Teach the format (adapter `start`), then GRPO from there (adapter `name`); returns the curves and counts."""
    knobs, lm, world = run.recipe.judge, run.lm, run.world
    folder, micro = run.folder / "judge", run.recipe.model.micro_tokens
    _, counts = teach_format(run, steps, start, training)
    judge = GenerativeJudge(lm, run.sampler, world.prompts, name, knobs.max_new_tokens, micro)
    asked = [judge.prompt(s) for s in steps]

    def reward(index: int, reply: str) -> float:
        return float(parse_verdict(reply) is steps[index].label)

    def reinforce(checkpoint: Path, tick) -> list[dict]:
        copy_adapter(lm, start, name)
        shorter = dataclasses.replace(knobs, steps=grpo_steps, prompts=min(knobs.prompts, len(steps)))
        return train_grpo(
            lm,
            name,
            asked,
            reward,
            shorter,
            run.sampler,
            micro,
            run.seed_of(f"grpo-{name}"),
            checkpoint,
            warn=lambda text: run.console.print(f"  [yellow]{text}[/]"),
            progress=tick,
        )

    grpo = run.train(name, folder, reinforce, grpo_steps, f"{name}: GRPO")
    return {"grpo": grpo, "labels": len(set(steps)), "format": counts}


def run_stage(run: Run) -> None:
    """Writes judge/: adapters `start` (RS-FT) and `judge` (GRPO from there), the same with a tenth of the labels, their curves,
    metrics.json."""
    knobs = run.recipe.judge
    steps = balanced(load_steps(run, "train"), knobs.labels, run.seed_of("balance"), knobs.passes)
    if len(steps) < 4:
        raise ValueError("fewer than 4 balanced labels: annotate more problems (--problems.train, --annotate.samples)")
    full = train_judge(run, steps, START, JUDGE, knobs.format_training, knobs.steps)
    metrics = {"grpo": full["grpo"], "labels": full["labels"], "format": full["format"], "tenth": []}
    if knobs.tenth:
        few = steps[: max(4, len(set(steps)) // 20 * 2)]
        again = round(knobs.format_training.epochs * len(steps) / len(few))  # as many SFT steps on fewer labels
        training = dataclasses.replace(knobs.format_training, epochs=again)
        tenth = train_judge(run, few, TENTH_START, TENTH, training, max(3, round(knobs.steps * len(few) / len(steps))))
        metrics |= {"tenth": tenth["grpo"], "tenth_labels": tenth["labels"], "tenth_format": tenth["format"]}
    write_json(run.folder / "judge" / "metrics.json", metrics)
