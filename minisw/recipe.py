"""The recipe of a run: every knob with its meaning, its unit and the paper's value, one dataclass for each stage.

The text below a field is its help in `python -m minisw.reproduce --help`. "Paper" is StepWiser (arXiv 2508.19229). The
defaults are those of the preset tiny; other presets are in `presets.py`. A run folder keeps its recipe in recipe.json, which
`Recipe.from_json` reads back.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

EMBEDDED = "embedded"  # the name of the base model that comes with minisw
GENERATED = ("arithmetic", "equations", "stories")  # sources of problems that need no data
MADE = "made"  # the source of labels of solutions that the task makes by rule
TrainedJudge = Literal[  # the trained judges of judges/registry.py
    "discriminative",
    "scalar_head",
    "self_supervised",
    "few_shot",
    "rejection_sampled",
    "genprm",
    "genprm_analysis",
    "genprm_code",
    "genprm_neither",
    "thinkprm",
    "stepwiser",
    "stepwiser_from_rs",
    "stepwiser_tenth",
    "stepwiser_hundredth",
]


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (LoRA) on all linear layers; every trained model of a run is one."""

    rank: int = 32
    """Rank of the update of a weight matrix."""
    alpha: int = 64
    """Scale of the update: it is multiplied by alpha / rank."""


@dataclass(frozen=True)
class ModelKnobs:
    """The base model, its number types, and how much work is done at once."""

    name: str = EMBEDDED
    """A folder, a Hugging Face hub name, or "embedded" for the tiny model that comes with minisw."""
    gguf_file: str = ""
    """A GGUF file in that folder or hub repository; it is dequantised while loading."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Type of the weights. "auto": bf16 where the hardware computes in it, else fp16 on a GPU and fp32 on a CPU."""
    autocast: Literal["", "auto", "bf16", "fp16"] = "auto"
    """Type of matrix products in training; empty for the type of the weights. With fp16, losses are scaled."""
    sampling_dtype: Literal["", "auto", "bf16", "fp16"] = "auto"
    """Type of the weights while sampling; empty for their own type."""
    checkpointing: bool = False
    """Gradient checkpointing: about a tenth of the memory for activations, a third more time."""
    four_bit: bool = False
    """Load the base in 4 bits (nf4, double quantisation) with bitsandbytes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; "auto" is a GPU if there is one."""
    sampler: Literal["fast", "simple"] = "fast"
    """"simple" samples with transformers' `generate`: for models that the fast sampler refuses (sliding windows, recurrent)."""
    slots: int = 480
    """Completions that are sampled at once. Less needs less memory."""
    prefill_tokens: int = 8192
    """Prompt tokens in one forward pass of sampling."""
    micro_tokens: int = 4096
    """Tokens in one forward and backward pass of training, padding included. Less needs less memory; results do not change."""

    def folder(self) -> str:
        """The folder or hub name for `from_pretrained`. Raises ValueError if the embedded model is missing."""
        return str(embedded_folder()) if self.name == EMBEDDED else self.name


def embedded_folder() -> Path:
    """The folder of the embedded model: data/base of the checkout, or the copy in an installed package.

    Raises ValueError if neither exists.
    """
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "data" / "base", package / "data" / "base"):
        if (folder / "model.safetensors").is_file():
            return folder
    raise ValueError(
        "the embedded model (data/base/model.safetensors) is missing: get a complete checkout or wheel, or train it with "
        "python -m minisw.problems.arithmetic.pretraining --out data/base"
    )


@dataclass(frozen=True)
class ProblemKnobs:
    """The problems, and how many of each split."""

    source: Literal["arithmetic", "equations", "stories", "gsm8k", "math", "numina", "file"] = "arithmetic"
    """The embedded task; for chat models, single equations (only judged) or short stories; GSM8K, MATH or NuminaMath-CoT (the
    last two are tested on MATH-500); or problems of your own."""
    file: Path | None = None
    """Your own problems (source "file"): JSONL with a line {"question": …, "answer": …} for each."""
    data_dir: Path | None = None
    """Folder with the published files (gsm8k/train.jsonl, math500/test.jsonl, …). Without it they come from the hub."""
    prompts: Literal["arithmetic", "english", "equations", "stories"] = "arithmetic"
    """Prompts (minisw/prompts.py): "arithmetic" for the embedded model, "english" for chat models; "equations" and "stories", for
    the sources of these names, show worked examples."""
    digits: int = 2
    """Equations only: digits of each number."""
    largest: int = 60
    """Stories only: the largest quantity."""
    max_steps: int = 0
    """Stories: most steps; 0 stands for 2. GSM8K: keep problems whose reference solution has at most this many lines; 0 keeps
    all."""
    train: int = 800
    """Training problems of stage 1, on which the policy is fine-tuned. Paper: 20,000. Stage 2 annotates others."""
    validation: int = 60
    """Validation problems: their labels choose the classifier's settings."""
    test: int = 150
    """Test problems; they are only measured on."""
    hard: int = 0
    """Problems of the embedded task's longer test split, on which search is measured too; 0 for none."""


@dataclass(frozen=True)
class PolicyKnobs:
    """How the policy samples solutions, in every stage and for every method."""

    temperature: float = 1.0
    """Sampling temperature of solutions and rollouts. Paper: 1. Very small models do better below it."""
    max_text_tokens: int = 300
    """Longest solution in tokens of text, without tags: one budget for the base, the policy, rollouts and search."""
    max_chunks: int = 12
    """Most chunks in a solution, in sampling, rollouts and search."""
    max_chunk_tokens: int = 80
    """Longest chunk in tokens, where search samples one chunk at a time."""


@dataclass(frozen=True)
class Training:
    """One supervised fine-tuning (SFT)."""

    lr: float = 1e-3
    """Peak learning rate of AdamW: linear warm-up over the first tenth of the steps, then linear decay. Paper: 1e-5."""
    epochs: int = 2
    """Passes over the examples."""
    batch: int = 32
    """Examples in a step. Paper: 32."""


@dataclass(frozen=True)
class SegmentKnobs:
    """Stage 1 (StepWiser §3.1): the policy learns to write its reasoning in chunks."""

    teacher: Literal["rules", "prompted", "numbered", "blank_lines"] = "rules"
    """Who segments: the task's rules, the model copying the text with tags, the model naming the first lines of chunks, or a
    cut at every blank line, to compare with."""
    samples: int = 4
    """Solutions that the base samples per problem; wrong ones are dropped. Paper: 16."""
    keep: int = 4
    """Most right solutions kept per problem. Paper: 4."""
    tries: int = 1
    """Segmentations that the teacher samples per solution; all that pass the filter are taught. Paper: 8."""
    training: Training = Training(lr=2e-3, epochs=1, batch=6)


@dataclass(frozen=True)
class AnnotateKnobs:
    """Stage 2 (StepWiser §3.2): every chunk gets a label from Monte-Carlo rollouts."""

    source: str = "rollouts"
    """Where labels come from: rollouts, exact (the embedded task's own, to compare with), made (solutions that the task makes by
    rule, right and wrong), prm800k, math_shepherd, or a file or hub name in TRL's stepwise-supervision format."""
    problems: int = 160
    """Problems annotated: the training problems after those of stage 1. Paper: 40,000."""
    samples: int = 4
    """Solutions that the policy samples per problem. Paper: 16."""
    keep: int = 1
    """Most solutions annotated per problem. Over all problems, one right solution is kept for three wrong ones."""
    branches: int = 8
    """M, the rollouts from every boundary between chunks. Paper: 16."""
    max_solutions: int = 130
    """Most solutions annotated in all."""
    rule: Literal["abs_q", "rel_effective", "rel_ratio", "relative_progress"] = "abs_q"
    """The label rule that trains the judges: one of StepWiser's three, which are also compared, or GenPRM's."""
    alpha: float = 0.4
    """Weight of the gain in rel_effective. Paper: 0.4 at 1.5B."""
    gamma: float = 0.8
    """Threshold of rel_ratio and relative_progress. Paper: 0.8 at 1.5B; GenPRM: 0.8."""

    @property
    def published(self) -> bool:
        """Whether the labels are those of given solutions (a published set, or made by rule), and not of the policy's own."""
        return self.source not in ("rollouts", "exact")


@dataclass(frozen=True)
class JudgeKnobs:
    """Stage 3 (StepWiser §3.3): the generative judges: RS-FT, and GRPO."""

    labels: int = 240
    """Most labels per pass, half of them positive; all trained judges use the same labels."""
    passes: int = 1
    """Balanced passes over the labels. Each takes labels that earlier passes left out, until none are left."""
    rs_samples: int = 64
    """RS-FT: replies that the base samples per label. The default samples at least as many tokens as GRPO does."""
    rs_keep: int = 3
    """RS-FT: most replies with a right verdict that are trained on, per label."""
    rs_training: Training = Training(lr=1e-3, epochs=1, batch=16)
    start: Literal["base", "rejection_sampled"] = "base"
    """Where GRPO starts. Paper: the base. A model that seldom ends with a readable verdict has to start from RS-FT."""
    steps: int = 24
    """GRPO steps. Paper: 800."""
    prompts: int = 16
    """Prompts (labelled chunks) in a GRPO step. Paper: 1024."""
    group: int = 8
    """Replies sampled per prompt; advantages compare them with each other. Paper: 4."""
    updates: int = 1
    """Optimizer steps on the replies of one GRPO step. Paper: 4."""
    lr: float = 3e-4
    """Learning rate of AdamW in GRPO. Paper: 1e-6 for full weights; LoRA needs more."""
    clip_low: float = 0.2
    """The probability ratio is clipped at 1 - clip_low. Paper: 0.2."""
    clip_high: float = 0.28
    """The probability ratio is clipped at 1 + clip_high. Paper: 0.28 (clip-higher), which keeps entropy from collapsing."""
    kl: float = 0.0
    """Weight of the KL term towards the adapter at the start of GRPO; 0 for none."""
    temperature: float = 1.0
    """Sampling temperature in GRPO. Paper: 1."""
    balanced: bool = True
    """Train on as many positive as negative labels. Paper: yes; without it, on labels drawn at random."""
    analysis: bool = True
    """Write an analysis before the verdict. Paper: yes; without it, the reply begins with the verdict."""
    max_new_tokens: int = 220
    """Longest reply of the judge in tokens. Paper: 3096."""
    judges: tuple[TrainedJudge, ...] = (
        "discriminative",
        "rejection_sampled",
        "stepwiser",
        "stepwiser_tenth",
        "stepwiser_hundredth",
    )
    """Judges to train, by their names in judges/registry.py. "stepwiser_tenth" and "_hundredth" use so many of the labels (at
    least 8), for the data-efficiency claims."""
    writer: str = ""
    """Model (a folder or hub name) that writes the analyses for SFT of rejection_sampled, genprm and thinkprm; empty for the
    base itself."""


@dataclass(frozen=True)
class ClassifierKnobs:
    """Stage 3: the discriminative baseline, SFT on + or - with the same labels; its settings are chosen on validation."""

    prompts: tuple[Literal["classify", "judge"], ...] = ("classify", "judge")
    """Requests tried at the first learning rate: the classifier's own, and the judge's. The better one is kept."""
    lrs: tuple[float, ...] = (5e-4, 1e-3)
    """Learning rates tried first. While the best is the largest or smallest, twice or half of it is tried next."""
    max_lrs: int = 4
    """Most learning rates tried; `lrs` is tried in full."""
    max_epochs: int = 4
    """Longest training, and the length of the learning-rate schedule. The best state after any epoch is kept."""
    patience: int = 1
    """Training stops when validation AUC has not improved for this many epochs."""
    batch: int = 16
    """Examples in a step."""


@dataclass(frozen=True)
class EvaluateKnobs:
    """Stage 4: first-error F1 on test solutions with exact labels, or on ProcessBench for tasks without exact labels."""

    parts: tuple[Literal["gsm8k", "math", "olympiadbench", "omnimath"], ...] = ("gsm8k",)
    """Parts of ProcessBench, for tasks without exact labels. Paper: all four."""
    solutions: int = 60
    """Solutions judged; with ProcessBench, of each part."""
    samples: int = 8
    """Judgments also sampled per chunk at temperature 1, for the mean F1 of one sample and for their majority; 0 for none.
    Paper: 8."""
    pass_samples: int = 16
    """Judgments sampled for pass@k, by the untrained judge and by StepWiser's; k = 1, 2, 4, … up to this number. 0 for none."""
    pass_solutions: int = 20
    """Solutions on whose chunks pass@k is measured."""
    resamples: int = 1000
    """Bootstrap resamples of an interval."""


@dataclass(frozen=True)
class SearchKnobs:
    """Stage 5 (StepWiser §4.4): search steered by the judge, and baselines that may spend as many tokens."""

    problems: int = 60
    """Test problems searched."""
    tries: int = 5
    """Most tries per chunk; the last one is kept whatever the judge says. Paper: 5."""
    votes: int = 16
    """Most samples per problem for majority vote and best-of-N; the token budget decides how many of them count."""


@dataclass(frozen=True)
class SelectKnobs:
    """Stage select (StepWiser §4.4): judges choose the solutions that make the next policy. Its SFT is that of stage 1."""

    problems: int = 0
    """Training problems of a round, which no other stage and no other round uses; 0 leaves the stage out."""
    samples: int = 8
    """N, the solutions sampled per problem; one of them is chosen."""
    judges: tuple[TrainedJudge, ...] = ("stepwiser", "discriminative")
    """Judges that choose, of those in `judge.judges`. The first one also chooses without a reference answer, and the policy that
    it makes samples the next round."""
    taught: int = 100
    """Solutions of stage 1 that all sets have in common, so that the base learns the format."""
    rounds: int = 1
    """Rounds of sampling, choosing and SFT. Paper: 1."""


@dataclass(frozen=True)
class Recipe:
    """All knobs of one run. Equal recipes give equal results on the same machine."""

    preset: str = "tiny"
    """Where the other knobs start from: tiny, smoke, rung-1 to rung-5, gpu-8gb, gpu-12gb, gpu-24gb or paper (presets.py)."""
    seed: int = 0
    """Seed of everything random. Each seed also has test problems of its own in the embedded task."""
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
    select: SelectKnobs = SelectKnobs()

    def to_json(self) -> dict:
        """The recipe as JSON values: what a run writes to recipe.json."""
        return json.loads(json.dumps(dataclasses.asdict(self), default=str))

    @classmethod
    def from_json(cls, source: Path | str | dict) -> Recipe:
        """The recipe in a recipe.json (its path) or in its values (a dict): the inverse of `to_json`.

        Raises ValueError, in one line that names the field, for unknown or missing fields (another version of minisw wrote
        the file) and for values of another type.
        """
        if isinstance(source, dict):
            return _from_json(Recipe, source, "recipe")
        try:
            values = json.loads(Path(source).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"cannot read the recipe {source}: {error.strerror}") from None
        except (ValueError, RecursionError):
            raise ValueError(f"the recipe {source} is not JSON: use the recipe.json of a run folder") from None
        return _from_json(Recipe, values, str(source))


def _from_json(kind: object, value: object, where: str) -> object:
    """`value`, parsed from JSON, as an instance of the type `kind`. `where` names the field in errors."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        hints = typing.get_type_hints(kind)
        for problem, names in (("has the unknown", value.keys() - hints.keys()), ("lacks the", hints.keys() - value.keys())):
            if names:
                raise ValueError(f"{where} {problem} field {sorted(names)[0]!r}: another version of minisw wrote it")
        return kind(**{name: _from_json(hints[name], value[name], f"{where}: {name}") for name in hints})
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(_from_json(arguments[0], item, where) for item in value)
    if origin is types.UnionType:  # Path | None, the only one
        return None if value is None else _from_json(arguments[0], value, where)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    names = " or ".join(map(repr, arguments)) if origin is Literal else getattr(kind, "__name__", str(kind))
    raise ValueError(f"{where} is {value!r}, which is not {names}")
