"""The row of one judge of a study's arm: what is trained, judged, counted and measured, with scripted judges."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from minisw.engine.usage import Usage
from minisw.evaluate.metrics import sampled, score
from minisw.judges.generative import GenerativeJudge
from minisw.judges.registry import Entry
from minisw.recipe import EvaluateKnobs, ModelKnobs, Recipe
from minisw.records import BenchItem, Judgment
from minisw.study import base as study
from minisw.study.base import Arm, Study

LABELS = (1, -1, 0, 2, -1)
ITEMS = [BenchItem(f"t-{i}", f"Q{i}?", ("a", "b", "c"), label, label < 0) for i, label in enumerate(LABELS)]
CURVE = [{"step": n, "reward": n / 10, "entropy": 1.0, "habits/redo": 0.5, "loss": 9.0} for n in (1, 2)]
RECIPE = Recipe(seed=3, evaluate=EvaluateKnobs(resamples=30, samples=2))


class Writes(GenerativeJudge):
    """A judge that writes; it is never asked, because `judge_items` and `sample_items` are scripted."""

    def __init__(self):
        self.name = "writes"


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """`scene(judge, metrics)`: the row of a judge whose training returns `metrics` (None: it has no training).

    Greedy verdicts are wrong about the last step of the first and of the fourth solution; of the two votes only the first is
    right.
    """
    run = SimpleNamespace(folder=tmp_path, lm=object(), seed=3, recipe=RECIPE, judge_context="the context")
    run.task = SimpleNamespace(reply_measures=lambda: {"habits/redo": len})
    run.seeds, run.events, usages = [], [], iter([Usage(10, 5, 7), Usage(10, 3, 0)])

    @contextlib.contextmanager
    def counted(lm):
        assert lm is run.lm
        yield next(usages)

    def greedy(asked_run, name, judge, items):
        run.events.append(("judge", name, judge.name))
        return [
            [Judgment(s.label != (n in (0, 3) and at == 2), "why", 0.5, tokens=n + at) for at, s in enumerate(i.steps())]
            for n, i in enumerate(items)
        ]

    def votes(asked_run, name, judge, items, samples):
        assert samples == 2 and items == [study.up_to_error(item) for item in ITEMS]
        run.events.append(("sample", name, judge.name))
        return [[Judgment(s.label, votes=(s.label, not s.label)) for s in item.steps()] for item in items]

    def noted(real, items, judgments, seed, resamples):
        run.seeds.append((seed, resamples))
        return real(items, judgments, seed, resamples)

    for name in ("score", "sampled"):
        monkeypatch.setattr(study, name, functools.partial(noted, getattr(study, name)))
    monkeypatch.setattr(study, "counted", counted)
    monkeypatch.setattr(study, "judge_items", greedy)
    monkeypatch.setattr(study, "sample_items", votes)
    monkeypatch.setattr(study, "judge_trainer", lambda asked_run: "the trainer")

    def row(judge, metrics=None, recipe=RECIPE):
        def train(trainer):
            run.events.append(("train", trainer))
            return metrics

        def build(context, found):
            assert (context, found) == ("the context", metrics or {})
            return judge

        entry = Entry("mine", "Mine", "ours", build, None if metrics is None else train)
        monkeypatch.setattr(study.registry, "by_id", lambda name: {"mine": entry}[name])
        run.recipe = recipe
        return study.measure(run, "mine", ITEMS), run

    return row


def test_a_row_has_the_figures_of_the_greedy_and_of_the_sampled_verdicts(scene):
    row, run = scene(Writes(), {"labels": 40, "validation_labels": 6, "curve": CURVE})
    assert run.events == [("train", "the trainer"), ("judge", "mine", "writes"), ("sample", "mine-sampled", "writes")]
    assert run.seeds == [(3, 30), (3, 30)]  # the run's
    greedy = study.judge_items(run, "mine", Writes(), ITEMS)
    figures = score(ITEMS, greedy, 3, 30)
    assert {key: row[key] for key in study.FIGURES} == {key: figures[key] for key in study.FIGURES}
    beginnings = [study.up_to_error(item) for item in ITEMS]
    two = sampled(beginnings, study.sample_items(run, "mine", Writes(), beginnings, 2), 3, 30)
    assert (row["f1_sampled"], row["interval_sampled"]) == (two["f1_sampled"], two["interval_sampled"])
    assert row["f1_majority"] == two["f1_majority"] == 1 > row["f1_sampled"] > 0 and 0 < row["f1"] < 1
    assert (row["judge"], row["labels"], row["validation_labels"], row["habits/redo"]) == ("mine", 40, 6, 3)
    assert row["training"] == Usage(10, 5, 7).to_json() and row["judging"] == Usage(10, 3, 0).to_json()
    names = ("step", "reward", "entropy", "completions/mean_length", "verdicts/positive", "habits/redo")
    assert row["curve"] == [{name: step.get(name) for name in names} for step in CURVE]


def test_a_judge_of_scores_is_not_sampled_and_only_grpo_has_a_curve(scene):
    row, run = scene(SimpleNamespace(name="scores"), {"labels": 4, "curve": [{"step": 1, "loss": 2.0}]})
    assert [event[0] for event in run.events] == ["train", "judge"]
    assert not {"f1_sampled", "f1_majority", "habits/redo", "curve"} & row.keys() and row["validation_labels"] == 0


def test_a_judge_without_training_has_no_labels(scene):
    row, run = scene(Writes())
    assert [event[0] for event in run.events] == ["judge", "sample"] and (row["labels"], row["validation_labels"]) == (0, 0)


def test_a_recipe_without_samples_has_greedy_figures_only(scene):
    recipe = dataclasses.replace(RECIPE, evaluate=dataclasses.replace(RECIPE.evaluate, samples=0))
    row, run = scene(Writes(), {}, recipe)
    assert [event[0] for event in run.events] == ["train", "judge"] and "f1_sampled" not in row and "f1" in row


def test_what_an_interrupted_training_left_is_removed(scene, tmp_path):
    (tmp_path / "judges" / "mine").mkdir(parents=True)
    for name in ("mine.checkpoint", "mine-replies.json", "other.checkpoint", "mine_too-replies.json"):
        (tmp_path / "judges" / name).write_text("old")
    scene(Writes(), {})
    assert {path.name for path in (tmp_path / "judges").iterdir()} == {"other.checkpoint", "mine_too-replies.json"}


@pytest.mark.parametrize(("name", "gguf", "made"), [("own", "", True), ("own", "own.gguf", False), ("elsewhere", "", False)])
def test_a_model_that_the_study_made_is_taken_from_its_folder(name, gguf, made, tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(study, "measure", lambda run, judge, items: names.append(run.recipe.model.name) or {"judge": judge})
    monkeypatch.setattr(study, "run_stage", lambda run, stage: None)
    (tmp_path / "own").mkdir()
    arm = Arm("a", "A", lambda recipe: dataclasses.replace(recipe, model=ModelKnobs(name=name, gguf_file=gguf)))
    quiet = Console(file=io.StringIO())
    rows = study.run_arm(Study("s", "S", (arm,), judges=("mine",)), arm, RECIPE, tmp_path / "a-3", None, [], quiet)
    assert names == [str(tmp_path / "own") if made else name]
    assert rows == [{"arm": "a", "title": "A", "seed": 3, "judge": "mine"}]
