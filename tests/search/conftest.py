"""A policy and a judge on a scripted sampler that counts every token: problems of three chunks, some of which are wrong."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import pytest
from fakes import EOS, PROMPTS, FakeLM

from minisw.engine.requests import Completion
from minisw.judges.base import JudgeContext
from minisw.judges.generative import GenerativeJudge
from minisw.policy import Policy
from minisw.prompts import CLOSE, NEGATIVE, OPEN, POSITIVE
from minisw.recipe import PolicyKnobs
from minisw.records import Problem

KNOBS = PolicyKnobs(temperature=0.8, max_text_tokens=200, max_chunks=4, max_chunk_tokens=60)
REFINE = "REFINE {solve}|{solution}|{chunk}|{analysis}"


class World:
    """A sampler that plays the policy and a perfect judge. `sampled` and `prefilled` count tokens of "policy" and "judge".

    The policy writes two steps, each wrong with probability `wrong`, and the answer, which is right behind right steps.
    """

    def __init__(self, lm: FakeLM, wrong: float):
        self.lm, self.wrong = lm, wrong
        self.calls, self.seeds = [], []  # one entry for each request, and one for each batch
        self.sampled, self.prefilled = Counter(), Counter()

    def generate(self, requests, sampling, seed, progress=None):
        groups = []
        self.seeds.append(seed)
        for number, request in enumerate(requests):
            text = self.lm.decode(request.ids)
            who = "judge" if "<user>JUDGE" in text else "policy"
            self.calls.append((who, text, request.count, sampling))
            rngs = [random.Random(f"{seed}/{number}/{k}") for k in range(request.count)]
            group = [self.completion(who, text, rng, sampling.stop) for rng in rngs]
            self.sampled[who] += sum(len(c.ids) for c in group)
            self.prefilled[who] += len(request.ids)
            groups.append(group)
        return groups

    def completion(self, who, text, rng, stop):
        if who == "judge":
            steps = text.split("|", 1)[1]  # behind a wrong step, no step is right
            return self.ended("why " * rng.randrange(1, 4) + (NEGATIVE if "wrong" in steps else POSITIVE))
        question, written = text.split("<reply>")
        reply = ""
        while (written + reply).count(CLOSE) < 3:
            reply += self.chunk(question, written + reply, rng)
            if stop:
                return Completion(self.lm.encode(reply), True)
        return self.ended(reply)

    def chunk(self, question, written, rng):
        if written.count(CLOSE) == 2:
            gold = question.rsplit("Q", 1)[1].split("?")[0]
            return f"{OPEN}\\boxed{{{rng.randrange(9) if 'wrong' in written else gold}}}{CLOSE}"
        word = "wrong" if rng.random() < self.wrong else "right"
        return f"{OPEN}{word}{'.' * rng.randrange(1, 9)} {CLOSE}"

    def ended(self, text):
        return Completion([*self.lm.encode(text), EOS], True)


@dataclasses.dataclass
class Scene:
    sampler: World
    policy: Policy
    judge: GenerativeJudge
    problems: list[Problem]


@pytest.fixture
def scene(monkeypatch):
    """`scene(wrong, refine, problems)`: policy, judge and problems "Q11?", "Q12?", … whose answers are 11, 12, …"""
    monkeypatch.setattr(
        "minisw.judges.generative.p_positive",
        lambda context, adapter, prompts, replies: [0.9 if POSITIVE in reply else 0.2 for reply in replies],
    )

    def make(wrong: float = 0.4, refine: str = "", problems: int = 12) -> Scene:
        lm = FakeLM("policy", "judge")
        sampler, prompts = World(lm, wrong), dataclasses.replace(PROMPTS, refine=refine)
        judge = GenerativeJudge(JudgeContext(lm, sampler, prompts, 60, 4096), "judge")
        found = [Problem(f"p{i}", f"Q{i}?", str(i)) for i in range(11, 11 + problems)]
        return Scene(sampler, Policy(lm, sampler, prompts, KNOBS), judge, found)

    return make
