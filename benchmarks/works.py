"""One piece of work, ours or the peer's, measured in a process of its own.

    python -m benchmarks.works WORK SIDE SETTING      prints one JSON line

Both sides load the same weights with the same code, get the same prompts and write the same number of tokens: end tokens
are suppressed, so that neither side can win by stopping early. The first repetition warms up and does not count.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import memory as head
from minisw.engine.loading import load_base
from minisw.engine.model import LanguageModel
from minisw.engine.requests import Request, Sampling
from minisw.engine.sampler import Sampler
from minisw.judges.base import JudgeContext
from minisw.judges.generative import GenerativeJudge
from minisw.presets import PRESETS
from minisw.problems import load_task
from minisw.recipe import EMBEDDED, JudgeKnobs, Lora, ModelKnobs, ProblemKnobs
from minisw.records import LabelledStep, Solution

SEED = 0


@dataclass(frozen=True)
class Setting:
    """How large the work is, for one model."""

    model: ModelKnobs
    prompts: int  # of a GRPO step
    group: int
    completion: int  # tokens of every completion
    solutions: int  # annotated, at five boundaries each
    branches: int  # M
    judged: int  # steps judged
    batch: int  # rows in one call of model.generate
    warm: int  # repetitions that do not count
    repeats: int


SETTINGS = {
    "embedded": Setting(ModelKnobs(), 32, 8, 100, 12, 16, 256, 128, 1, 2),
    "0.5b": Setting(PRESETS["smoke"].model, 4, 4, 48, 2, 16, 40, 48, 0, 1),
}


def setting(name: str, folder: str = "", gguf_file: str = "") -> Setting:
    """The setting `name`, with the model of a folder or hub name where one is given."""
    found = SETTINGS[name]
    if folder:
        found = dataclasses.replace(found, model=dataclasses.replace(found.model, name=folder, gguf_file=gguf_file))
    return found


def load(s: Setting) -> LanguageModel:
    torch.manual_seed(SEED)
    lm = load_base(s.model)
    lm.end_ids = []  # nothing ends a row but its length
    return lm


def questions(count: int) -> list[str]:
    return [p.question for p in load_task(ProblemKnobs()).load("test", count, SEED)]


def words(s: Setting):
    return load_task(ProblemKnobs(prompts="arithmetic" if s.model.name == EMBEDDED else "english")).prompts


def steps(count: int) -> list[LabelledStep]:
    """Made-up steps to judge, five a problem: each with the history of those before it."""
    made = []
    for number, question in enumerate(questions(-(-count // 5))):
        chunks = [f"{k}2+3{k}={4 * k + 35}.\n\nSo now {4 * k + 35} coins.\n\n" for k in range(1, 6)]
        made += [LabelledStep(str(number), question, tuple(chunks[:i]), chunk, True) for i, chunk in enumerate(chunks)]
    return made[:count]


def judge_prompts(s: Setting, lm: LanguageModel, count: int) -> list[list[int]]:
    return [lm.chat(words(s).for_judge(step.question, step.history, step.chunk)) for step in steps(count)]


def reward(index: int, text: str) -> float:
    """Something that differs within every group, so that neither side may leave one out, and costs nothing."""
    return float(sum(map(ord, text)) % 97)


def repeated(s: Setting, work: Callable[[], int]) -> dict:
    """Seconds of every repetition but those that warm up, and the tokens of one."""
    seconds, tokens = [], 0
    for _ in range(s.warm + s.repeats):
        begin = time.perf_counter()
        tokens = work()
        seconds.append(time.perf_counter() - begin)
    return {"seconds": seconds[s.warm :], "tokens": tokens}


def generate_in_batches(lm: LanguageModel, rows: list[list[int]], s: Setting, new: int, sample: bool) -> int:
    """The peer: model.generate on length-sorted, left-padded batches. Returns the tokens written."""
    rows = sorted(rows, key=len)
    written, pad = 0, lm.tokenizer.pad_token_id
    model = lm.causal_lm
    for at in range(0, len(rows), s.batch):
        part = rows[at : at + s.batch]
        width = max(map(len, part))
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in part])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in part])
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=sample,
            top_k=0,
            pad_token_id=pad,
        )
        written += (out.shape[1] - width) * len(part)
    return written


# --- the works -----------------------------------------------------------------------------------------------------------


def grpo_ours(s: Setting) -> dict:
    from minisw.training.grpo import GRPOConfig, train_grpo
    from minisw.training.monitor import Monitor

    lm = load(s)
    lm.new_adapter("judge", Lora(), SEED)
    before, stamps = memory(), [time.perf_counter()]
    knobs = JudgeKnobs(
        steps=s.repeats + 1, prompts=s.prompts, group=s.group, temperature=1.0, max_new_tokens=s.completion, lr=1e-5
    )
    asked = judge_prompts(s, lm, s.prompts * (s.repeats + 1))
    sampler = Sampler(lm, s.model.slots, s.model.prefill_tokens)
    monitor = Monitor(progress=lambda n, m: stamps.append(time.perf_counter()))
    train_grpo(sampler, "judge", asked, reward, GRPOConfig.of(knobs, s.model.micro_tokens), SEED, monitor)
    return step_times(stamps, s) | {"loaded_gb": before}


def grpo_trl(s: Setting) -> dict:
    """TRL's GRPOTrainer with transformers' own generation: same model, prompts, group, lengths, clip, no KL, token-level loss.

    It generates with the weights as they are loaded, so they are loaded in bf16: in fp32 it is slower still on a CPU.
    """
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    lm = load(dataclasses.replace(s, model=dataclasses.replace(s.model, dtype="bf16")))
    lm.new_adapter("judge", Lora(), SEED)
    for parameter in lm.adapter_parameters("judge").values():
        parameter.requires_grad_(True)
    before, stamps = memory(), []
    asked = judge_prompts(s, lm, s.prompts * (s.repeats + 1))
    texts = [lm.tokenizer.decode(ids) for ids in asked]

    class Clock(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            if not stamps:
                stamps.append(time.perf_counter())

        def on_step_end(self, *args, **kwargs):
            stamps.append(time.perf_counter())

    rows = s.prompts * s.group
    micro = max(1, s.model.micro_tokens // (max(map(len, asked)) + s.completion))
    while rows % micro:  # as many rows in a forward as our tokens a micro-batch allow
        micro -= 1
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=rows // micro,
        num_generations=s.group,
        max_completion_length=s.completion,
        max_steps=s.repeats + 1,
        learning_rate=1e-5,
        beta=0.0,
        epsilon=0.2,
        epsilon_high=0.28,
        loss_type="dapo",
        temperature=1.0,
        top_k=0,
        generation_kwargs={"min_new_tokens": s.completion},
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=s.model.autocast == "bf16",
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=SEED,
    )

    def rewards(completions, **kwargs):
        return [reward(0, text) for text in completions]

    trainer = GRPOTrainer(
        model=lm.model,
        reward_funcs=rewards,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": texts}),
        processing_class=lm.tokenizer,
        callbacks=[Clock()],
    )
    trainer.train()
    return step_times(stamps, s) | {"loaded_gb": before, "rows_a_forward": micro}


def step_times(stamps: list[float], s: Setting) -> dict:
    seconds = [b - a for a, b in zip(stamps, stamps[1:], strict=False)]
    return {"seconds": seconds[1:], "tokens": s.prompts * s.group * s.completion}


def solutions(count: int) -> list[Solution]:
    """Made-up solutions of five chunks."""
    made = []
    for number in range(count):
        chunks = tuple(f"{k}2+3{k}={4 * k + 35}.\n\nSo now {4 * k + 35} coins.\n\n" for k in range(1, 6))
        made.append(Solution(f"arithmetic-test-{number}", chunks, "1", True, True))
    return made


def annotate_ours(s: Setting) -> dict:
    from minisw.chunks import tag

    lm = load(s)
    sampler, chosen = Sampler(lm, s.model.slots, s.model.prefill_tokens), solutions(s.solutions)
    prompts = [lm.chat(words(s).solve_chunked.format(question=q)) for q in questions(s.solutions)]

    def work() -> int:
        requests = []
        for prompt, solution in zip(prompts, chosen, strict=True):
            sequence, starts = list(prompt), [len(prompt)]
            for chunk in solution.chunks[:-1]:
                sequence = sequence + lm.encode(tag([chunk]))
                starts.append(len(sequence))
            requests.append(Request(sequence, s.branches, tuple(starts)))
        groups = sampler.generate(requests, Sampling(s.completion, 1.0), SEED)
        return sum(len(c.ids) for group in groups for c in group)

    return repeated(s, work)


def annotate_generate(s: Setting) -> dict:
    from minisw.chunks import tag

    lm = load(s)
    lm.causal_lm.to(lm.sampling_dtype or lm.causal_lm.dtype)
    rows = []
    for question, solution in zip(questions(s.solutions), solutions(s.solutions), strict=True):
        sequence = lm.chat(words(s).solve_chunked.format(question=question))
        for chunk in ("", *solution.chunks[:-1]):
            sequence = sequence + (lm.encode(tag([chunk])) if chunk else [])
            rows += [sequence] * s.branches
    return repeated(s, lambda: generate_in_batches(lm, rows, s, s.completion, True))


def judge_ours(s: Setting) -> dict:
    lm = load(s)
    sampler = Sampler(lm, s.model.slots, s.model.prefill_tokens)
    judge = GenerativeJudge(JudgeContext(lm, sampler, words(s), s.completion, s.model.micro_tokens), None)
    items = steps(s.judged)
    return repeated(s, lambda: sum(j.tokens for j in judge.judge(items, SEED)))


def judge_generate(s: Setting) -> dict:
    lm = load(s)
    lm.causal_lm.to(lm.sampling_dtype or lm.causal_lm.dtype)
    rows = judge_prompts(s, lm, s.judged)
    return repeated(s, lambda: generate_in_batches(lm, rows, s, s.completion, False))


def memory() -> float:
    """Resident memory now, in GiB."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**30


WORKS: dict[tuple[str, str], Callable[[Setting], dict]] = {
    ("grpo", "ours"): grpo_ours,
    ("grpo", "peer"): grpo_trl,
    ("annotate", "ours"): annotate_ours,
    ("annotate", "peer"): annotate_generate,
    ("judge", "ours"): judge_ours,
    ("judge", "peer"): judge_generate,
    ("logprobs", "ours"): lambda s: head.measured(head.ours, memory),
    ("logprobs", "peer"): lambda s: head.measured(head.peer, memory),
}


def main() -> None:
    work, side, name, *model = sys.argv[1:]
    result = WORKS[work, side](setting(name, *model))
    result["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(result))


if __name__ == "__main__":
    main()
