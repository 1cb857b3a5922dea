"""ThinkPRM (arXiv 2504.16828): a judge that verifies a solution so far step by step, and gives it one score.

The reply is a chain of critiques with their verdicts, then "Is the solution correct?" and yes or no (judges/chains.py). The
score is P(yes) / (P(yes) + P(no)), measured behind the question.

Training:
    1. sample comments on the single steps of whole solutions, and compose chains from those whose verdict is right
    2. keep a chain if all its verdicts can be read and match the labels, and it is not too long; balance the two answers
    3. SFT on the request, answered with the chain, the question and yes or no

In the paper a strong reasoning model writes the whole chain. A small base cannot, but it can comment on one step: here the
comments answer the request of the generative judge, and are the base's own unless `JudgeTrainer.rationale_writer` is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minisw.engine.logprobs import Example
from minisw.engine.requests import Request, Sampling
from minisw.evaluate.stats import mean
from minisw.judges.base import JudgeContext, JudgeTrainer, Progress, p_first, seeds_from
from minisw.judges.chains import answered, balance, choose_prefixes, kept_chains, right_critiques
from minisw.judges.generative import GenerativeJudge
from minisw.judges.rejection_sampled import distinct, sample_replies, saved_once
from minisw.records import Judgment, LabelledStep, flat
from minisw.training.monitor import Monitor
from minisw.training.sft import train_sft

THINKPRM = "thinkprm"


class ThinkPRMJudge:
    """Scores each step's prefix, the solution up to and with that step; Positive if the score reaches `threshold`.

    - `votes`: the score is the mean over that many chains, sampled in parallel (the paper's parallel scaling);
    - `rounds`: behind each chain stands "Let me check again." and another chain, up to that many; the question comes after the
      last one (sequential scaling).

    A chain may take as many tokens as one reply of the generative judge for each step of the prefix. If it ends without the
    question, leaves out steps or is cut off, the question is appended all the same: the score can always be measured, so no
    verdict is None. Raises ValueError for no vote or round, and for several votes at temperature 0, which are all the same.
    """

    def __init__(
        self, context: JudgeContext, adapter: str | None, name: str = "ThinkPRM", temperature: float = 0.0, votes: int = 1,
        rounds: int = 1, threshold: float = 0.5,
    ):  # fmt: skip
        if min(votes, rounds) < 1:
            raise ValueError(f"{votes} votes of {rounds} rounds are too few: give at least 1 of each")
        if votes > 1 and temperature <= 0:
            raise ValueError(f"{votes} votes at temperature {temperature} are the same chain {votes} times: sample above 0")
        self.context, self.adapter, self.name, self.temperature = context, adapter, name, temperature
        self.votes, self.rounds, self.threshold = votes, rounds, threshold

    def prompt(self, step: LabelledStep) -> list[int]:
        """Token ids of the request to verify a step's prefix."""
        return self.context.lm.chat(self.context.prompts.for_verifier(step.question, (*step.history, step.chunk)))

    def judge(self, steps: Sequence[LabelledStep], seed: int, progress: Progress = None) -> list[Judgment]:
        """One judgment for each step; `p_positive` is its score, and `analysis` the chain that is surest of the verdict."""
        by_length: dict[int, list[int]] = {}  # prefixes of equally many steps have the same limit: they are sampled together
        for i, step in enumerate(steps):
            by_length.setdefault(len(step.history) + 1, []).append(i)
        judgments: dict[int, Judgment] = {}
        for length, indices in by_length.items():
            prompts = [self.prompt(steps[i]) for i in indices for _ in range(self.votes)]  # [steps × votes]
            limit = length * self.context.max_new_tokens
            chains, tokens = self._sample(prompts, limit, seeds_from(seed)(f"steps-{length}"), progress)
            replies = [[answered(chain, correct, self.context.prompts) for correct in (True, False)] for chain in chains]
            pairs = [(self.context.lm.encode(yes), self.context.lm.encode(no)) for yes, no in replies]
            scores = p_first(self.context, self.adapter, prompts, pairs)
            for n, i in enumerate(indices):
                own = slice(n * self.votes, (n + 1) * self.votes)
                judgments[i] = self._judgment(chains[own], scores[own], sum(tokens[own]))
        return [judgments[i] for i in range(len(steps))]

    def _sample(self, prompts: Sequence[list[int]], limit: int, seed: int, progress: Progress) -> tuple[list[str], list[int]]:
        """What is written behind each prompt in all rounds, without the final question, and its sampled tokens."""
        lm, words = self.context.lm, self.context.prompts
        sampling = Sampling(limit, self.temperature, stop=words.verify_question)
        chains, tokens = [""] * len(prompts), [0] * len(prompts)
        for number in range(1, self.rounds + 1):
            if number > 1:
                chains = [f"{chain}\n{words.verify_again}\n" for chain in chains]
            requests = [Request(prompt + lm.encode(chain)) for prompt, chain in zip(prompts, chains, strict=True)]
            tick = progress if number == self.rounds else None
            with lm.using(self.adapter):
                groups = self.context.sampler.generate(requests, sampling, seeds_from(seed)(f"round-{number}"), tick)
            for i, (completion,) in enumerate(groups):
                tokens[i] += len(completion.ids)
                chains[i] += lm.decode(completion.ids).partition(words.verify_question)[0].rstrip()
        return chains, tokens

    def _judgment(self, chains: Sequence[str], scores: Sequence[float], tokens: int) -> Judgment:
        score = mean(scores)
        verdict = score >= self.threshold
        shown = (max if verdict else min)(range(len(scores)), key=lambda k: scores[k])
        votes = tuple(p >= self.threshold for p in scores) if len(scores) > 1 else ()
        return Judgment(verdict, answered(chains[shown], verdict, self.context.prompts), score, tokens, votes)


# --- training ------------------------------------------------------------------------------------------------------------


def train_thinkprm(trainer: JudgeTrainer, name: str = THINKPRM) -> dict:
    """Train adapter `name` on chains over prefixes of labelled solutions; returns its curve and what was counted.

    The prefixes come from `trainer.solutions` (without any, from `trainer.steps`) and use at most as many labels as
    `trainer.steps` has. Without chains of both kinds the adapter stays untrained, with a warning. Replies are saved as soon as
    they are sampled, so that a training that was killed does not sample them again.
    """
    context, knobs, training = trainer.context, trainer.knobs, trainer.knobs.rs_training
    lm, judge = context.lm, ThinkPRMJudge(context, None)
    labelled, most = trainer.solutions or trainer.steps, len(distinct(trainer.steps))
    prefixes = choose_prefixes(labelled, most, trainer.seed_of(f"prefixes-{name}"))
    steps = [prefix[-1] for prefix in prefixes]  # all steps of all prefixes: each ends one of them

    def fit(checkpoint: Path | None, tick) -> dict:
        file, seed = checkpoint and checkpoint.with_name(f"{name}-replies.json"), trainer.seed_of(f"replies-{name}")
        replies = saved_once(file, lambda: sample_replies(trainer.writer, steps, knobs.rs_samples, seed))
        right = right_critiques(steps, replies, GenerativeJudge(trainer.writer, None).beginning)
        limit, length = context.max_new_tokens, lambda text: len(lm.encode(text))
        kept, tried = kept_chains(prefixes, right, knobs.rs_keep, context.prompts, length, limit)
        counts = {
            "replies": len(flat(replies)),
            "right": len(flat(list(right.values()))),
            "chains_tried": tried,
            "chains_kept": len(kept),
        }
        examples = [
            Example(judge.prompt(prefix[-1]), lm.encode(reply) + [lm.tokenizer.eos_token_id])
            for prefix, reply in balance(kept, trainer.seed_of(f"balance-{name}"))
        ]
        if not examples:
            trainer.warn("no chains over both correct and incorrect solutions were kept: ThinkPRM's judge stays untrained")
            return {**counts, "curve": []}
        seed = trainer.seed_of(f"sft-{name}")
        curve = train_sft(lm, name, examples, training, context.micro_tokens, seed, Monitor(checkpoint, progress=tick))
        return {**counts, "curve": curve}

    expected = training.epochs * max(1, len(prefixes) * knobs.rs_keep // training.batch)
    metrics = trainer.train(name, fit, expected, "ThinkPRM")
    described = f"SFT, {training.epochs} epochs, on {metrics['chains_kept']} of {metrics['chains_tried']} chains"
    return {"training": described, "labels": len(steps), **metrics}
