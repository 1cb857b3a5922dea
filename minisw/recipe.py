"""Every knob, with its unit and its source: one dataclass a stage, and the presets.

`python -m minisw.reproduce --help` prints what stands behind each field here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

EMBEDDED = "embedded"  # the name of the base model that ships in data/base


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on all linear layers."""

    rank: int = 32
    """Rank r of the update."""
    alpha: int = 64
    """Scale: the update counts alpha / rank times."""


@dataclass(frozen=True)
class ModelKnobs:
    """The base model."""

    name: str = EMBEDDED
    """A hub name, a folder, or "embedded" for the tiny model that ships with minisw."""
    gguf_file: str = ""
    """A GGUF file within that folder or hub repository; it is dequantised."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Type of the weights in memory. "auto" is bf16 if the hardware computes in it; if not, fp16 on a GPU (below compute
    capability 8.0) and fp32 on a CPU (without AVX512-BF16 or AMX)."""
    autocast: Literal["", "auto", "bf16", "fp16"] = "auto"
    """Type of the products in training forwards; empty for that of the weights. In fp16 losses are scaled."""
    sampling_dtype: Literal["", "auto", "bf16", "fp16"] = "auto"
    """Type of the weights while sampling; empty for their own."""
    checkpointing: bool = False
    """Gradient checkpointing: about a tenth of the activations, a third more time; a group's prompt is no longer shared."""
    four_bit: bool = False
    """Load in 4 bits (nf4, double quantisation) through bitsandbytes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """"auto" takes a GPU where there is one; else "cpu" or "cuda"."""
    slots: int = 480
    """Rows that sample at once."""
    prefill_tokens: int = 8192
    """Prompt tokens in one prefill forward."""
    micro_tokens: int = 4096
    """Tokens in one training forward and backward, padding included."""

    def folder(self) -> str:
        """What `from_pretrained` is given."""
        if self.name != EMBEDDED:
            return self.name
        return str(embedded_folder())


def embedded_folder() -> Path:
    """data/base of the checkout, or the copy that an installed package carries."""
    here = Path(__file__).resolve().parent
    for folder in (here.parent / "data" / "base", here / "data" / "base"):
        if (folder / "model.safetensors").is_file():
            return folder
    raise ValueError(
        "the embedded model is missing: data/base/model.safetensors is neither beside nor within the package; "
        "make it with python -m minisw.problems.arithmetic.pretraining --out data/base"
    )


@dataclass(frozen=True)
class ProblemKnobs:
    """Where problems come from."""

    source: Literal["arithmetic", "gsm8k", "math", "numina"] = "arithmetic"
    """The embedded task, GSM8K, MATH or NuminaMath-CoT (the last two are tested on MATH-500)."""
    data_dir: Path | None = None
    """Folder with the published files (gsm8k/train.jsonl, math500/test.jsonl, processbench/gsm8k.json, …); without it, hub
    names are used."""
    prompts: Literal["arithmetic", "english"] = "arithmetic"
    """Which set of prompts (minisw/prompts.py)."""
    max_steps: int = 0
    """Only problems whose reference solution has at most this many lines (GSM8K; 0 for all): easier ones for small models."""
    train: int = 300
    """Training problems of stage 1 (SFT of the policy); stage 2 annotates others."""
    validation: int = 80
    """Problems whose labels choose the baseline's knobs."""
    test: int = 200
    """Problems that only measure."""
    hard: int = 0
    """Problems of the longer, harder test that search is measured on too (0 for none; the embedded task has one)."""


@dataclass(frozen=True)
class PolicyKnobs:
    """How the policy writes solutions, in every stage and for every method alike."""

    temperature: float = 1.0
    """Sampling temperature of solutions and rollouts (1 in the paper; very small models do better below)."""
    max_text_tokens: int = 300
    """Longest solution in tokens of text, without tags: one budget for the base, the policy, rollouts and search."""
    max_chunks: int = 12
    """Most chunks of a solution, in sampling, rollouts and search."""
    max_chunk_tokens: int = 80
    """Longest chunk in tokens, when search samples chunk by chunk."""


@dataclass(frozen=True)
class Training:
    """One supervised training."""

    lr: float = 1e-3
    """Peak learning rate of AdamW, reached after a tenth of the steps and taken down linearly."""
    epochs: int = 2
    """Passes over the examples."""
    batch: int = 32
    """Examples a step."""


@dataclass(frozen=True)
class SegmentKnobs:
    """Stage 1, StepWiser §3.1."""

    teacher: Literal["rules", "prompted", "numbered"] = "rules"
    """Who segments the SFT texts: the task's own rules; the chat model, copying the text with tags; or the chat model,
    naming the lines that begin a chunk (a very small one cannot copy without a slip)."""
    samples: int = 2
    """Solutions sampled a problem; the wrong ones are dropped (the paper samples 16)."""
    keep: int = 1
    """Right solutions kept a problem, at most (the paper keeps 4)."""
    tries: int = 1
    """Segmentations sampled from the teacher for each solution; all that pass the filter are taught (the paper samples 8)."""
    training: Training = Training(lr=2e-3, epochs=5, batch=6)


@dataclass(frozen=True)
class AnnotateKnobs:
    """Stage 2, StepWiser §3.2."""

    source: str = "rollouts"
    """Where labels come from: our own rollouts, or labels made elsewhere: prm800k, math_shepherd, a file or a hub name in TRL's
    stepwise-supervision format."""
    problems: int = 240
    """Problems annotated: training problems after the `problems.train` of stage 1."""
    samples: int = 4
    """Solutions a problem at temperature 1 (the paper samples 16)."""
    keep: int = 1
    """Solutions annotated a problem, at most; over all, one right for three wrong, whose errors are what labels run short of."""
    branches: int = 8
    """M: completions from every boundary (the paper takes 16). REPRODUCE.md has what it does to the labels."""
    max_solutions: int = 190
    """Solutions annotated in all."""
    rule: Literal["abs_q", "rel_effective", "rel_ratio"] = "abs_q"
    """Which label rule trains the judges. All three are derived and measured."""
    alpha: float = 0.4
    """alpha of rel_effective (0.4 in the paper at 1.5B)."""
    gamma: float = 0.8
    """gamma of rel_ratio (0.8 in the paper at 1.5B)."""


@dataclass(frozen=True)
class JudgeKnobs:
    """Stage 3, StepWiser §3.3: the generative judge and its GRPO."""

    labels: int = 240
    """Labels a pass that the judge and the classifier may use, balanced half and half."""
    passes: int = 3
    """Balanced passes: each takes other labels of a side as long as there are any, then those of before again."""
    format_samples: int = 1
    """Analyses that the base is asked for a label; those that agree with it teach the judge its format (RS-FT)."""
    format_training: Training = Training(lr=1e-3, epochs=1, batch=4)
    steps: int = 16
    """GRPO steps (the paper takes 800)."""
    prompts: int = 32
    """Prompts a step (the paper takes 1024)."""
    group: int = 8
    """Analyses sampled a prompt (the paper takes 4)."""
    updates: int = 1
    """Optimizer steps on the samples of one GRPO step (the paper takes 4)."""
    lr: float = 1e-4
    """Learning rate of AdamW; LoRA wants more than the paper's 1e-6 for full weights."""
    clip_low: float = 0.2
    """The ratio is clipped at 1 - clip_low."""
    clip_high: float = 0.28
    """… and at 1 + clip_high: clip-higher, without which entropy collapses."""
    kl: float = 0.0
    """Weight of the KL term towards the adapter at the start; 0 for none."""
    temperature: float = 1.2
    """Of the samples. Above 1 because the taught judge is nearly deterministic: at 1 three groups in four are tied."""
    max_new_tokens: int = 160
    """Longest analysis, in tokens."""
    tenth: bool = True
    """Train a second judge on a tenth of the labels: as many SFT steps, as many passes of GRPO, or 3 steps."""
    votes: int = 1
    """Sampled judgments a step for the vote row."""


@dataclass(frozen=True)
class ClassifierKnobs:
    """The discriminative baseline: SFT on + or - with the same labels; learning rate and epochs are chosen on validation."""

    lrs: tuple[float, ...] = (5e-4, 1e-3)
    """Learning rates tried first; while the best is the largest or smallest tried, twice or half of it is tried next."""
    max_lrs: int = 4
    """Most learning rates tried; `lrs` is tried whole."""
    max_epochs: int = 4
    """Longest training, and the length of the learning-rate schedule. The best state after any epoch is kept."""
    patience: int = 1
    """Training stops when validation AUC has not improved for so many epochs."""
    batch: int = 16
    """Examples a step."""


@dataclass(frozen=True)
class EvaluateKnobs:
    """Stage 4: first-error F1 on test solutions with exact labels, or on ProcessBench for tasks without exact labels."""

    parts: tuple[Literal["gsm8k", "math", "olympiadbench", "omnimath"], ...] = ("gsm8k",)
    """Parts of ProcessBench, for tasks without exact labels."""
    solutions: int = 110
    """Solutions judged; with ProcessBench, of each part."""
    resamples: int = 1000
    """Bootstrap resamples of an interval."""


@dataclass(frozen=True)
class SearchKnobs:
    """Stage 5, StepWiser §4.4."""

    problems: int = 80
    """Test problems searched."""
    tries: int = 5
    """Tries a chunk; after them the last is kept."""
    votes: int = 16
    """Most samples drawn a problem for majority vote and best-of-N; the token budget decides how many are drawn and count."""


@dataclass(frozen=True)
class Recipe:
    """All knobs of one run."""

    preset: str = "tiny"
    """tiny: the embedded model and its problems. smoke: a real 0.5B chat model and GSM8K, hardly any. On a GPU: gpu-8gb (0.5B),
    gpu-12gb (1.5B in 4 bits), gpu-24gb (1.5B). paper: the paper's sizes. Other knobs change a preset."""
    seed: int = 0
    """Of everything that is drawn; each seed has test problems of its own."""
    lora: Lora = Lora()
    model: ModelKnobs = ModelKnobs()
    problems: ProblemKnobs = ProblemKnobs()
    policy: PolicyKnobs = PolicyKnobs()
    segment: SegmentKnobs = SegmentKnobs()
    annotate: AnnotateKnobs = AnnotateKnobs()
    classifier: ClassifierKnobs = ClassifierKnobs()
    judge: JudgeKnobs = JudgeKnobs()
    evaluate: EvaluateKnobs = EvaluateKnobs()
    search: SearchKnobs = SearchKnobs()
