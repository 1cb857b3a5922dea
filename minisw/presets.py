"""The presets: recipes with a name. What a preset does not name has the default of `recipe.py`."""

from __future__ import annotations

import dataclasses

from minisw.recipe import (
    AnnotateKnobs,
    ClassifierKnobs,
    EvaluateKnobs,
    JudgeKnobs,
    Lora,
    ModelKnobs,
    PolicyKnobs,
    ProblemKnobs,
    Recipe,
    SearchKnobs,
    SegmentKnobs,
    Training,
)

TINY = Recipe()


# The whole cycle with a real 0.5B chat model and a dozen real problems, on two cores in about half an hour: it shows that the
# stages run on real models and data, and its figures mean nothing.
SMOKE = Recipe(
    preset="smoke",
    lora=Lora(rank=8, alpha=16),
    model=ModelKnobs(
        name="Qwen/Qwen2.5-0.5B-Instruct",
        dtype="auto",
        autocast="auto",  # the adapters' fp32 weights are multiplied in bf16 too
        sampling_dtype="",
        slots=48,
        prefill_tokens=4096,
        micro_tokens=768,
    ),
    problems=ProblemKnobs(source="gsm8k", prompts="english", max_steps=2, train=16, validation=6, test=6, hard=0),
    policy=PolicyKnobs(temperature=0.7, max_text_tokens=240, max_chunks=8, max_chunk_tokens=160),
    segment=SegmentKnobs(teacher="numbered", samples=4, keep=3, tries=4, training=Training(lr=4e-4, epochs=4, batch=4)),
    annotate=AnnotateKnobs(samples=6, keep=3, branches=4, max_solutions=12),
    classifier=ClassifierKnobs(lrs=(1e-4, 5e-4), max_lrs=2, max_epochs=2, batch=4),
    judge=JudgeKnobs(
        labels=16,
        passes=1,
        format_samples=2,
        format_training=Training(lr=2e-4, epochs=1, batch=4),
        temperature=1.0,
        steps=3,
        prompts=4,
        group=4,
        lr=5e-5,
        max_new_tokens=160,
        tenth=False,
        votes=1,
    ),
    evaluate=EvaluateKnobs(solutions=6, resamples=500),
    search=SearchKnobs(problems=4, tries=2, votes=4),
)


# On a GPU. Peak memory is computed (`python -m minisw.engine.memory --preset NAME`); times are guesses from the tokens to be
# sampled, at 2,000 to 6,000 a second, until a GPU has measured them (`python -m benchmarks.gpu`).

# 0.5B for 8 GB, a T4 among them (fp16 with scaled losses there): 3 to 6 hours, 1 GB of model, under 1 GB of run folder.
GPU_8GB = Recipe(
    preset="gpu-8gb",
    lora=Lora(rank=32, alpha=64),
    model=ModelKnobs(
        name="Qwen/Qwen2.5-0.5B-Instruct",
        dtype="auto",
        autocast="auto",
        sampling_dtype="",
        checkpointing=True,
        slots=128,
        prefill_tokens=8192,
        micro_tokens=8192,
    ),
    problems=ProblemKnobs(source="gsm8k", prompts="english", train=2000, validation=300, test=400),
    policy=PolicyKnobs(temperature=0.7, max_text_tokens=400, max_chunks=12, max_chunk_tokens=200),
    segment=SegmentKnobs(teacher="numbered", samples=4, keep=2, tries=4, training=Training(lr=2e-4, epochs=2, batch=16)),
    annotate=AnnotateKnobs(problems=2000, samples=4, keep=2, branches=8, max_solutions=1000),
    classifier=ClassifierKnobs(lrs=(1e-4, 3e-4), max_epochs=3, batch=32),
    judge=JudgeKnobs(
        labels=1000,
        passes=2,
        format_samples=4,
        format_training=Training(lr=2e-4, epochs=1, batch=16),
        temperature=1.0,
        steps=60,
        prompts=64,
        group=8,
        lr=5e-5,
        max_new_tokens=400,
    ),
    evaluate=EvaluateKnobs(parts=("gsm8k", "math"), solutions=400),
    search=SearchKnobs(problems=200, tries=5),
)


# 1.5B in nf4 for 12 GB: a night, 3 GB of model, 1 GB of run folder.
GPU_12GB = dataclasses.replace(
    GPU_8GB,
    preset="gpu-12gb",
    model=dataclasses.replace(GPU_8GB.model, name="Qwen/Qwen2.5-1.5B-Instruct", four_bit=True, slots=96),
    problems=dataclasses.replace(GPU_8GB.problems, source="math"),
    policy=PolicyKnobs(temperature=1.0, max_text_tokens=768, max_chunks=16, max_chunk_tokens=300),
    segment=dataclasses.replace(GPU_8GB.segment, teacher="prompted", tries=8),
)


# 1.5B in bf16 for 24 GB: rollouts with merged weights, twice as fast as in 4 bits; half a night.
GPU_24GB = dataclasses.replace(
    GPU_12GB, preset="gpu-24gb", model=dataclasses.replace(GPU_12GB.model, four_bit=False, slots=256, prefill_tokens=16384)
)


# The paper's own sizes (StepWiser §3, A.1), for reading and for those who have the machine: 8 A100 for days. The learning
# rates are those of full weights; with LoRA they are too small.
PAPER = dataclasses.replace(
    GPU_24GB,
    preset="paper",
    problems=dataclasses.replace(GPU_24GB.problems, source="numina", train=40_000, validation=1000, test=500),
    policy=PolicyKnobs(temperature=1.0, max_text_tokens=3096, max_chunks=40, max_chunk_tokens=1024),
    segment=SegmentKnobs(teacher="prompted", samples=16, keep=4, tries=8, training=Training(lr=1e-5, epochs=1, batch=32)),
    annotate=AnnotateKnobs(
        problems=40_000, samples=16, keep=16, branches=16, max_solutions=640_000, rule="rel_effective", alpha=0.4, gamma=0.8
    ),
    judge=JudgeKnobs(
        labels=2_000_000,
        passes=1,
        format_samples=1,
        format_training=Training(lr=1e-5, epochs=1, batch=32),
        temperature=1.0,
        steps=800,
        prompts=1024,
        group=4,
        updates=4,
        lr=1e-6,
        max_new_tokens=3096,
        tenth=True,
        votes=8,
    ),
    evaluate=EvaluateKnobs(parts=("gsm8k", "math", "olympiadbench", "omnimath"), solutions=1000),
    search=SearchKnobs(problems=500, tries=5),
)


PRESETS = {p.preset: p for p in (TINY, SMOKE, GPU_8GB, GPU_12GB, GPU_24GB, PAPER)}
