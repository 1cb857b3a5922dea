"""Studies, with scripted trainings: arms, what is read again, contrasts by seed, and the bases of the habits study."""

import dataclasses
import io
import json

import pytest
from rich.console import Console
from test_resume import TOY

from minisw import study
from minisw.cli import parse
from minisw.recipe import Recipe
from minisw.study import ABLATIONS, HABITS, Arm, Contrast, Study, with_knobs

QUIET = Console(file=io.StringIO())
RECIPE = Recipe()
CHANGED = {  # knobs in which an arm differs from the recipe
    "base": set(), "unbalanced": {"judge.balanced"}, "no_analysis": {"judge.analysis"},
    "blank_lines": {"segment.teacher", "policy.max_chunks"}, "updates": {"judge.updates"},
    "no_clip_higher": {"judge.updates", "judge.clip_high"}, "kl": {"judge.kl"}, "rel_effective": {"annotate.rule"},
    "rel_ratio": {"annotate.rule"}, "m1": {"annotate.branches"}, "m4": {"annotate.branches"}, "m16": {"annotate.branches"},
    "group4": {"judge.group", "judge.prompts"}, "group16": {"judge.group", "judge.prompts"},
}  # fmt: skip


def differing(a: Recipe, b: Recipe) -> set[str]:
    pairs = [(part, dataclasses.asdict(a)[part], dataclasses.asdict(b)[part]) for part in dataclasses.asdict(a)]
    return {f"{part}.{k}" for part, x, y in pairs for k in (x if isinstance(x, dict) else ()) if x[k] != y[k]}


@pytest.mark.parametrize("arm", ABLATIONS.arms, ids=lambda arm: arm.id)
def test_an_arm_differs_only_in_its_change(arm):
    changed = arm.change(RECIPE)
    assert differing(RECIPE, changed) == CHANGED[arm.id]
    assert changed.judge.prompts * changed.judge.group == RECIPE.judge.prompts * RECIPE.judge.group
    assert arm.own_labels is (arm.id == "blank_lines")
    assert changed.annotate.branches <= ABLATIONS.labels(RECIPE).annotate.branches  # there are completions enough


def test_contrasts_name_arms_and_clip_higher_is_the_only_change_of_its_own():
    by_id = {arm.id: arm.change(RECIPE) for arm in ABLATIONS.arms}
    assert len(by_id) == len(ABLATIONS.arms) == len(CHANGED)
    assert all({c.a, c.b} <= by_id.keys() for c in ABLATIONS.contrasts)
    assert differing(by_id["updates"], by_id["no_clip_higher"]) == {"judge.clip_high"}


@pytest.mark.parametrize("redo", study.REDO_SHARES)
def test_habit_shares_sum_to_one_and_the_others_keep_their_ratio(redo):
    shares = study.habit_shares(redo)
    assert sum(shares.values()) == pytest.approx(1) and shares["redo"] == redo
    assert shares["glance"] / shares["equation"] == pytest.approx(55 / 27)


def test_contrasts_are_differences_by_seed_with_a_t_interval():
    both = Contrast("c", "a beats b", "a", "b", "us")
    scripted = Study("s", "S", (Arm("a", "A"), Arm("b", "B")), (both, Contrast("none", "", "a", "zzz", "")))
    f1 = {("a", 0): 0.5, ("b", 0): 0.4, ("a", 1): 0.7, ("b", 1): 0.4, ("a", 2): 0.9}  # seed 2 has only one arm
    rows = [{"arm": arm, "seed": seed, "f1": value, "f1_sampled": value / 2} for (arm, seed), value in f1.items()]
    found = study.results(scripted, rows)
    assert found["rows"] == rows and [(c["id"], c["figure"]) for c in found["contrasts"]] == [("c", "f1"), ("c", "f1_sampled")]
    greedy, sampled = found["contrasts"]
    assert greedy["seeds"] == [0, 1] and greedy["each"] == pytest.approx([0.1, 0.3]) and greedy["measured"] == pytest.approx(0.2)
    assert greedy["interval"] == pytest.approx((0.2 - 12.706 * 0.1, 0.2 + 12.706 * 0.1), abs=1e-3)
    assert sampled["each"] == pytest.approx([0.05, 0.15])
    assert study.results(scripted, rows[:2])["contrasts"][0]["interval"] is None


def test_a_finished_arm_is_read_and_results_have_all_rows(tmp_path, monkeypatch):
    measured, labels = [], []

    def make_labels(recipe, folder, console):
        labels.append((recipe.seed, recipe.annotate.branches))
        (folder / "annotate").mkdir(parents=True, exist_ok=True)
        (folder / "annotate" / "train.jsonl").write_text(str(recipe.seed))
        return [recipe.seed]

    def measure(run, judge, items):
        assert (run.folder / "annotate" / "train.jsonl").read_text() == str(run.recipe.seed) and items == [run.recipe.seed]
        measured.append((run.folder.name, judge, run.recipe.judge.kl))
        return {"judge": judge, "f1": run.recipe.judge.kl + run.recipe.seed}

    monkeypatch.setattr(study, "make_labels", make_labels)
    monkeypatch.setattr(study, "measure", measure)
    arms = (Arm("base", "B"), Arm("kl", "K", with_knobs("judge", kl=0.25)))
    contrast = Contrast("kl-helps", "", "kl", "base", "")
    scripted = Study("s", "S", arms, (contrast,), ("untrained", "stepwiser"), with_knobs("annotate", branches=16))
    recipe = dataclasses.replace(RECIPE, seed=4)
    for _ in range(2):
        study.run_study(scripted, recipe, tmp_path, 2, QUIET)
    expected = [(f"{arm}-{seed}", judge, kl) for seed in (4, 5) for arm, kl in (("base", 0), ("kl", 0.25))
                for judge in ("untrained", "stepwiser")]  # fmt: skip
    assert measured == expected and labels == [(4, 16), (5, 16)] * 2  # the second run has measured nothing
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [(f"{row['arm']}-{row['seed']}", row["judge"]) for row in found["rows"]] == [(a, j) for a, j, _ in expected]
    assert found["contrasts"][0]["each"] == [0.25, 0.25] and found["contrasts"][0]["seeds"] == [4, 5]


def test_bases_that_are_finished_are_kept(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(study.pretraining, "first_stream_model", lambda: tmp_path)
    monkeypatch.setattr(study.pretraining, "finished", lambda out: out.name == "redo-0.06" or out in [k.out for k in made])
    monkeypatch.setattr(study.pretraining, "train", made.append)
    for _ in range(2):
        study.make_bases(tmp_path, QUIET)
    assert [knobs.out.name for knobs in made] == ["redo-0", "redo-0.02", "redo-0.18", "redo-0.4"]
    assert all((k.start, k.second_tokens) == (tmp_path, study.HABIT_TOKENS) for k in made)
    assert [k.redo for k in made] == [0.0, 0.02, 0.18, 0.4] and made[0].glance == pytest.approx(0.55 / 0.82)
    names = [arm.change(RECIPE).model.name for arm in HABITS.arms]
    assert [k.out.name for k in made] == [name for name in names if name != "redo-0.06"]


@pytest.mark.slow
def test_a_toy_study_makes_labels_and_measures_each_judge(tmp_path, monkeypatch):
    """Labels and items once; then a row for each judge, whose figures are shares, and a curve for GRPO alone."""
    command = parse(TOY)
    recipe = Recipe(**{f.name: getattr(command, f.name) for f in dataclasses.fields(Recipe)})
    items = study.make_labels(recipe, tmp_path / "labels-0", QUIET)
    assert 0 < len(items) <= recipe.evaluate.solutions and all(-1 <= item.label < len(item.chunks) for item in items)
    assert (tmp_path / "labels-0" / "annotate" / "train.jsonl").exists() and not (tmp_path / "labels-0" / "judges").exists()
    with monkeypatch.context() as patch:  # again: everything is read
        patch.setitem(study.run_stage.__globals__, "STAGE_FUNCTIONS", {})
        assert study.make_labels(recipe, tmp_path / "labels-0", QUIET) == items
    scripted = Study("s", "S", (Arm("base", "B"),), judges=("untrained", "rejection_sampled", "stepwiser"))
    arguments = (scripted, scripted.arms[0], recipe, tmp_path / "base-0", tmp_path / "labels-0", items, QUIET)
    rows = study.run_arm(*arguments)
    assert [row["judge"] for row in rows] == list(scripted.judges)
    for row in rows:
        assert (row["arm"], row["seed"]) == ("base", recipe.seed) and set(study.FIGURES) <= row.keys()
        shares = [key for key in row if key.startswith("habits/")]
        assert shares and all(0 <= row[key] <= 1 for key in (*shares, "f1", "f1_sampled", "f1_majority", "unparseable"))
        assert (row["labels"] == 0) is (row["judge"] == "untrained") and row["labels"] <= recipe.judge.labels
        assert ("curve" in row) is (row["judge"] == "stepwiser")
        for name in (row["judge"], f"{row['judge']}-sampled"):
            judged = (tmp_path / "base-0" / "evaluate" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
            kept = items if name == row["judge"] else [study.up_to_error(item) for item in items]
            assert len(judged) == sum(len(item.chunks) for item in kept)
    curve = rows[-1]["curve"]
    assert len(curve) == recipe.judge.steps and {"step", "reward", "entropy", *shares} <= curve[0].keys()
    monkeypatch.setattr(study, "measure", None)
    assert study.run_arm(*arguments) == json.loads(json.dumps(rows))  # read
