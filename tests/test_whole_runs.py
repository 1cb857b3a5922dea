"""Studies of whole runs, with scripted stages: what is made, what is read again, and what results.json holds."""

import dataclasses
import io
import json

import pytest
from rich.console import Console

import minisw.study as STUDY_PACKAGE
from minisw.cli import parse
from minisw.recipe import Recipe
from minisw.study import STUDIES, whole_runs
from minisw.study.base import Contrast, over_seeds, with_knobs
from minisw.study.whole_runs import RunStudy

CLAIM = Contrast("c", "x is large", "x", "y", "us", 0.5)


def contrasts(tables):
    values = {row["seed"]: row["x"] for row in tables.get("numbers", []) if row["arm"] == "b"}
    return [over_seeds(CLAIM, "accuracy", values)] if values else []


@pytest.fixture
def scripted(monkeypatch):
    """A study of two arms whose stages are only noted: (study, calls)."""
    calls = []
    monkeypatch.setattr(whole_runs, "run_stage", lambda run, name: calls.append((run.folder.name, name)))

    def measure(run, arm):
        assert run.recipe.judge.kl == 0.25
        calls.append((run.folder.name, arm))
        return {"numbers": [{"x": run.recipe.seed + (10 if arm == "b" else 0)}], **({"others": [{"z": 1}]} if arm == "a" else {})}

    return RunStudy("s", "S", ("a", "b"), with_knobs("judge", kl=0.25), measure, contrasts), calls


def run(study, folder, seeds=2, only=(), seed=9):
    console = Console(file=io.StringIO(), width=200)
    study.run(dataclasses.replace(Recipe(), seed=seed), folder, seeds, console, only)
    return json.loads((folder / "results.json").read_text(encoding="utf-8")), console.file.getvalue()


STAGES = ("segment", "annotate", "judges")


def test_every_seed_has_a_run_with_judges_and_a_finished_arm_is_read(scripted, tmp_path):
    study, calls = scripted
    found, printed = run(study, tmp_path / "s")
    assert calls == [(f"run-{seed}", name) for seed in (9, 10) for name in (*STAGES, "a", "b")]
    assert found["study"] == "s" and found["title"] == "S"
    assert found["numbers"] == [{"seed": s, "arm": arm, "x": s + more} for s in (9, 10) for arm, more in (("a", 0), ("b", 10))]
    assert found["others"] == [{"seed": s, "arm": "a", "z": 1} for s in (9, 10)]
    (contrast,) = found["contrasts"]
    assert (contrast["seeds"], contrast["each"], contrast["measured"]) == ([9, 10], [19, 20], 19.5)
    assert contrast["interval"] == pytest.approx([19.5 - 12.706 * 0.5, 19.5 + 12.706 * 0.5], abs=1e-3)
    assert "s: b, seed 10" in printed and "`c`" in printed  # progress, and the tables
    calls.clear()
    assert run(study, tmp_path / "s")[0] == found and calls == []
    again = {"a": {"numbers": []}}
    (tmp_path / "s" / "run-9" / "arms.json").write_text(json.dumps(again))
    assert run(study, tmp_path / "s")[0]["numbers"][0] == {"seed": 9, "arm": "b", "x": 19}
    assert calls == [("run-9", name) for name in (*STAGES, "b")]


def test_some_arms_alone(scripted, tmp_path):
    study, calls = scripted
    found, _ = run(study, tmp_path / "s", 1, ["b"])
    assert [name for _, name in calls] == [*STAGES, "b"] and [row["arm"] for row in found["numbers"]] == ["b"]
    found, _ = run(study, tmp_path / "s", 1, ["a"])
    assert [row["arm"] for row in found["numbers"]] == ["a", "b"]  # in the order of the study
    with pytest.raises(ValueError, match="unknown arm 'zzz' of study s: choose from a, b"):
        run(study, tmp_path / "s", 1, ["a", "zzz"])


def test_an_arm_that_finished_before_a_failure_is_kept(scripted, tmp_path):
    study, calls = scripted

    def fails(run, arm):
        if arm == "b":
            raise ValueError("no policy")
        return study.measure(run, arm)

    with pytest.raises(ValueError, match="no policy"):
        run(dataclasses.replace(study, measure=fails), tmp_path / "s", 1)
    calls.clear()
    run(study, tmp_path / "s", 1)  # the folder is free again
    assert calls == [("run-9", name) for name in (*STAGES, "b")]


def test_a_recipe_that_cannot_work_is_refused_before_anything_is_made(scripted, tmp_path):
    study, calls = scripted
    with pytest.raises(ValueError, match="--judge.kl is -1"):
        run(dataclasses.replace(study, change=with_knobs("judge", kl=-1.0)), tmp_path / "s")
    assert not calls and not (tmp_path / "s").exists()


def test_seeds_are_in_the_order_of_numbers(scripted, tmp_path):
    study, _ = scripted
    assert [row["seed"] for row in run(study, tmp_path / "s", 2)[0]["others"]] == [9, 10]


@pytest.mark.parametrize("study", [s for s in STUDIES.values() if isinstance(s, RunStudy)], ids=lambda s: s.name)
def test_whole_runs_are_studies_of_the_command(study):
    assert f"--study {study.name}" in STUDY_PACKAGE.__doc__ and parse(["--study", study.name]).study == study.name
    assert len(set(study.arms)) == len(study.arms) and study.contrasts({}) == []
