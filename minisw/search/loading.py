"""The policy and the judge of the command, from the folders in which a run saved them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from minisw.engine.loading import load_base
from minisw.engine.sampler import make_sampler
from minisw.judges.base import Judge
from minisw.judges.saved import SLOTS, load_judge, read_facts
from minisw.policy import POLICY, Policy
from minisw.prompts import BY_NAME
from minisw.recipe import ModelKnobs, Recipe


def load_search(policy: Path, judge: Path, votes: int = 1) -> tuple[Policy, Judge]:
    """The policy in RUN/segment/policy and a saved judge, on one model in memory if both have the same base.

    With `votes` > 1, a generative judge samples so many verdicts for each step. Raises ValueError, in one line, for a folder
    that holds no such thing.
    """
    recipe = _recipe_of(policy)
    loaded = load_judge(judge)
    built = loaded.build(votes)
    lm, sampler = loaded.context.lm, loaded.context.sampler
    # a merged judge is a model of its own, and its adapter cannot be switched off
    if loaded.adapter is None or _base(read_facts(judge).model) != _base(recipe.model):
        lm = load_base(recipe.model)
        sampler = make_sampler(lm, dataclasses.replace(recipe.model, slots=SLOTS))
    lm.load_adapter(POLICY, policy)
    return Policy(lm, sampler, BY_NAME[recipe.problems.prompts], recipe.policy), built


def _base(model: ModelKnobs) -> ModelKnobs:
    """What decides the model. Judges are saved without their device."""
    return dataclasses.replace(model, device="auto")


def _recipe_of(folder: Path) -> Recipe:
    """The recipe of the run that made a policy."""
    if not (folder / "adapter_config.json").is_file():
        raise ValueError(f"no policy in {folder}: it has no adapter_config.json; give a run's segment/policy")
    path = folder.resolve().parents[1] / "recipe.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing: the policy must lie in its run folder, as RUN/segment/policy")
    return Recipe.from_json(path)
