"""The main command: its stages in order, its plan, and one line for whatever the user can fix."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from minisw import pipeline, reproduce
from minisw.cli import STAGES as EVERY_STAGE
from minisw.cli import parse
from minisw.recipe import Recipe
from minisw.records import write_json
from minisw.study import base as study
from minisw.study.ablations import ABLATIONS, MOST_BRANCHES

STAGES = pipeline.stages_of(Recipe())  # of a run that selects no data


@pytest.fixture
def scripted(monkeypatch) -> list[str]:
    """Stages that only note their names, and no check of memory."""
    calls: list[str] = []
    functions = {name: lambda run, name=name: calls.append(name) for name in EVERY_STAGE}
    monkeypatch.setattr(pipeline, "STAGE_FUNCTIONS", functions)
    monkeypatch.setattr(reproduce.preflight, "check", lambda run: calls.append("preflight"))
    return calls


def start(folder: Path, *arguments: str) -> None:
    reproduce.run(parse(["--out", str(folder), *arguments]))


def test_stages_are_run_in_order_and_once(scripted, tmp_path, capsys):
    assert tuple(pipeline.STAGE_FUNCTIONS) == EVERY_STAGE
    start(tmp_path / "r")
    assert scripted == ["preflight", *STAGES]
    printed = capsys.readouterr().err
    assert [line for line in printed.splitlines() if line.startswith(tuple("123456"))] == [
        f"{number}/6 {name}" for number, name in enumerate(STAGES, 1)
    ]
    scripted.clear()
    start(tmp_path / "r")
    assert scripted == [] and "1/6 segment  finished before" in capsys.readouterr().err


def test_data_selection_is_a_stage_only_if_it_has_problems(scripted, tmp_path, capsys):
    assert [name for name in EVERY_STAGE if name not in STAGES] == ["select"]
    start(tmp_path / "r", "--select.problems", "5")
    assert scripted == ["preflight", *EVERY_STAGE] and EVERY_STAGE[-2:] == ("select", "report")
    printed = capsys.readouterr().err
    assert "6/7 select" in printed and "7/7 report" in printed
    start(tmp_path / "r", "--select.problems", "5", "--select.samples", "3", "--dry-run")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  6 select")]
    assert "1 × 5 other training problems × 3 samples; SFT on what stepwiser, discriminative choose" in line


def test_data_selection_needs_judges_but_no_search(scripted, tmp_path):
    flags = ("--select.problems", "5", "--stage")
    for name in ("segment", "annotate"):
        start(tmp_path / "r", *flags, name)
    with pytest.raises(ValueError, match="stage select needs the results of judges: run --stage judges first"):
        start(tmp_path / "r", *flags, "select")
    start(tmp_path / "r", *flags, "judges")
    start(tmp_path / "r", *flags, "select")
    assert [call for call in scripted if call != "preflight"] == ["segment", "annotate", "judges", "select"]
    scripted.clear()
    start(tmp_path / "new", "--stage", "report")  # it shows whatever there is
    assert scripted[-1] == "report"
    with pytest.raises(ValueError, match="--stage select has no problems to select on: give --select.problems"):
        parse(["--stage", "select"])


def test_every_stage_has_its_own_function():
    for name, function in pipeline.STAGE_FUNCTIONS.items():
        assert function.__module__ == f"minisw.stages.{name}"


def test_a_failed_stage_is_run_again_and_those_before_it_are_not(scripted, tmp_path, monkeypatch):
    def fails(run):
        raise ValueError("no labels")

    with monkeypatch.context() as patch:
        patch.setitem(pipeline.STAGE_FUNCTIONS, "judges", fails)
        with pytest.raises(ValueError, match="no labels"):
            start(tmp_path / "r")
    assert scripted == ["preflight", "segment", "annotate"]
    scripted.clear()
    start(tmp_path / "r")
    assert scripted == ["preflight", "judges", "evaluate", "search", "report"]


@pytest.mark.slow
def test_one_stage_needs_those_before_it(scripted, tmp_path):
    with pytest.raises(ValueError, match="stage judges needs the results of segment: run --stage segment first"):
        start(tmp_path / "r", "--stage", "judges")
    start(tmp_path / "r", "--stage", "segment")
    with pytest.raises(ValueError, match="stage evaluate needs the results of annotate"):
        start(tmp_path / "r", "--stage", "evaluate")
    start(tmp_path / "r", "--stage", "report")  # it shows whatever there is
    assert [call for call in scripted if call != "preflight"] == ["segment", "report"]


def test_the_end_prints_claims_and_the_report_shows_its_own_time(scripted, tmp_path, capsys, monkeypatch):
    def report(run):
        scripted.append("report")
        write_json(run.folder / "claims.json", [])

    monkeypatch.setattr(reproduce, "claims_table", lambda claims: f"table of {claims}")
    monkeypatch.setitem(pipeline.STAGE_FUNCTIONS, "report", report)
    monkeypatch.setattr(reproduce.report, "run_stage", report)
    start(tmp_path / "r")
    printed = capsys.readouterr().err
    assert scripted[-2:] == ["report", "report"] and "table of []" in printed and "report.html" in printed


@pytest.mark.parametrize("preset", ["tiny", "smoke", "gpu-12gb", "paper"])
def test_the_plan_names_every_stage_and_its_numbers(preset, capsys, tmp_path):
    start(tmp_path / "r", "--preset", preset, "--seed", "5", "--dry-run", "--judge.steps", "77", "--search.problems", "66")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [[str(i), name] for i, name in enumerate(STAGES, 1)]
    assert f"preset {preset}, seed 5" in lines[0] and str(tmp_path / "r") in lines[0]
    assert "77 steps" in lines[3] and "66 test problems" in lines[5]
    assert ("ProcessBench" in lines[4]) is (preset != "tiny")
    assert not (tmp_path / "r").exists()


def test_the_plan_follows_the_knobs(capsys, tmp_path):
    start(tmp_path / "r", "--dry-run", "--annotate.source", "prm800k", "--judge.judges", "stepwiser", "--problems.hard", "9")
    shown = capsys.readouterr().out
    assert "from prm800k" in shown and "rollouts" not in shown and "for stepwiser;" in shown and "9 harder" in shown
    start(tmp_path / "r", "--dry-run", "--stage", "search")
    shown = capsys.readouterr().out
    assert "  5 search" in shown and "segment" not in shown and "for stepwiser" not in shown and "harder" not in shown


@pytest.mark.parametrize("judges", [("stepwiser",), ("stepwiser", "few_shot"), ("discriminative", "stepwiser")])
def test_the_plan_names_the_judges_that_are_trained(judges, capsys, tmp_path):
    start(tmp_path / "r", "--dry-run", "--judge.judges", *judges)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  3 judges")]
    assert f" passes for {', '.join(judges)}; classifier: " in line


def test_a_study_is_run_by_the_main_command(tmp_path, capsys, monkeypatch):
    """Every arm with every seed from --seed on, in the folder --out; the knobs of the command line hold in all of them."""
    made, labels = [], []

    def make_labels(recipe, folder, console):
        labels.append((folder.name, recipe.seed, recipe.annotate.branches, recipe.judge.steps))
        for stage in ("segment", "annotate"):
            (folder / stage).mkdir(parents=True)
        (folder / "usage.json").write_text("{}")
        return []

    def measure(run, judge, items):
        made.append((run.folder.name, run.recipe.seed, judge))
        return {"judge": judge, "f1": 0.5 + run.recipe.judge.kl, "steps": run.recipe.judge.steps}

    monkeypatch.setattr(study, "make_labels", make_labels)
    monkeypatch.setattr(study, "measure", measure)
    monkeypatch.setattr(study, "run_stage", lambda run, stage: made.append((run.folder.name, run.recipe.seed, stage)))
    monkeypatch.setattr(study, "STUDY_TABLES", {"one": lambda folders: f"table of {folders[0].name}", "none": lambda folders: ""})
    folder = tmp_path / "s"
    flags = ["--study", "ablations", "--seeds", "2", "--seed", "3", "--judge.steps", "7", "--out", str(folder)]
    monkeypatch.setattr(sys, "argv", ["reproduce", *flags])
    reproduce.main()
    assert labels == [(f"labels-{seed}", seed, MOST_BRANCHES, 7) for seed in (3, 4)]
    expected = []
    for seed, arm in itertools.product((3, 4), ABLATIONS.arms):
        steps = ("segment", "annotate", "stepwiser") if arm.id == "blank_lines" else ("stepwiser",)
        expected += [(f"{arm.id}-{seed}", seed, step) for step in steps]
    assert made == expected
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert found["study"] == "ablations" and {row["steps"] for row in found["rows"]} == {7}
    assert [(row["arm"], row["seed"]) for row in found["rows"]] == list(
        (arm.id, seed) for seed, arm in itertools.product((3, 4), ABLATIONS.arms)
    )
    assert {c["id"] for c in found["contrasts"]} == {c.id for c in ABLATIONS.contrasts}
    assert all(c["seeds"] == [3, 4] for c in found["contrasts"])
    printed = capsys.readouterr()
    assert "table of s" in printed.err and "labels not balanced, seed 4" in printed.err and not printed.out
    made.clear()
    labels.clear()
    reproduce.main()  # the same command again reads every arm
    assert made == labels == [] and json.loads((folder / "results.json").read_text(encoding="utf-8")) == found


def command_line(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "minisw.reproduce", *arguments], capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_a_mistake_is_exit_status_2_and_one_line():
    done = command_line("--preset", "huge")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("minisw: ") and not done.stdout


@pytest.mark.slow
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_to_write(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    done = command_line("--out", str(tmp_path / "locked" / "r"))
    assert done.returncode == 2 and "no permission to write" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), 2, "the disk is full"),
        (ValueError("stage judges needs labels"), 2, "minisw: stage judges needs labels"),
        (KeyboardInterrupt(), 130, "minisw: interrupted; rerun the same command to resume"),
    ],
)
def test_errors_end_in_one_line(error, status, message, monkeypatch, capsys):
    def fails(command):
        raise error

    monkeypatch.setattr(reproduce, "run", fails)
    monkeypatch.setattr(sys, "argv", ["reproduce"])
    with pytest.raises(SystemExit) as stop:
        reproduce.main()
    printed = capsys.readouterr().err
    assert stop.value.code == status and message in printed and printed.count("\n") == 1


def test_a_mistake_of_the_program_keeps_its_traceback(monkeypatch):
    def fails(command):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(reproduce, "run", fails)
    monkeypatch.setattr(sys, "argv", ["reproduce"])
    with pytest.raises(RuntimeError, match="shape mismatch"):
        reproduce.main()
