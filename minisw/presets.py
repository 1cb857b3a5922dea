"""The presets: named recipes. A knob that a preset does not set has its default in `recipe.py`.

    tiny       the embedded 3.3M model and its arithmetic problems; minutes on two CPU cores
    smoke      a real 0.5B chat model and a dozen GSM8K problems: every stage runs, the figures mean nothing
    gpu-8gb    0.5B on GSM8K
    gpu-12gb   1.5B in 4 bits on MATH
    gpu-24gb   1.5B in bf16 on MATH
    rung-1     a real 0.5B chat model learns to judge single equations: the first rung of the study "ladder"
    rung-2     the same model on stories of one step, labelled by its own rollouts
    rung-3     stories of up to three steps
    rung-4     GSM8K problems with at most two lines
    rung-5     GSM8K
    paper      the sizes of StepWiser, for reading and for whoever has 8 A100
"""

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


# About half an hour on two cores.
SMOKE = Recipe(
    preset="smoke",
    lora=Lora(rank=8, alpha=16),
    model=ModelKnobs(
        name="Qwen/Qwen2.5-0.5B-Instruct",
        dtype="auto",
        autocast="auto",  # so that products with the adapters' fp32 weights are in bf16 too
        sampling_dtype="",
        slots=48,
        prefill_tokens=4096,
        micro_tokens=768,
    ),
    problems=ProblemKnobs(source="gsm8k", prompts="english", max_steps=2, train=16, validation=6, test=6, hard=0),
    policy=PolicyKnobs(temperature=0.7, max_text_tokens=240, max_chunks=8, max_chunk_tokens=160),
    segment=SegmentKnobs(teacher="numbered", samples=4, keep=3, tries=4, training=Training(lr=4e-4, epochs=4, batch=4)),
    annotate=AnnotateKnobs(problems=16, samples=6, keep=3, branches=4, max_solutions=12),
    classifier=ClassifierKnobs(lrs=(1e-4, 5e-4), max_lrs=2, max_epochs=2, batch=4),
    judge=JudgeKnobs(
        labels=16,
        passes=1,
        rs_samples=2,
        rs_training=Training(lr=2e-4, epochs=1, batch=4),
        temperature=1.0,
        steps=3,
        prompts=4,
        group=4,
        lr=5e-5,
        max_new_tokens=160,
        start="rejection_sampled",
        judges=("discriminative", "rejection_sampled", "stepwiser"),
    ),
    evaluate=EvaluateKnobs(solutions=6, samples=2, pass_samples=2, pass_solutions=4, resamples=500),
    search=SearchKnobs(problems=4, tries=2, votes=4),
)


# The ladder: a real 0.5B chat model on a CPU with bf16 hardware, or on a GPU. Rung 1 has no policy: its equations are made.
RUNG_1 = Recipe(
    preset="rung-1",
    lora=Lora(rank=16, alpha=32),
    model=ModelKnobs(
        name="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        dtype="auto",
        autocast="auto",
        sampling_dtype="",
        slots=128,
        prefill_tokens=4096,
        micro_tokens=4096,
    ),
    problems=ProblemKnobs(source="equations", prompts="equations", digits=2),
    segment=SegmentKnobs(teacher="blank_lines"),  # there is no stage segment; the rules of "rules" do not exist here
    annotate=AnnotateKnobs(source="made", max_solutions=160),
    classifier=ClassifierKnobs(prompts=("classify",), lrs=(1e-4, 3e-4), max_lrs=4, max_epochs=3, batch=16),
    judge=JudgeKnobs(
        labels=160,
        rs_samples=12,
        rs_keep=2,
        rs_training=Training(lr=2e-4, epochs=1, batch=16),
        steps=14,
        prompts=16,
        group=8,
        lr=2e-4,
        max_new_tokens=48,
        judges=("discriminative", "rejection_sampled", "stepwiser", "stepwiser_from_rs"),
    ),
    evaluate=EvaluateKnobs(solutions=150, samples=4, pass_samples=8, pass_solutions=30),
)


# Rungs 2 and 3: the model is policy, labeller and judge; exact labels are for measuring only.
RUNG_2 = dataclasses.replace(
    RUNG_1,
    preset="rung-2",
    problems=ProblemKnobs(
        source="stories", prompts="stories", max_steps=1, largest=60, train=80, validation=60, test=100
    ),
    policy=PolicyKnobs(temperature=0.8, max_text_tokens=60, max_chunks=5, max_chunk_tokens=30),
    segment=SegmentKnobs(teacher="rules", samples=2, keep=2, training=Training(lr=2e-4, epochs=2, batch=8)),
    annotate=AnnotateKnobs(problems=200, samples=4, branches=6, max_solutions=110),
    judge=dataclasses.replace(RUNG_1.judge, steps=18, lr=1e-4),
    evaluate=EvaluateKnobs(solutions=100, samples=4, pass_samples=8, pass_solutions=20),
    search=SearchKnobs(problems=40, tries=4, votes=8),
)
RUNG_3 = dataclasses.replace(
    RUNG_2,
    preset="rung-3",
    problems=dataclasses.replace(RUNG_2.problems, max_steps=3),
    policy=dataclasses.replace(RUNG_2.policy, max_text_tokens=90, max_chunks=7),
)
RUNG_4 = dataclasses.replace(
    RUNG_3,
    preset="rung-4",
    problems=ProblemKnobs(source="gsm8k", prompts="english", max_steps=2, train=80, validation=60, test=100),
    policy=PolicyKnobs(temperature=0.8, max_text_tokens=240, max_chunks=8, max_chunk_tokens=160),
    segment=dataclasses.replace(RUNG_2.segment, teacher="numbered", tries=4),
    judge=dataclasses.replace(RUNG_3.judge, start="rejection_sampled", max_new_tokens=160),
    evaluate=dataclasses.replace(RUNG_2.evaluate, parts=("gsm8k",)),
)
RUNG_5 = dataclasses.replace(
    RUNG_4, preset="rung-5", problems=dataclasses.replace(RUNG_4.problems, max_steps=0)
)


# The GPU presets have not run on a GPU yet. Their peak memory is computed (`python -m minisw.engine.memory --preset NAME`), and
# their times are guesses from the number of sampled tokens at 2,000 to 6,000 tokens per second (`python -m benchmarks.gpu`).

# 3 to 6 hours; 1 GB for the model, less than 1 GB for the run folder. A T4 computes in fp16 with scaled losses.
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
        rs_samples=32,
        rs_training=Training(lr=2e-4, epochs=1, batch=16),
        start="rejection_sampled",  # half of this base's analyses end without a verdict
        temperature=1.0,
        steps=60,
        prompts=64,
        group=8,
        lr=5e-5,
        max_new_tokens=400,
    ),
    evaluate=EvaluateKnobs(parts=("gsm8k", "math"), solutions=400, pass_solutions=50),
    search=SearchKnobs(problems=200, tries=5),
)


# A night; 3 GB for the model, 1 GB for the run folder.
GPU_12GB = dataclasses.replace(
    GPU_8GB,
    preset="gpu-12gb",
    model=dataclasses.replace(GPU_8GB.model, name="Qwen/Qwen2.5-1.5B-Instruct", four_bit=True, slots=96),
    problems=dataclasses.replace(GPU_8GB.problems, source="math"),
    policy=PolicyKnobs(temperature=1.0, max_text_tokens=768, max_chunks=16, max_chunk_tokens=300),
    segment=dataclasses.replace(GPU_8GB.segment, teacher="prompted", tries=8),
)


# Half a night: without 4 bits the adapter is merged into the weights for sampling, which is twice as fast.
GPU_24GB = dataclasses.replace(
    GPU_12GB, preset="gpu-24gb", model=dataclasses.replace(GPU_12GB.model, four_bit=False, slots=256, prefill_tokens=16384)
)


# StepWiser §3 and A.1; days on 8 A100. The paper trains full weights: its learning rates are too small for LoRA.
PAPER = dataclasses.replace(
    GPU_24GB,
    preset="paper",
    problems=dataclasses.replace(GPU_24GB.problems, source="numina", train=20_000, validation=1000, test=500),
    policy=PolicyKnobs(temperature=1.0, max_text_tokens=3096, max_chunks=40, max_chunk_tokens=1024),
    segment=SegmentKnobs(teacher="prompted", samples=16, keep=4, tries=8, training=Training(lr=1e-5, epochs=1, batch=32)),
    annotate=AnnotateKnobs(
        problems=40_000, samples=16, keep=16, branches=16, max_solutions=640_000, rule="rel_effective", alpha=0.4, gamma=0.8
    ),
    judge=JudgeKnobs(
        labels=2_000_000,
        passes=1,
        rs_samples=1,
        rs_training=Training(lr=1e-5, epochs=1, batch=32),
        temperature=1.0,
        steps=800,
        prompts=1024,
        group=4,
        updates=4,
        lr=1e-6,
        max_new_tokens=3096,
    ),
    evaluate=EvaluateKnobs(parts=("gsm8k", "math", "olympiadbench", "omnimath"), solutions=1000, pass_solutions=200),
    search=SearchKnobs(problems=500, tries=5),
)


PRESETS = {p.preset: p for p in (TINY, SMOKE, RUNG_1, RUNG_2, RUNG_3, RUNG_4, RUNG_5, GPU_8GB, GPU_12GB, GPU_24GB, PAPER)}
