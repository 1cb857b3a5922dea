"""A consumer-GPU preset on the GPU that is there, in one call: tokens a second, peak memory, and a reward curve.

    python -m benchmarks.gpu --preset gpu-12gb --model FOLDER [--minutes 9] [--steps 60]

The problems are the embedded task's, asked in English, with exact step labels, so that no data need be at hand. Annotation and
GRPO run with the preset's own rows, types and adapters; the curve is GRPO on the judge's prompts with exact labels as reward,
from the untrained base. Everything is written after every part, so a call that is cut off leaves what it has.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import torch

from minisw.engine import memory
from minisw.engine.loading import load_base
from minisw.engine.machine import hardware, peak_memory_gb, versions
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

GB = 2**30


def peak() -> dict[str, float]:
    """Peak memory since the last call, in GiB: the GPU's by its allocator, else the process's own."""
    if not torch.cuda.is_available():
        return {"peak_gb": peak_memory_gb()}
    found = {"peak_gb": torch.cuda.max_memory_allocated() / GB, "reserved_gb": torch.cuda.max_memory_reserved() / GB}
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return found


def labelled_steps(count: int, seed: int) -> list[LabelledStep]:
    """Steps of the embedded task with exact labels, half of them wrong: one number of the step is changed."""
    import random

    rng, task = random.Random(seed), load_task(ProblemKnobs())
    found: list[LabelledStep] = []
    for problem in task.load("train", count, seed):
        chunks = [f"After this there are {value}.\n\n" for value in problem.reference]
        at, wrong = rng.randrange(len(chunks)), len(found) % 2 == 1
        if wrong:
            chunks[at] = f"After this there are {problem.reference[at] + rng.choice((-10, -1, 1, 10))}.\n\n"
        found.append(LabelledStep(problem.id, problem.question, tuple(chunks[:at]), chunks[at], not wrong))
    return found


def measure(
    recipe: Recipe, out: Path, steps: int, prompts: int, branches: int, problems: int, minutes: float, full: bool = True
) -> dict:
    """All parts, each written to `out` when it is done. Stops the curve where `minutes` are over.

    Without `full` nothing fills the memory, and the reward is the parity of the text: too short to hold a verdict, samples
    would all get 0, and nothing would be learnt from.
    """
    begin = time.time()
    result: dict = {
        "preset": recipe.preset,
        "model": recipe.model.name,
        "four_bit": recipe.model.four_bit,
        "hardware": hardware(),
        "versions": versions(),
    }

    def note(**parts: object) -> None:
        result.update(parts)
        result["seconds"] = time.time() - begin
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(parts)[:300], flush=True)

    lm = load_base(recipe.model)
    lm.new_adapter("judge", recipe.lora, recipe.seed)
    sampler = Sampler(lm, recipe.model.slots, recipe.model.prefill_tokens)
    task = load_task(ProblemKnobs(prompts="english"))
    note(load={"seconds": time.time() - begin, **peak()})

    if full:
        prompt, completion = memory.PROMPT, 300
        config = lm.causal_lm.config
        found = memory.measure(lm, "judge", recipe, prompt, completion, 8)
        estimated = memory.estimate(config, recipe, prompt, completion, 8)
        note(
            memory={
                "what": f"GRPO micro-batch of 8 rows, prompt {prompt} + completion {completion}; a full batch of rollouts",
                "measured_gb": {name: value / GB for name, value in found.items()},
                "estimated_gb": {"training": estimated.training_peak / GB, "sampling": estimated.sampling_peak / GB},
            }
        )
        peak()

    asked = task.load("test", problems, recipe.seed)
    policy = Policy(lm, sampler, task.prompts, recipe.policy, None)
    start, before = time.time(), sampler.tokens
    groups = policy.solve(asked, 1, recipe.seed)
    solutions = [s for group in groups for s in group if s.chunks]
    seconds, tokens = time.time() - start, sampler.tokens - before
    start, before = time.time(), sampler.tokens
    policy.annotate(solutions, {p.id: p for p in asked}, branches, recipe.seed)
    note(
        solutions={"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds},
        annotation={
            "branches": branches,
            "seconds": time.time() - start,
            "tokens": sampler.tokens - before,
            "tokens_per_second": (sampler.tokens - before) / (time.time() - start),
            **peak(),
        },
    )

    items = labelled_steps(8 * prompts, recipe.seed)
    context = JudgeContext(lm, sampler, task.prompts, recipe.judge.max_new_tokens, recipe.model.micro_tokens)
    judge = GenerativeJudge(context, "judge")
    knobs = dataclasses.replace(recipe.judge, steps=steps, prompts=prompts)
    curve: list[dict] = []

    class Over(Exception):
        pass

    def tick(_: int, metrics: dict) -> None:
        curve.append(metrics | {"at": time.time() - begin})
        note(
            curve=curve,
            grpo={"prompts": prompts, "group": knobs.group, **({} if len(curve) > 1 else peak())} | result.get("grpo", {}),
        )
        if time.time() - begin > 60 * minutes:
            raise Over

    def reward(index: int, reply: str) -> float:
        return float(parse_verdict(reply) is items[index].label if full else sum(map(ord, reply)) % 2)

    try:
        asked_steps = [judge.prompt(step) for step in items]
        config = GRPOConfig.of(knobs, recipe.model.micro_tokens)
        train_grpo(sampler, "judge", asked_steps, reward, config, recipe.seed, Monitor(progress=tick))
    except Over:
        pass
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="gpu-12gb", choices=tuple(PRESETS))
    parser.add_argument("--model", default="", help="folder or hub name, where it is not the preset's")
    parser.add_argument("--gguf-file", default="")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--prompts", type=int, default=16, help="prompts of a GRPO step")
    parser.add_argument("--problems", type=int, default=32, help="problems annotated")
    parser.add_argument("--branches", type=int, default=8, help="M")
    parser.add_argument("--max-new-tokens", type=int, default=0, help="of solutions and analyses (0: the preset's)")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--out", type=Path, default=Path("data/results/benchmarks/gpu.json"))
    parser.add_argument(
        "--small", action="store_true", help="for a CPU: nothing fills the memory, and short samples get some reward that differs"
    )
    given = parser.parse_args()
    recipe = PRESETS[given.preset]
    if given.model:
        recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, name=given.model, gguf_file=given.gguf_file))
    if given.max_new_tokens:
        recipe = dataclasses.replace(
            recipe,
            policy=dataclasses.replace(recipe.policy, max_text_tokens=given.max_new_tokens),
            judge=dataclasses.replace(recipe.judge, max_new_tokens=given.max_new_tokens),
        )
    measure(recipe, given.out, given.steps, given.prompts, given.branches, given.problems, given.minutes, not given.small)


if __name__ == "__main__":
    main()
