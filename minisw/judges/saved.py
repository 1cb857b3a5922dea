"""Saved judges: load one by its folder and judge with it, write its model card, merge it into one model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minisw import prompts
from minisw.engine.loading import load_base
from minisw.engine.sampler import make_sampler
from minisw.judges.base import Judge, JudgeContext
from minisw.judges.discriminative import DISCRIMINATIVE
from minisw.judges.generative import GenerativeJudge
from minisw.judges.kinds import GENERATIVE, KINDS, WHAT, WITH_HEAD, Settings, build
from minisw.presets import PRESETS
from minisw.recipe import EMBEDDED, ModelKnobs, Recipe
from minisw.records import Judgment, LabelledStep, write_json, write_text

FACTS = "minisw.json"  # beside a saved judge: how to load it and ask it
SLOTS = 64  # rows that sample at once when a saved judge is used
FOREIGN_MODEL = ModelKnobs(dtype="auto", autocast="", sampling_dtype="")  # for a judge that minisw did not save


@dataclass(frozen=True)
class Facts:
    """The contents of minisw.json: what is needed to ask a saved judge as it was trained."""

    model: ModelKnobs
    prompts: str = "english"  # a name of prompts.BY_NAME
    max_new_tokens: int = 512  # of one reply
    threshold: float | None = None  # of a classifier; None for a generative judge
    request: str = "classify"  # what a classifier is asked (judges/discriminative.py)
    analysis: bool = True  # whether a generative judge writes an analysis before its verdict
    kind: str = GENERATIVE  # one of judges/kinds.py


class LoadedJudge:
    """A judge with its model, ready to judge the steps of any solution. `adapter` is None if it is merged into the model."""

    def __init__(self, context: JudgeContext, adapter: str | None, name: str, facts: Facts):
        self.context, self.adapter, self.name, self.facts = context, adapter, name, facts

    def build(self, votes: int = 1, temperature: float = 1.0) -> Judge:
        """The judge as one of `LabelledStep`s (judges/base.py): greedy, or with several votes sampled at `temperature`.

        Raises ValueError for less than one vote, and for several votes of a classifier.
        """
        if votes < 1:
            raise ValueError(f"{votes} votes are too few: give at least 1")
        settings = Settings(self.name, self.facts.threshold, self.facts.request, temperature if votes > 1 else 0.0, votes)
        return build(self.facts.kind, self.context, self.adapter, settings)

    def judge(
        self, problem: str, steps: Sequence[str], votes: int = 1, temperature: float = 1.0, seed: int = 0
    ) -> list[Judgment]:
        """One `Judgment` for each step, given the steps before it: verdict (None if unreadable), `p_positive`, analysis.

        One greedy reply decides each step, or the majority of `votes` > 1 replies sampled at `temperature`. `p_positive` is
        measured at the verdict token. Raises ValueError for an empty problem or step, for a request that is longer than the
        model's context, and for several votes of a classifier.
        """
        if not problem.strip() or not all(step.strip() for step in steps):
            raise ValueError("the problem or a step is empty: give text for both")
        judge = self.build(votes, temperature)
        texts = [step.strip() + "\n\n" for step in steps]
        items = [LabelledStep("", problem.strip(), tuple(texts[:i]), text, True) for i, text in enumerate(texts)]
        self._check_length(judge, items)
        return judge.judge(items, seed, **({"probabilities": True} if isinstance(judge, GenerativeJudge) else {}))

    def _check_length(self, judge: Judge, items: Sequence[LabelledStep]) -> None:
        """Raises ValueError if a request and its reply do not fit into the model's context."""
        limit = getattr(self.context.lm.causal_lm.config.get_text_config(), "max_position_embeddings", None)
        prompt = getattr(judge, "prompt", None)
        if limit is None or prompt is None:  # a judge without a request reads the solution as the policy wrote it
            return
        reply = 1 if self.facts.threshold is not None else self.context.max_new_tokens
        for number, item in enumerate(items, 1):
            length = len(prompt(item))
            if length + reply > limit:
                raise ValueError(
                    f"step {number} with its problem and the steps before it has {length} tokens, and a reply may take {reply}: "
                    f"the model's context is {limit} tokens; shorten the problem or the steps"
                )


def load_judge(path: str | Path, **changes: object) -> LoadedJudge:
    """The judge in a folder that a run saved (an adapter) or that `merge` wrote (a whole model).

    `changes` override fields of its `ModelKnobs`, such as `name` (where the base is), `device` or `four_bit`. Raises
    ValueError, in one line, if it cannot be loaded.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"no such folder: {folder}; give the folder of a saved judge, such as runs/tiny-0/judges/stepwiser")
    facts = read_facts(folder)
    merged = not (folder / "adapter_config.json").is_file()
    model = dataclasses.replace(facts.model, name=str(folder), gguf_file="") if merged else facts.model
    model = dataclasses.replace(model, **changes)
    lm = load_base(model)
    adapter = None if merged else "judge"
    if adapter:
        lm.load_adapter(adapter, folder)
    sampler = make_sampler(lm, dataclasses.replace(model, slots=SLOTS))
    context = JudgeContext(lm, sampler, prompts.BY_NAME[facts.prompts], facts.max_new_tokens, model.micro_tokens, facts.analysis)
    return LoadedJudge(context, adapter, folder.name, facts)


def read_facts(folder: Path) -> Facts:
    """What minisw.json says; without that file, the base that the adapter's own configuration names, and English prompts.

    Raises ValueError, in one line, if the folder holds no judge or the file is damaged.
    """
    if (folder / FACTS).is_file():
        try:
            values = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            if "kind" not in values and values["threshold"] is not None:  # an earlier version wrote it
                values["kind"] = DISCRIMINATIVE
            facts = Facts(**(values | {"model": dataclasses.replace(FOREIGN_MODEL, **values["model"])}))
            prompts.BY_NAME[facts.prompts], KINDS[facts.kind]  # noqa: B018 (both must exist)
            return facts
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"{folder / FACTS} is damaged: save the judge again, or remove the file to use defaults") from None
    if (folder / "adapter_config.json").is_file():
        try:
            config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
            return Facts(dataclasses.replace(FOREIGN_MODEL, name="" + config["base_model_name_or_path"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"{folder / 'adapter_config.json'} is damaged or names no base: save the judge again") from None
    if (folder / "config.json").is_file():
        return Facts(dataclasses.replace(FOREIGN_MODEL, name=str(folder)))
    raise ValueError(f"no judge in {folder}: it holds neither adapter_config.json nor config.json")


def write_facts(folder: Path, facts: Facts) -> None:
    """Write minisw.json. The device is left out: whoever loads the judge may have another."""
    values = dataclasses.asdict(facts)
    del values["model"]["device"]
    write_json(folder / FACTS, values)


def merge(path: str | Path, out: Path, **changes: object) -> None:
    """Write a saved judge as one model, its adapter added into the weights, for `AutoModelForCausalLM.from_pretrained`.

    `changes` as in `load_judge`. Raises ValueError for a judge with a head, for a base in 4 bits, which merging would round, and
    if `out` is not empty.
    """
    folder = Path(path)
    facts = read_facts(folder)
    if facts.kind in WITH_HEAD:
        raise ValueError(f"a judge of kind {facts.kind} has a head, which a merged model would lose: use its adapter")
    model = dataclasses.replace(facts.model, **changes)
    if model.four_bit:
        raise ValueError("a 4-bit base cannot be merged without rounding: give --no-four-bit to merge into full weights")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: give --merge a new folder")
    lm = load_base(model)
    lm.load_adapter("judge", folder)
    lm.model.merge_and_unload().save_pretrained(out)
    lm.tokenizer.save_pretrained(out)
    write_facts(out, dataclasses.replace(facts, model=model))


# --- the model card ------------------------------------------------------------------------------------------------------


def write_card(folder: Path, recipe: Recipe, title: str, metrics: dict | None = None, kind: str = GENERATIVE) -> None:
    """Write minisw.json and a model card (README.md) beside a saved adapter of a judge of this kind.

    `metrics` is what its training returned: `training` (a sentence), `labels`, and for a classifier `validation_labels` and
    `threshold`. What it does not say, the card leaves out.
    """
    metrics = metrics or {}
    threshold = metrics.get("threshold")
    request = metrics.get("prompt", "classify")
    judge = recipe.judge
    facts = Facts(recipe.model, recipe.problems.prompts, judge.max_new_tokens, threshold, request, judge.analysis, kind)
    write_facts(folder, facts)
    embedded = recipe.model.name == EMBEDDED
    base = "the model embedded in minisw" if embedded else recipe.model.name
    head = "" if embedded else f"base_model: {recipe.model.name}\n"
    what = WHAT[kind] if threshold is None else WHAT[kind].format(threshold=threshold)
    lines = [
        f"Made by minisw with {_preset(recipe)}, seed {recipe.seed}; the run's recipe.json holds every setting.",
        f"Problems: {recipe.problems.source}.",
        f"Labels: {_labels(recipe, metrics)}.",
        f"Training: {metrics['training']}." if "training" in metrics else "",
        "Limits: it was trained on solutions of these problems only, its labels have errors, and a step that it calls Positive "
        "is not proven right.",
    ]
    write_text(
        folder / "README.md",
        f"""---
library_name: peft
{head}tags: [minisw, stepwise-judge, process-reward-model, lora]
---
# minisw judge: {title}

A LoRA adapter (rank {recipe.lora.rank}, alpha {recipe.lora.alpha}) on {base} that judges single steps of solutions to
mathematics problems. {what}
minisw reproduces *StepWiser: stepwise generative judges* (arXiv 2508.19229) on one machine.

{chr(10).join("- " + line for line in lines if line)}

```python
from minisw import load_judge

judge = load_judge("PATH OF THIS FOLDER")
for j in judge.judge("Tom has 3 pens and buys 4. How many has he?", ["3+4=7.", "The answer is \\\\boxed{{7}}."]):
    print(j.verdict, j.p_positive, j.analysis)
```
""",
    )


def _preset(recipe: Recipe) -> str:
    """The recipe's preset, and whether other settings were changed too."""
    default = PRESETS.get(recipe.preset)
    changed = default is None or dataclasses.replace(default, seed=recipe.seed) != recipe
    return f"preset {recipe.preset}" + (" and changed settings" if changed else "")


def _labels(recipe: Recipe, metrics: dict) -> str:
    """How many labels were used, and where they come from."""
    counts = [f"{metrics['labels']} distinct steps" if "labels" in metrics else ""]
    counts.append(f"{metrics['validation_labels']} more for validation" if "validation_labels" in metrics else "")
    annotate = recipe.annotate
    source = (
        f"from rollouts ({annotate.branches} completions from behind each step, rule {annotate.rule})"
        if annotate.source == "rollouts"
        else f"from {annotate.source}"
    )
    return ", ".join([count for count in counts if count] + [source])
