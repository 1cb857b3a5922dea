"""Every kind of judge: built from its adapter and settings, saved, loaded again, and served with the same judgments."""

import dataclasses
from pathlib import Path

import pytest

from minisw.engine.loading import load_base
from minisw.engine.sampler import make_sampler
from minisw.judges import kinds, saved
from minisw.judges.base import JudgeContext
from minisw.judges.heads import new_head
from minisw.judges.kinds import KINDS, WHAT, WITH_HEAD, WRITES, Settings, build
from minisw.judges.registry import REGISTRY
from minisw.judges.saved import load_judge
from minisw.prompts import ARITHMETIC
from minisw.recipe import JudgeKnobs, Lora, ModelKnobs, Recipe
from minisw.records import LabelledStep

RECIPE = Recipe(
    lora=Lora(4, 8), model=ModelKnobs(autocast="", sampling_dtype="", slots=8), judge=JudgeKnobs(max_new_tokens=12)
)
PROBLEM, STEPS = "Tom has 12 apples.", ["12+1=13.", "13+2=16."]


def items() -> list[LabelledStep]:
    texts = [step + "\n\n" for step in STEPS]
    return [LabelledStep("", PROBLEM, tuple(texts[:i]), text, True) for i, text in enumerate(texts)]


def test_the_registry_names_only_kinds_that_can_be_served():
    assert {entry.kind for entry in REGISTRY} == set(KINDS) == set(WHAT)
    assert set(WRITES) | {"discriminative", *WITH_HEAD} == set(KINDS)
    own = {entry.id: entry.kind for entry in REGISTRY if entry.kind != "generative"}
    assert own == {"genprm_code": "genprm"} | {kind: kind for kind in KINDS if kind != "generative"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_takes_its_settings(kind, new_lm, context_of):
    lm = new_lm("judge")
    lm.heads["judge"] = new_head(lm, 0)
    judge = build(kind, context_of(lm), "judge", Settings("mine", 0.25, "judge"))
    assert judge.adapter == "judge" and getattr(judge, "threshold", 0.25) == (0.5 if kind == "thinkprm" else 0.25)
    if kind in WRITES:
        assert judge.name == "mine"
        several = build(kind, context_of(lm), "judge", Settings("mine", None, "judge", 0.7, 3))
        assert (several.temperature, several.votes) == (0.7, 3) and (judge.temperature, judge.votes) == (0.0, 1)
    else:
        with pytest.raises(ValueError, match="is a classifier, which always gives the same answer: leave votes at 1"):
            build(kind, context_of(lm), "judge", Settings("mine", 0.25, "judge", 0.7, 3))
    if kind in WITH_HEAD:
        assert judge.head is lm.heads["judge"]
    if kind in ("discriminative", "scalar_head"):
        assert judge.request == "judge"


def test_an_unknown_kind_is_refused(tiny_lm, context_of):
    with pytest.raises(ValueError, match="unknown kind of judge 'referee': choose one of generative, genprm"):
        build("referee", context_of(tiny_lm), None, Settings())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_judge_judges_as_it_did(kind, tmp_path: Path, monkeypatch):
    """The embedded base with a fresh adapter, greedy: the loaded judge says what the judge in memory says."""
    lm = load_base(RECIPE.model)
    lm.new_adapter("mine", RECIPE.lora, 3)
    if kind in WITH_HEAD:
        lm.heads["mine"] = new_head(lm, 1)
    monkeypatch.setattr(kinds.GenPRMJudge.__init__, "__defaults__", ("GenPRM", 0.0, 1, lambda codes: []))
    threshold = None if kind in WRITES else 0.25
    folder = tmp_path / "mine"
    lm.save_adapter("mine", folder)
    saved.write_card(folder, RECIPE, "title", {"threshold": threshold, "prompt": "judge"}, kind)
    context = JudgeContext(lm, make_sampler(lm, RECIPE.model), ARITHMETIC, 12, RECIPE.model.micro_tokens)
    judge = build(kind, context, "mine", Settings("mine", threshold, "judge"))
    options = {"probabilities": True} if isinstance(judge, kinds.GenerativeJudge) else {}
    expected = judge.judge(items(), 0, **options)
    loaded = load_judge(folder)
    assert loaded.judge(PROBLEM, STEPS) == expected and len(expected) == 2
    assert saved.read_facts(folder).kind == kind
    card = (folder / "README.md").read_text()
    assert WHAT[kind].split("{")[0][:40] in card and ("0.25" in card) is (threshold is not None)
    if kind in WITH_HEAD:
        with pytest.raises(ValueError, match=f"kind {kind} has a head, which a merged model would lose: use its adapter"):
            saved.merge(folder, tmp_path / "merged")
    assert dataclasses.replace(saved.read_facts(folder), model=RECIPE.model).threshold == threshold
