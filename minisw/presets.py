"""The presets: recipes with a name. What a preset does not name has the default of `recipe.py`."""

from __future__ import annotations

from minisw.recipe import (
    AnnotateKnobs,
    ClassifierKnobs,
    EvaluateKnobs,
    JudgeKnobs,
    Lora,
    ModelKnobs,
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
        dtype="bf16",
        autocast="bf16",  # the adapters' fp32 weights are multiplied in bf16 too
        sampling_dtype="",
        slots=48,
        prefill_tokens=4096,
        micro_tokens=768,
    ),
    problems=ProblemKnobs(
        source="gsm8k", prompts="english", temperature=0.7, max_steps=2, train=16, validation=6, test=6, hard=0
    ),
    segment=SegmentKnobs(
        teacher="numbered", samples=4, keep=3, tries=4, training=Training(lr=4e-4, epochs=4, batch=4), max_new_tokens=240
    ),
    annotate=AnnotateKnobs(samples=6, keep=3, branches=4, max_solutions=12),
    classifier=ClassifierKnobs(lrs=(1e-4, 5e-4), epochs=2, batch=4),
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
    evaluate=EvaluateKnobs(source="processbench", solutions=6, resamples=500),
    search=SearchKnobs(problems=4, tries=2, max_chunks=8, max_chunk_tokens=160, votes=4),
)

PRESETS = {"tiny": TINY, "smoke": SMOKE}
