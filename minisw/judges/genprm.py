"""GenPRM (arXiv 2504.00891): a generative judge that checks a step by running code, trained by SFT on filtered replies.

    reply      an analysis with lines of Python, each followed by its real output (code_checks.py); then the verdict
    score      P(Positive) at the verdict token; 0.5 without a verdict; with several votes (Maj@N) the mean of their scores
    training   1. a writer replies to the request to judge with code, k times for each step
               2. the consensus filter keeps whole solutions: those in which every step has a reply that agrees with its label
               3. SFT on up to `rs_keep` agreeing replies to each of their steps, on as many Positive as Negative ones

Differences from the paper: its writer is a larger reasoning model, which replies once to a whole solution; the filter drops the
solution if one verdict differs from its label. Here the base may be the writer: it is asked k times about each step. Labels are
the run's (the paper's own rule is `--annotate.rule relative_progress`). SFT does not learn the outputs, as the model never
writes them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal, get_args

from minisw.engine.logprobs import Example
from minisw.engine.requests import Request
from minisw.judges.base import JudgeContext, JudgeTrainer, Progress
from minisw.judges.code_checks import Run, code_only, encode_reply, sample_with_checks
from minisw.judges.generative import GenerativeJudge, Reply, p_positive
from minisw.judges.rejection_sampled import balanced_examples, distinct, sample_replies, train_on_replies
from minisw.prompts import BOX, NEGATIVE, POSITIVE
from minisw.records import Judgment, LabelledStep, flat
from minisw.verdicts import verdict_reward
from minisw.verify.sandbox import run_checks

GENPRM = "genprm"
Parts = Literal["both", "analysis", "code", "neither"]  # what a reply holds before its verdict (GenPRM's ablation)


class GenPRMJudge(GenerativeJudge):
    """Judges with code: what `run` returns for the checks in a reply is spliced in while the reply is sampled."""

    def __init__(
        self,
        context: JudgeContext,
        adapter: str | None,
        name: str = "GenPRM",
        temperature: float = 0.0,
        votes: int = 1,
        run: Run = run_checks,
    ):
        super().__init__(context, adapter, name, temperature, votes)
        self.run = run

    def with_votes(self, name: str, temperature: float, votes: int) -> GenPRMJudge:
        return GenPRMJudge(self.context, self.adapter, name, temperature, votes, self.run)

    def request(self, step: LabelledStep) -> str:
        return self.context.prompts.for_judge(step.question, step.history, step.chunk, with_code=True)

    def sample(self, steps: Sequence[LabelledStep], seed: int, progress: Progress = None) -> list[list[Reply]]:
        requests = [Request(self.prompt(step), self.votes) for step in steps]
        with self.context.lm.using(self.adapter):
            return sample_with_checks(self.context, requests, self.temperature, seed, self.run, progress)

    def measured(
        self, steps: Sequence[LabelledStep], texts: Sequence[Sequence[str]], judgments: Sequence[Judgment]
    ) -> list[Judgment]:
        """The judgments with the mean score of all votes as `p_positive`. With several votes it decides: Positive above 0.5."""
        prompts = [self.context.lm.chat(self.request(step)) for step in steps for _ in range(self.votes)]
        scores = iter(p_positive(self.context, self.adapter, prompts, flat(texts)))
        out = []
        for judgment in judgments:
            votes = [next(scores) for _ in range(self.votes)]
            score = sum(0.5 if vote is None else vote for vote in votes) / self.votes
            decided = self.votes > 1 and judgment.verdict is not None
            verdict = score > 0.5 if decided else judgment.verdict
            out.append(dataclasses.replace(judgment, verdict=verdict, p_positive=score))
        return out


def judge_of(context: JudgeContext, adapter: str | None, name: str = "GenPRM", parts: Parts = "both") -> GenerativeJudge:
    """The judge whose replies have these parts. Raises ValueError if there are no such parts."""
    if parts not in get_args(Parts):
        raise ValueError(f"unknown parts {parts!r}: choose one of {', '.join(get_args(Parts))}")
    kind = GenPRMJudge if parts in ("both", "code") else GenerativeJudge
    return kind(dataclasses.replace(context, analysis=parts != "neither"), adapter, name)


# --- training ------------------------------------------------------------------------------------------------------------


def consensus(
    steps: Sequence[LabelledStep], replies: Sequence[Sequence[str]], keep: int
) -> tuple[list[list[str]], dict[str, int]]:
    """The first `keep` replies to each step that agree with its label, [steps][≤ keep], and counts of replies and solutions.

    A reply agrees if it has an analysis or a check, and a verdict equal to the label. Where some step of a solution has no
    such reply, all steps of that solution have none.
    """
    reward = verdict_reward(steps)
    agreeing = [[reply for reply in group if reward(i, reply)] for i, group in enumerate(replies)]
    solutions: dict[tuple[str, int], list[int]] = {}
    for i, step in enumerate(steps):
        solutions.setdefault((step.problem_id, step.solution), []).append(i)
    kept = [own for own in solutions.values() if all(agreeing[i] for i in own)]
    in_kept = set(flat(kept))
    counts = {
        "replies": sum(map(len, replies)),
        "right": sum(map(len, agreeing)),
        "solutions": len(solutions),
        "dropped": len(solutions) - len(kept),
    }
    return [agreeing[i][:keep] if i in in_kept else [] for i in range(len(steps))], counts


def example(judge: GenerativeJudge, step: LabelledStep, reply: str, parts: Parts) -> Example:
    """A reply with these parts as an SFT example. The outputs of its checks are read but not learned."""
    lm = judge.context.lm
    if parts == "neither":
        ids, given = lm.encode((POSITIVE if step.label else NEGATIVE).removeprefix(BOX)), ()
    elif parts == "analysis":
        ids, given = lm.encode(reply), ()
    else:
        ids, given = encode_reply(lm, code_only(reply) if parts == "code" else reply)
    return Example(judge.prompt(step), [*ids, lm.tokenizer.eos_token_id], given)


def train_genprm(trainer: JudgeTrainer, name: str = GENPRM, parts: Parts = "both", run: Run = run_checks) -> dict:
    """Train adapter `name` by SFT on the writer's replies after the consensus filter; returns its curve and counts.

    It learns from whole solutions: `trainer.solutions`, or else those that the balanced steps make up. All `parts` but
    "analysis" are cut out of the same replies, those with code; "analysis" asks for long hand instead.
    """
    knobs, writer = trainer.knobs, dataclasses.replace(trainer.writer, analysis=True)
    steps, judge = distinct(trainer.solutions or trainer.steps), judge_of(trainer.context, name, parts=parts)
    kind = GenerativeJudge if parts == "analysis" else functools.partial(GenPRMJudge, run=run)

    def sample() -> list[list[str]]:
        seed = trainer.seed_of(f"replies-{GENPRM}")  # the same for all parts
        return sample_replies(writer, steps, knobs.rs_samples, seed, kind)

    def choose(replies: list[list[str]]) -> tuple[list[Example], dict]:
        kept, counts = consensus(steps, replies, knobs.rs_keep)
        groups = [[example(judge, step, reply, parts) for reply in own] for step, own in zip(steps, kept, strict=True)]
        return balanced_examples(steps, groups), counts

    metrics = train_on_replies(trainer, name, len(steps), sample, choose)
    kept = f"{metrics['solutions'] - metrics['dropped']} of {metrics['solutions']} solutions"
    described = f"SFT, {knobs.rs_training.epochs} epochs, on replies ({parts}) to the steps of {kept}, which passed the filter"
    return {"training": described, "labels": len(steps), **metrics}
