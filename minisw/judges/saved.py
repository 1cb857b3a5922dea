"""TODO."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from minisw import prompts
from minisw.engine.loading import load_base
from minisw.engine.sampler import make_sampler
from minisw.judges.base import JudgeContext
from minisw.judges.generative import GenerativeJudge
from minisw.recipe import EMBEDDED, ModelKnobs, Recipe
from minisw.records import Judgment, LabelledStep, write_json, write_text

FACTS = "minisw.json"  # beside a saved judge: what it needs to be asked as it was trained


class LoadedJudge:
    """A generative judge with its model."""

    def __init__(self, judge: GenerativeJudge):
        self._judge = judge

    def judge(
        self, problem: str, steps: Sequence[str], votes: int = 1, temperature: float = 1.0, seed: int = 0
    ) -> list[Judgment]:
        """A `Judgment` for every step: verdict (None where it cannot be read), `p_positive` by the verdict token, analysis.

        Each step is judged given the ones before it. With `votes` > 1 the majority of so many sampled verdicts is given.
        Raises ValueError for an empty problem or step.
        """
        if not problem.strip() or not all(step.strip() for step in steps):
            raise ValueError("the problem or a step is empty")
        steps = [step.strip() + "\n\n" for step in steps]
        items = [LabelledStep("", problem.strip(), tuple(steps[:i]), step, True) for i, step in enumerate(steps)]
        judge = self._judge
        judge.votes, judge.temperature = votes, temperature if votes > 1 else 0.0
        return judge.judge(items, seed, probabilities=True) if items else []


def load_judge(path: str | Path, **changes: object) -> LoadedJudge:
    """The judge in a folder that a run saved (an adapter), or that `merge` wrote. `changes` are knobs of its `ModelKnobs`,
    such as `name` (another place of the same base), `device` or `four_bit`. Raises ValueError, in one line, where it cannot."""
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"no such folder: {folder}; give the folder of a saved judge, such as runs/tiny-0/judge/judge")
    facts = read_facts(folder)
    merged = not (folder / "adapter_config.json").is_file()
    if merged:
        facts["model"] |= {"name": str(folder), "gguf_file": ""}
    knobs = ModelKnobs(**(facts["model"] | changes))
    lm = load_base(knobs)
    adapter = None if merged else "judge"
    if adapter:
        lm.load_adapter(adapter, folder)
    sampler = make_sampler(lm, dataclasses.replace(knobs, slots=64))
    words = prompts.BY_NAME[facts["prompts"]]
    context = JudgeContext(lm, sampler, words, facts["max_new_tokens"], facts["model"]["micro_tokens"])
    return LoadedJudge(GenerativeJudge(context, adapter, folder.name))


def read_facts(folder: Path) -> dict:
    """What stands in minisw.json; for a judge from elsewhere, what its adapter says and our English prompts."""
    plain = dataclasses.asdict(ModelKnobs(dtype="auto", autocast="", sampling_dtype=""))
    if (folder / FACTS).is_file():
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            return {**facts, "model": plain | facts["model"]}
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{folder / FACTS} is damaged: save the judge again, or remove it to use our defaults") from None
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return {"model": plain | {"name": config["base_model_name_or_path"]}, "prompts": "english", "max_new_tokens": 512}
    except OSError:
        if (folder / "config.json").is_file():
            return {"model": plain | {"name": str(folder)}, "prompts": "english", "max_new_tokens": 512}
        raise ValueError(f"no judge in {folder}: it holds neither adapter_config.json nor config.json") from None


def write_card(folder: Path, recipe: Recipe, what: str) -> None:
    """minisw.json and a model card (README.md) beside a saved adapter."""
    model = {f.name: getattr(recipe.model, f.name) for f in dataclasses.fields(ModelKnobs) if f.name != "device"}
    facts = {"model": model, "prompts": recipe.problems.prompts, "max_new_tokens": recipe.judge.max_new_tokens}
    write_json(folder / FACTS, facts)
    base = "the model embedded in minisw" if recipe.model.name == EMBEDDED else recipe.model.name
    head = "" if recipe.model.name == EMBEDDED else f"base_model: {recipe.model.name}\n"
    knobs = recipe.judge
    write_text(
        folder / "README.md",
        f"""---
library_name: peft
{head}tags: [minisw, stepwise-judge, process-reward-model, lora]
---
# minisw: {what}

A LoRA adapter (rank {recipe.lora.rank}, alpha {recipe.lora.alpha}) on {base}, made by minisw, which reproduces
*StepWiser: stepwise generative judges* (arXiv 2508.19229) on one machine.

- Problems: {recipe.problems.source}.
- Labels: {recipe.annotate.source}, rule {recipe.annotate.rule}, M = {recipe.annotate.branches}.
- Training: at most {knobs.labels} labels a pass, {knobs.passes} passes; then
  {knobs.steps} GRPO steps of {knobs.prompts} × {knobs.group}.
- Preset {recipe.preset}, seed {recipe.seed}; every knob and every figure stands in the run folder's recipe.json and claims.json.
- Labels come from rollouts and are noisy; it was taught on short solutions of one kind of problem. A step that it passes is
  not proven.

```python
from minisw import load_judge

judge = load_judge("THIS FOLDER")
for j in judge.judge("Tom has 3 pens and buys 4. How many has he?", ["3+4=7.", "The answer is \\\\boxed{{7}}."]):
    print(j.verdict, j.p_positive, j.analysis)
```
""",
    )


def merge(path: str | Path, out: Path, **changes: object) -> None:
    """Write the judge as one model of its own, the adapter added into the weights, loadable by AutoModelForCausalLM.

    Raises ValueError for a judge in 4 bits, whose weights merging would round, and for a folder that is not empty.
    """
    folder = Path(path)
    facts = read_facts(folder)
    facts["model"] |= changes
    if facts["model"].get("four_bit"):
        raise ValueError("a 4-bit base cannot be merged without rounding: give --no-four-bit to merge into full weights")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: give --merge a new folder")
    lm = load_base(ModelKnobs(**facts["model"]))
    lm.load_adapter("judge", folder)
    lm.model.merge_and_unload().save_pretrained(out)
    lm.tokenizer.save_pretrained(out)
    write_json(out / FACTS, facts)
