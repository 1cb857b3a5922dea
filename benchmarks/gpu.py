"""A preset on this machine's GPU, in one command: tokens per second, peak memory, and a reward curve.

    python -m benchmarks.gpu --preset gpu-12gb --model FOLDER [--minutes 9] [--steps 60]

Problems are those of the embedded task, asked in English, with exact step labels, so no data are needed. Four parts, with the
preset's own slots, types and adapter:

1. load the model;
2. memory: a GRPO micro-batch of 8 rows and a full batch of rollouts, measured and estimated;
3. solve problems and annotate the solutions: tokens per second;
4. GRPO on judge prompts, from the untrained base, with exact labels as reward: the curve.

The result file is written after every part and every GRPO step, so an interrupted run keeps what it has.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import random
import time
from pathlib import Path

import torch

from minisw.engine import memory
from minisw.engine.loading import load_base
from minisw.engine.machine import GB, hardware, peak_memory_gb, versions
from minisw.engine.model import LanguageModel
from minisw.engine.sampler import Sampler
from minisw.judges.base import JudgeContext
from minisw.judges.generative import GenerativeJudge
from minisw.policy import Policy
from minisw.presets import PRESETS
from minisw.problems import load_task
from minisw.recipe import ProblemKnobs, Recipe
from minisw.records import LabelledStep
from minisw.training.grpo import GRPOConfig, train_grpo
from minisw.training.monitor import Monitor
from minisw.verdicts import parse_verdict

PROMPT, COMPLETION, ROWS = memory.PROMPT, 300, 8  # of the micro-batch whose memory is measured


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    steps: int = 60  # of GRPO
    prompts: int = 16  # of a GRPO step
    problems: int = 32  # solved and annotated
    branches: int = 8  # M
    minutes: float = 9.0  # the curve ends with the first step after them


class Result:
    """The result file: `add` sets fields and writes it."""

    def __init__(self, path: Path, recipe: Recipe):
        self.path, self.start = path, time.time()
        model = recipe.model
        self.values: dict = {
            "preset": recipe.preset,
            "model": model.name,
            "four_bit": model.four_bit,
            "hardware": hardware(),
            "versions": versions(),
        }

    @property
    def seconds(self) -> float:
        return time.time() - self.start

    def add(self, **fields: object) -> None:
        self.values |= fields | {"seconds": self.seconds}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.values, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(fields)[:300], flush=True)


def peaks() -> dict[str, float]:
    """Peak memory in GiB: of the process, and of the GPU since the last call."""
    found = peak_memory_gb()
    if torch.cuda.is_available():
        found["peak_reserved_gpu_memory_gb"] = torch.cuda.max_memory_reserved() / GB
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return found


def labelled_steps(count: int, seed: int) -> list[LabelledStep]:
    """Steps of the embedded task with exact labels. Every second step is wrong: its number is changed."""
    rng, task = random.Random(seed), load_task(ProblemKnobs())
    steps: list[LabelledStep] = []
    for number, problem in enumerate(task.load("train", count, seed)):
        chunks = [f"After this there are {value}.\n\n" for value in problem.reference]
        at, wrong = rng.randrange(len(chunks)), number % 2 == 1
        if wrong:
            chunks[at] = f"After this there are {problem.reference[at] + rng.choice((-10, -1, 1, 10))}.\n\n"
        steps.append(LabelledStep(problem.id, problem.question, tuple(chunks[:at]), chunks[at], not wrong))
    return steps


def measure(recipe: Recipe, out: Path, sizes: Sizes, small: bool = False) -> dict:
    """All parts; returns the values of the result file.

    `small`, for a CPU and a tiny model, skips part 2 and rewards the parity of a text: replies too short for a verdict would
    all get 0, and nothing would be learnt.
    """
    result = Result(out, recipe)
    lm = load_base(recipe.model)
    lm.new_adapter("judge", recipe.lora, recipe.seed)
    sampler = Sampler(lm, recipe.model.slots, recipe.model.prefill_tokens)
    result.add(load={"seconds": result.seconds, **peaks()})
    if not small:
        measure_memory(lm, recipe, result)
    measure_sampling(sampler, recipe, sizes, result)
    measure_grpo(sampler, recipe, sizes, small, result)
    return result.values


def measure_memory(lm: LanguageModel, recipe: Recipe, result: Result) -> None:
    measured = memory.measure(lm, "judge", recipe, PROMPT, COMPLETION, ROWS)
    estimated = memory.estimate(lm.causal_lm.config, recipe, PROMPT, COMPLETION, ROWS)
    result.add(
        memory={
            "what": f"GRPO micro-batch of {ROWS} rows, prompt {PROMPT} + completion {COMPLETION}; a full batch of rollouts",
            "measured_gb": {name: value / GB for name, value in measured.items()},
            "estimated_gb": {"training": estimated.training_peak / GB, "sampling": estimated.sampling_peak / GB},
        }
    )
    peaks()  # the next part's peak starts here


def measure_sampling(sampler: Sampler, recipe: Recipe, sizes: Sizes, result: Result) -> None:
    task = load_task(ProblemKnobs(prompts="english"))
    problems = task.load("test", sizes.problems, recipe.seed)
    policy = Policy(sampler.lm, sampler, task.prompts, recipe.policy, None)

    def speed(start: float, tokens: int) -> dict:
        seconds, sampled = time.time() - start, sampler.tokens - tokens
        return {"seconds": seconds, "tokens": sampled, "tokens_per_second": sampled / seconds}

    start, tokens = time.time(), sampler.tokens
    solutions = [s for group in policy.solve(problems, 1, recipe.seed) for s in group if s.chunks]
    result.add(solutions=speed(start, tokens))
    start, tokens = time.time(), sampler.tokens
    policy.annotate(solutions, {p.id: p for p in problems}, sizes.branches, recipe.seed)
    result.add(annotation={"branches": sizes.branches, **speed(start, tokens), **peaks()})


class OutOfTime(Exception):
    """Ends a training from its progress callback."""


def measure_grpo(sampler: Sampler, recipe: Recipe, sizes: Sizes, small: bool, result: Result) -> None:
    lm, prompts = sampler.lm, load_task(ProblemKnobs(prompts="english")).prompts
    steps = labelled_steps(8 * sizes.prompts, recipe.seed)
    judge = GenerativeJudge(JudgeContext(lm, sampler, prompts, recipe.judge.max_new_tokens, recipe.model.micro_tokens), "judge")
    knobs = dataclasses.replace(recipe.judge, steps=sizes.steps, prompts=sizes.prompts)
    curve: list[dict] = []

    def reward(index: int, reply: str) -> float:
        return float(sum(map(ord, reply)) % 2 if small else parse_verdict(reply) is steps[index].label)

    def progress(_: int, metrics: dict) -> None:
        curve.append(metrics | {"at": result.seconds})
        first = {"prompts": sizes.prompts, "group": knobs.group, **peaks()} if len(curve) == 1 else result.values["grpo"]
        result.add(curve=curve, grpo=first)
        if result.seconds > 60 * sizes.minutes:
            raise OutOfTime

    with contextlib.suppress(OutOfTime):
        config, prompts = GRPOConfig.of(knobs, recipe.model.micro_tokens), [judge.prompt(step) for step in steps]
        train_grpo(sampler, "judge", prompts, reward, config, recipe.seed, Monitor(progress=progress))


def main() -> None:
    sizes = Sizes()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="gpu-12gb", choices=tuple(PRESETS))
    parser.add_argument("--model", default="", help="folder or hub name of the model; default: the preset's")
    parser.add_argument("--gguf-file", default="")
    parser.add_argument("--steps", type=int, default=sizes.steps, help="GRPO steps")
    parser.add_argument("--prompts", type=int, default=sizes.prompts, help="prompts of a GRPO step")
    parser.add_argument("--problems", type=int, default=sizes.problems, help="problems solved and annotated")
    parser.add_argument("--branches", type=int, default=sizes.branches, help="M")
    parser.add_argument("--max-new-tokens", type=int, default=0, help="of solutions and analyses; 0: the preset's")
    parser.add_argument("--minutes", type=float, default=sizes.minutes, help="the GRPO curve ends with the first step after them")
    parser.add_argument("--out", type=Path, default=Path("data/results/benchmarks/gpu.json"))
    parser.add_argument("--small", action="store_true", help="for a CPU: skip the memory part, reward short replies")
    options = parser.parse_args()
    recipe = PRESETS[options.preset]
    if options.model:
        model = dataclasses.replace(recipe.model, name=options.model, gguf_file=options.gguf_file)
        recipe = dataclasses.replace(recipe, model=model)
    if options.max_new_tokens:
        recipe = shortened(recipe, options.max_new_tokens)
    sizes = Sizes(options.steps, options.prompts, options.problems, options.branches, options.minutes)
    measure(recipe, options.out, sizes, options.small)


def shortened(recipe: Recipe, tokens: int) -> Recipe:
    """The recipe with solutions and analyses of at most `tokens` tokens."""
    policy = dataclasses.replace(recipe.policy, max_text_tokens=tokens)
    return dataclasses.replace(recipe, policy=policy, judge=dataclasses.replace(recipe.judge, max_new_tokens=tokens))


if __name__ == "__main__":
    main()
