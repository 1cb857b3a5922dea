"""The command line and the run folder: one-line errors, nothing lost."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from minisw import reproduce
from minisw.presets import PRESETS
from minisw.recipe import Recipe
from minisw.records import Judgment, write_json
from minisw.report import claims, tables
from minisw.runs import Run


def test_presets_and_knobs_are_read():
    command = reproduce.parse(["--preset", "smoke", "--seed", "7", "--judge.steps", "5", "--judge.no-tenth", "--dry-run"])
    assert (
        command.judge.steps == 5 and command.seed == 7 and command.dry_run and command.judge.group == PRESETS["smoke"].judge.group
    )
    assert reproduce.parse([]).judge == Recipe().judge


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "huge"], "unknown preset 'huge'"),
        (["--judge.stepz", "3"], "did you mean --judge.steps"),
        (["--stage", "cook"], "unknown stage"),
        (["--judge.steps", "many"], "cannot read the command line"),
        (["--preset"], "unknown preset"),
        (["--judge.format-samples", "0"], "--judge.format-samples is 0: it must be above 0"),
        (["--model.slots", "-1"], "--model.slots is -1"),
        (["--classifier.lrs", "1e-3", "0"], "--classifier.lrs is"),
        (["--judge.group", "1"], "--judge.group is 1: .* at least 2"),
        (["--model.device", "gpu"], "cannot read the command line"),
        (["--problems.source", "gsm8k"], "give --problems.prompts english"),
    ],
)
def test_a_bad_command_line_is_one_line(arguments, words):
    with pytest.raises(ValueError, match=words) as caught:
        reproduce.parse(arguments)
    assert "\n" not in str(caught.value)


def command_line(*arguments: str, cwd=None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "minisw.reproduce", *arguments], capture_output=True, text=True, cwd=cwd, timeout=120
    )


def test_exit_status_2_and_one_line(tmp_path):
    done = command_line("--preset", "huge")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("minisw: ")


def test_dry_run_writes_nothing(tmp_path):
    done = command_line("--dry-run", "--out", str(tmp_path / "run"))
    assert done.returncode == 0 and not (tmp_path / "run").exists()
    assert all(name in done.stdout for name in reproduce.STAGES)


def test_every_preset_and_every_zero_that_means_none_is_allowed():
    for preset in ("tiny", "smoke"):
        reproduce.parse(["--preset", preset, "--seed", "0", "--problems.hard", "0", "--judge.kl", "0", "--judge.no-tenth"])


def test_a_stage_before_its_turn_is_refused(tmp_path):
    with pytest.raises(ValueError, match="stage judge needs what segment makes"):
        reproduce.run(reproduce.parse(["--stage", "judge", "--out", str(tmp_path / "r")]))


def test_a_folder_of_another_recipe_is_refused_and_left_alone(tmp_path):
    Run(Recipe(), tmp_path / "r")._lock.close()
    (tmp_path / "r" / "segment").mkdir()
    (tmp_path / "r" / "segment" / "base-test.jsonl").write_text("")
    before = (tmp_path / "r" / "recipe.json").read_bytes()
    other = dataclasses.replace(Recipe(), judge=dataclasses.replace(Recipe().judge, steps=1))
    with pytest.raises(ValueError, match="judge.steps is .* there and 1 here"):
        Run(other, tmp_path / "r")
    assert (tmp_path / "r" / "recipe.json").read_bytes() == before


def test_a_folder_in_which_nothing_was_made_takes_another_recipe(tmp_path):
    wrong = dataclasses.replace(Recipe(), model=dataclasses.replace(Recipe().model, name="no/such"))
    first = Run(wrong, tmp_path / "r")
    with pytest.raises(ValueError, match="another process"):
        Run(Recipe(), tmp_path / "r")
    write_json(tmp_path / "r" / "run.json", first.facts)
    first._lock.close()
    again = Run(Recipe(), tmp_path / "r")
    assert json.loads((tmp_path / "r" / "recipe.json").read_text())["model"]["name"] == "embedded"
    assert again.facts["recipe"]["model"]["name"] == "embedded"
    again._lock.close()


def test_folders_that_hold_something_else_are_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years")
    with pytest.raises(ValueError, match="holds no run"):
        Run(Recipe(), tmp_path / "full")
    with pytest.raises(ValueError, match="is a file"):
        Run(Recipe(), tmp_path / "full" / "thesis.tex")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "recipe.json").write_text("{")
    with pytest.raises(ValueError, match="cannot read"):
        Run(Recipe(), tmp_path / "broken")
    assert (tmp_path / "full" / "thesis.tex").read_text() == "years"


def test_two_processes_do_not_share_a_folder(tmp_path):
    first = Run(Recipe(), tmp_path / "r")
    with pytest.raises(ValueError, match="another process"):
        Run(Recipe(), tmp_path / "r")
    first._lock.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_right_to_write(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    done = command_line("--out", str(tmp_path / "locked" / "r"))
    assert done.returncode == 2 and "no right to write" in done.stderr and done.stderr.count("\n") == 1


def test_a_full_disk_is_one_line(monkeypatch, capsys):
    def full(command):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(reproduce, "run", full)
    monkeypatch.setattr(sys, "argv", ["reproduce"])
    with pytest.raises(SystemExit) as stop:
        reproduce.main()
    assert stop.value.code == 2 and "disk is full" in capsys.readouterr().err


def test_records_are_made_once_and_half_made_ones_again(tmp_path):
    run = Run(Recipe(), tmp_path / "r")
    made = []

    def make(tick):
        made.append(1)
        if len(made) == 1:
            raise KeyboardInterrupt
        return [Judgment(True)]

    path = tmp_path / "r" / "x" / "j.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run.records(path, Judgment, "x", 1, make)
    assert run.records(path, Judgment, "x", 1, make) == run.records(path, Judgment, "x", 1, make) == [Judgment(True)]
    assert len(made) == 2


def test_a_claim_holds_only_where_its_whole_interval_does():
    assert tables.holds("search-beats-sampling", (0.01, 0.2)) and not tables.holds("search-beats-sampling", (-0.01, 0.2))
    assert tables.holds("segment-fewer-chunks", (0.5, 0.7)) and not tables.holds("segment-fewer-chunks", (0.9, 1.1))
    keeps = [tables.holds("segment-keeps-accuracy", interval) for interval in ((-0.05, 0.03), (-0.16, 0.02), (-0.2, -0.1))]
    assert keeps == [True, None, False]  # a wide interval settles nothing
    assert tables.holds("tenth-of-labels", None) is None


def test_claims_over_seeds(tmp_path):
    for seed, value in enumerate((0.1, 0.2, 0.3)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        one = claims.make_claim("search-beats-sampling", value, (value - 0.1, value + 0.1))
        (folder / "tables.json").write_text(json.dumps([dataclasses.asdict(one)]))
    (row,) = tables.over_seeds([tmp_path / str(i) for i in range(3)])
    assert row["measured"] == pytest.approx(0.2)
    assert row["interval"] == pytest.approx((0.2 - 4.303 * 0.1 / 3**0.5, 0.2 + 4.303 * 0.1 / 3**0.5))
    assert row["items_interval"] == pytest.approx((0.2 - 0.1 / 3**0.5, 0.2 + 0.1 / 3**0.5))
    assert row["holds"] is False  # t with two degrees of freedom is wide
    with pytest.raises(ValueError, match="no readable tables.json"):
        tables.over_seeds([tmp_path])


def test_row_tables_show_the_mean_and_each_run(tmp_path):
    for seed, accuracy in enumerate((0.4, 0.6)):
        folder = tmp_path / str(seed) / "search"
        folder.mkdir(parents=True)
        row = {"method": "plain sampling", "accuracy": accuracy, "policy_tokens": 100 + seed, "judge_tokens": 0}
        (folder / "metrics.json").write_text(json.dumps({"rows": [row]}))
    (table,) = tables.row_tables([tmp_path / "0", tmp_path / "1"])
    head, rule, row = table.splitlines()
    assert row == "| plain sampling | 0.50 (0.40 0.60) | 100 (100 101) | 0 (0 0) |"
    assert head.count("|") == rule.count("|") == row.count("|")
    assert tables.row_tables([tmp_path]) == []


def test_one_run_shows_intervals_and_parts(tmp_path):
    names = ("f1", "f1_by_answer", "accuracy_error", "accuracy_correct", "balanced_accuracy", "unparseable", "tokens_per_step")
    figures = dict.fromkeys(names, 0.5) | {"interval": [0.4, 0.6], "interval_by_answer": [0.3, 0.7]}
    row = {"name": "judge", "labels_used": 9, **figures, "by_part": {"gsm8k": figures | {"f1": 0.55}}}
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate" / "metrics.json").write_text(json.dumps({"rows": [row]}))
    whole, part = tables.row_tables([tmp_path])
    assert "| judge | 9 | 0.50 [0.40, 0.60] | 0.50 [0.30, 0.70] | 0.50 |" in whole
    assert part.startswith("| gsm8k | F1 |") and "| judge | 0.55 [0.40, 0.60] |" in part


def test_an_unfinished_run_shows_its_rows_without_claims(tmp_path, monkeypatch, capsys):
    (tmp_path / "annotate").mkdir()
    row = {"rule": "abs_q", "m": 4, "balanced_agreement": 0.9}
    row |= {"exact_positive_called_positive": 0.95, "exact_negative_called_negative": 0.85}
    (tmp_path / "annotate" / "metrics.json").write_text(json.dumps({"agreement": [row]}))
    monkeypatch.setattr("sys.argv", ["claims", str(tmp_path)])
    tables.main()
    shown = capsys.readouterr().out
    assert "| abs_q | 4 | 0.90 | 0.95 | 0.85 |" in shown and "claim" not in shown
    monkeypatch.setattr("sys.argv", ["claims", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit):
        tables.main()
    assert "no readable tables.json" in capsys.readouterr().err


def test_an_empty_run_has_all_claims_untested(tmp_path):
    found = claims.collect_claims(Run(Recipe(), tmp_path / "r"))
    assert [c.id for c in found] == list(claims.CLAIMS) and all(c.holds is None and c.measured is None for c in found)
