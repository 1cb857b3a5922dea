"""Studies, with scripted trainings: arms, what is read again, contrasts by seed, and the bases of the habits study."""

import dataclasses
import io
import json
import re

import pytest
from rich.console import Console
from test_resume import TOY

import minisw.study as STUDY_PACKAGE
from minisw.cli import parse
from minisw.judges import registry
from minisw.recipe import Recipe
from minisw.report.study_tables import study_table
from minisw.study import ABLATIONS, COMPONENTS, DATA_EFFICIENCY, HABITS, STUDIES, habits
from minisw.study import base as study
from minisw.study import data_efficiency as data
from minisw.study.base import OWN, Arm, Contrast, Study, several, with_knobs

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
    assert (arm.labels == OWN) is (arm.id == "blank_lines") and arm.labels in (OWN, "")
    assert changed.annotate.branches <= ABLATIONS.labels[""](RECIPE).annotate.branches  # there are completions enough


def test_contrasts_name_arms_and_clip_higher_is_the_only_change_of_its_own():
    by_id = {arm.id: arm.change(RECIPE) for arm in ABLATIONS.arms}
    assert len(by_id) == len(ABLATIONS.arms) == len(CHANGED)
    sides = {c.id: (c.a, c.b) for c in ABLATIONS.contrasts}
    assert sides == {
        "balancing-helps": ("base/stepwiser", "unbalanced/stepwiser"),
        "clip-higher-helps": ("updates/stepwiser", "no_clip_higher/stepwiser"),
        "analysis-helps": ("base/stepwiser", "no_analysis/stepwiser"),
        "chunks-help-under-rl": ("base/stepwiser", "blank_lines/stepwiser"),
    }
    assert differing(by_id["updates"], by_id["no_clip_higher"]) == {"judge.clip_high"}


@pytest.mark.parametrize("redo", habits.REDO_SHARES)
def test_habit_shares_sum_to_one_and_the_others_keep_their_ratio(redo):
    shares = habits.habit_shares(redo)
    assert sum(shares.values()) == pytest.approx(1) and shares["redo"] == redo
    assert shares["glance"] / shares["equation"] == pytest.approx(55 / 27)


def test_contrasts_are_differences_by_seed_with_a_t_interval():
    both = Contrast("c", "a beats b", "a/j", "b/k", "us")
    scripted = Study("s", "S", (Arm("a", "A"), Arm("b", "B")), (both, Contrast("none", "", "a/j", "b/zzz", "")))
    f1 = {("a", 0): 0.5, ("b", 0): 0.4, ("a", 1): 0.7, ("b", 1): 0.4, ("a", 2): 0.9}  # seed 2 has only one arm
    rows = [
        {"arm": arm, "judge": "j" if arm == "a" else "k", "seed": seed, "f1": value, "f1_sampled": value / 2}
        for (arm, seed), value in f1.items()
    ]
    rows.append({"arm": "b", "judge": "j", "seed": 0, "f1": 9.0})  # another judge of the arm has no say
    found = study.results(scripted, rows)
    assert found["rows"] == rows and [(c["id"], c["figure"]) for c in found["contrasts"]] == [("c", "f1"), ("c", "f1_sampled")]
    greedy, sampled = found["contrasts"]
    assert greedy["seeds"] == [0, 1] and greedy["each"] == pytest.approx([0.1, 0.3]) and greedy["measured"] == pytest.approx(0.2)
    assert greedy["interval"] == pytest.approx((0.2 - 12.706 * 0.1, 0.2 + 12.706 * 0.1), abs=1e-3)
    assert sampled["each"] == pytest.approx([0.05, 0.15])
    assert study.results(scripted, rows[:2])["contrasts"][0]["interval"] is None


@pytest.fixture
def scripted(tmp_path, monkeypatch):
    """A study of three arms and two sets of labels whose labels and figures are written by a script: (study, its calls)."""
    calls = {"labels": [], "measured": []}

    def make_labels(recipe, folder, console, segment_from=None):
        calls["labels"].append((folder.name, recipe.annotate.branches, segment_from and segment_from.name))
        for stage in ("segment", "annotate"):
            (folder / stage).mkdir(parents=True, exist_ok=True)
            (folder / stage / "data").write_text(folder.name)
        (folder / "usage.json").write_text(json.dumps({"flops": recipe.annotate.branches}))
        return [recipe.seed]

    def measure(run, judge, items):
        source = (run.folder / "annotate" / "data").read_text() if (run.folder / "annotate" / "data").exists() else None
        if source:
            assert (run.folder / "segment" / "data").read_text() == source
        assert items == [run.recipe.seed]
        calls["measured"].append((run.folder.name, judge, run.recipe.judge.kl, source))
        return {"judge": judge, "f1": run.recipe.judge.kl + run.recipe.seed}

    monkeypatch.setattr(study, "make_labels", make_labels)
    monkeypatch.setattr(study, "measure", measure)
    monkeypatch.setattr(study, "run_stage", lambda run, name: calls["labels"].append((run.folder.name, name)))
    arms = (
        Arm("base", "B"),
        Arm("kl", "K", with_knobs("judge", kl=0.25), labels="more"),
        Arm("own", "O", with_knobs("judge", kl=0.5), labels=OWN, judges=("stepwiser",)),
    )
    labels = {"": with_knobs("annotate", branches=16), "more": with_knobs("annotate", branches=4)}
    contrast = Contrast("kl-helps", "", "kl/stepwiser", "base/stepwiser", "")
    return Study("s", "S", arms, (contrast,), ("untrained", "stepwiser"), labels), calls


BOTH = ("untrained", "stepwiser")


def test_every_arm_gets_its_labels_and_a_finished_judge_is_read(scripted, tmp_path):
    """Labels of the first set are made once a seed, others and an arm's own when they are needed; a rerun measures nothing."""
    a_study, calls = scripted
    recipe = dataclasses.replace(RECIPE, seed=4)
    study.run_study(a_study, recipe, tmp_path, 2, QUIET)
    assert calls["measured"] == [
        row
        for seed in (4, 5)
        for row in (
            *((f"base-{seed}", judge, 0.0, f"labels-{seed}") for judge in BOTH),
            *((f"kl-{seed}", judge, 0.25, f"labels-more-{seed}") for judge in BOTH),
            (f"own-{seed}", "stepwiser", 0.5, None),
        )
    ]
    assert calls["labels"] == [
        entry
        for seed in (4, 5)
        for entry in (
            (f"labels-{seed}", 16, None),
            (f"labels-more-{seed}", 4, f"labels-{seed}"),
            (f"own-{seed}", "segment"),
            (f"own-{seed}", "annotate"),
        )
    ]
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    names = [(row["seed"], row["arm"], row["judge"]) for row in found["rows"]]
    pairs = [*((arm, judge) for arm in ("base", "kl") for judge in BOTH), ("own", "stepwiser")]
    assert names == [(seed, *pair) for seed in (4, 5) for pair in pairs]
    cost = {"base": {"flops": 16}, "kl": {"flops": 4}, "own": None}  # of the labels that the arm was given
    assert all(row.get("labelling") == cost[row["arm"]] for row in found["rows"])
    assert found["contrasts"][0]["each"] == [0.25, 0.25] and found["contrasts"][0]["seeds"] == [4, 5]
    before = {key: list(value) for key, value in calls.items()}
    study.run_study(a_study, recipe, tmp_path, 2, QUIET)
    assert calls == before  # neither labels nor judges are made again
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == found


def test_an_arm_resumes_with_the_judge_that_was_not_finished(scripted, tmp_path):
    a_study, calls = scripted
    study.run_study(a_study, RECIPE, tmp_path, 1, QUIET)
    path = tmp_path / "kl-0" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:1]))
    calls["measured"].clear()
    study.run_study(a_study, RECIPE, tmp_path, 1, QUIET)
    assert [(name, judge) for name, judge, *_ in calls["measured"]] == [("kl-0", "stepwiser")]


def test_some_arms_alone(scripted, tmp_path):
    """Only these arms are run; what others have measured before stays in the results; an unknown arm is refused."""
    a_study, calls = scripted
    study.run_study(a_study, RECIPE, tmp_path, 1, QUIET, ["own"])
    assert [name for name, *_ in calls["measured"]] == ["own-0"]
    study.run_study(a_study, RECIPE, tmp_path, 1, QUIET, ["kl"])
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [(row["arm"], row["judge"]) for row in rows] == [("kl", "untrained"), ("kl", "stepwiser"), ("own", "stepwiser")]
    with pytest.raises(ValueError, match="unknown arm 'zzz' of study s: choose from base, kl, own"):
        study.run_study(a_study, RECIPE, tmp_path, 1, QUIET, ["kl", "zzz"])


def test_a_budget_is_the_number_of_labels_and_bounds_what_is_sampled():
    """The budgets are shares of the pool; SFT is given as many replies at every budget; no judge is trained for too short."""
    assert data.BUDGETS == (24, 80, 240, 800, 2400, 8000) and data.POOL == 8000
    for count in data.BUDGETS:
        changed = data.budget(count)(RECIPE)
        judge, classifier = changed.judge, changed.classifier
        assert judge.labels == count
        assert judge.rs_samples == max(2, 9600 // count) and judge.rs_keep == max(1, 2400 // count) <= judge.rs_samples
        assert len(classifier.lrs) == classifier.max_lrs == (2 if count == 8000 else 3)
        assert 1e-3 in classifier.lrs and classifier.prompts == ("judge",)
        assert classifier.max_epochs * count >= 100 * classifier.batch and classifier.patience * count >= 30 * classifier.batch
        assert 1 <= classifier.patience <= classifier.max_epochs
        assert judge.steps >= RECIPE.judge.steps and judge.steps * judge.prompts >= count  # every label is seen
    longest = data.budget(24)(with_knobs("judge", steps=999)(with_knobs("classifier", max_epochs=888)(RECIPE)))
    assert (longest.judge.steps, longest.classifier.max_epochs) == (999, 888)  # longer trainings are not cut


def test_pools_have_room_for_their_labels():
    """A wrong solution has one negative, three in four of the chosen solutions are wrong, and half of four samples are."""
    pools = {name: change(RECIPE).annotate for name, change in DATA_EFFICIENCY.labels.items()}
    assert {name: knobs.source for name, knobs in pools.items()} == {"exact": "exact", "mc": "rollouts"}
    for name, negatives in (("exact", 4000), ("mc", 400)):
        knobs = pools[name]
        assert knobs.max_solutions * 0.75 >= negatives and knobs.problems * min(knobs.keep, 0.5 * knobs.samples) >= negatives
    assert pools["mc"].max_solutions * 0.75 < 4000
    for arm in DATA_EFFICIENCY.arms:
        assert arm.labels == ("mc" if arm.id.startswith("mc") else "exact")
    assert [arm.id for arm in DATA_EFFICIENCY.arms] == ["0", *map(str, data.BUDGETS), "mc800"]


@pytest.mark.parametrize("a_study", [s for s in STUDIES.values() if isinstance(s, Study)], ids=lambda s: s.name)
def test_every_contrast_names_an_arm_and_a_judge_of_it(a_study):
    sides = {f"{arm.id}/{judge}" for arm in a_study.arms for judge in study.judges_of(a_study, arm)}
    assert all({c.a, c.b} <= sides and c.a != c.b for c in a_study.contrasts)
    trained = {entry.id for entry in registry.REGISTRY}
    assert f"--study {a_study.name}" in STUDY_PACKAGE.__doc__ and parse(["--study", a_study.name]).study == a_study.name
    assert {judge for arm in a_study.arms for judge in study.judges_of(a_study, arm)} <= trained
    assert {arm.labels for arm in a_study.arms} <= {*a_study.labels, OWN}


PAPER_SIDES = {  # the two sides of every claim of these studies, as (arm, judge)
    "one-percent-of-labels": (("80", "stepwiser"), ("8000", "discriminative")),
    "mc-labels-suffice-stepwiser": (("800", "stepwiser"), ("mc800", "stepwiser")),
    "mc-labels-suffice-classifier": (("800", "discriminative"), ("mc800", "discriminative")),
    "analysis-and-code": (("base", "genprm"), ("base", "genprm_analysis")),
    "analysis-beats-code": (("base", "genprm_analysis"), ("base", "genprm_code")),
    "code-beats-neither": (("base", "genprm_code"), ("base", "genprm_neither")),
}


@pytest.mark.parametrize("contrast", [*DATA_EFFICIENCY.contrasts, *COMPONENTS.contrasts], ids=lambda contrast: contrast.id)
def test_a_claim_compares_what_the_paper_compares(contrast):
    """Its figure of the paper is the difference that its source names, in the direction of the claim."""
    assert tuple(tuple(side.split("/")) for side in (contrast.a, contrast.b)) == PAPER_SIDES[contrast.id]
    if two := re.search(r"([\d.]+) − ([\d.]+)", contrast.source):
        higher, lower = map(float, two.groups())
    else:  # GenPRM's table: "both 80.5, analysis 78.8, …"
        table = {name: float(value) for name, value in re.findall(r"(\w+) (\d+\.\d)", contrast.source)}
        higher, lower = (table[side.partition("genprm_")[2] or "both"] for side in (contrast.a, contrast.b))
    assert contrast.paper == pytest.approx((higher - lower) / 100, abs=0.0051 if "read off" in contrast.source else 1e-9)


def test_studies_compare_the_judges_that_they_are_about():
    """Data efficiency: all that learn from labels, and three that use none. Components: GenPRM's parts, and ThinkPRM."""
    judges = {arm.id: set(arm.judges) for arm in DATA_EFFICIENCY.arms}
    assert judges["0"] == {"untrained", "few_shot", "self_supervised"}
    for name in ("24", "240", "2400"):
        assert judges[name] == {"stepwiser", "discriminative", "rejection_sampled", "genprm", "thinkprm", "scalar_head"}
    for name in ("80", "800", "mc800"):
        assert judges[name] == {"stepwiser", "discriminative"}
    assert judges["8000"] == {"discriminative", "rejection_sampled"}
    assert set(COMPONENTS.judges) == {"genprm", "genprm_analysis", "genprm_code", "genprm_neither", "thinkprm"}
    assert HABITS.judges == ("untrained", "rejection_sampled", "stepwiser")


def test_changes_are_applied_in_order():
    change = several(with_knobs("judge", labels=3), with_knobs("judge", labels=5), with_knobs("annotate", branches=2))
    changed = change(RECIPE)
    assert (changed.judge.labels, changed.annotate.branches, changed.judge.steps) == (5, 2, RECIPE.judge.steps)
    assert study.unchanged(RECIPE) is RECIPE


def test_bases_that_are_finished_are_kept(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(habits.pretraining, "first_stream_model", lambda: tmp_path)
    monkeypatch.setattr(habits.pretraining, "finished", lambda out: out.name == "redo-0.06" or out in [k.out for k in made])
    monkeypatch.setattr(habits.pretraining, "train", made.append)
    for _ in range(2):
        habits.make_bases(tmp_path, QUIET)
    assert [knobs.out.name for knobs in made] == ["redo-0", "redo-0.02", "redo-0.18", "redo-0.4"]
    assert all((k.start, k.second_tokens) == (tmp_path, habits.HABIT_TOKENS) for k in made)
    assert all(k.overwrite for k in made)  # what an interrupted pretraining has left
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
    used = json.loads((tmp_path / "labels-0" / "usage.json").read_text())
    assert used["forward"] > 0 and used["flops"] > 0 and used["trained"] == 0  # of annotation alone
    exact = with_knobs("annotate", source="exact")(recipe)
    with monkeypatch.context() as patch:  # the same segmentation: only its labels are made
        patch.setattr("minisw.training.policy_sft.train_sft", None)
        assert study.make_labels(exact, tmp_path / "labels-exact-0", QUIET, tmp_path / "labels-0") == items
    judges = ("untrained", "discriminative", "stepwiser", "self_supervised")
    stale, other = (tmp_path / "base-0" / "evaluate" / f"{name}.jsonl" for name in ("stepwiser-sampled", "stepwiser_tenth"))
    stale.parent.mkdir(parents=True)
    for left in (stale, other):  # judgments of a judge that was interrupted, and of one that has another name
        left.write_text("left over")
    (tmp_path / "base-0" / "recipe.json").write_text(json.dumps(recipe.to_json()))
    scripted = Study("s", "S", (Arm("base", "B"),), judges=judges)
    arguments = (scripted, scripted.arms[0], recipe, tmp_path / "base-0", tmp_path / "labels-0", items, QUIET)
    rows = study.run_arm(*arguments)
    assert [row["judge"] for row in rows] == list(scripted.judges)
    for row in rows:
        assert (row["arm"], row["seed"]) == ("base", recipe.seed) and set(study.FIGURES) <= row.keys()
        generative = row["judge"] not in ("discriminative", "self_supervised")
        shares = [key for key in row if key.startswith("habits/")]
        wanted = ("f1", "unparseable", *(("f1_sampled", "f1_majority") if generative else ()))
        assert bool(shares) is generative and all(0 <= row[key] <= 1 for key in (*shares, *wanted))
        unlabelled = row["judge"] in ("untrained", "self_supervised")  # the latter learns a head from outcomes
        assert (row["labels"] == 0) is unlabelled and row["labels"] <= recipe.judge.labels
        assert (row["training"]["trained"] == 0) is unlabelled and row["judging"]["forward"] > 0
        assert row["judging"]["trained"] == 0 and (row["validation_labels"] > 0) is not generative
        assert ("curve" in row) is (row["judge"] == "stepwiser")
        for name in (row["judge"], *([f"{row['judge']}-sampled"] if generative else [])):
            judged = (tmp_path / "base-0" / "evaluate" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
            kept = items if name == row["judge"] else [study.up_to_error(item) for item in items]
            assert len(judged) == sum(len(item.chunks) for item in kept)
    assert other.read_text() == "left over" and rows[0]["labelling"] == used
    curve = rows[2]["curve"]
    assert len(curve) == recipe.judge.steps and {"step", "reward", "entropy", "habits/redo"} <= curve[0].keys()
    monkeypatch.setattr(study, "measure", None)
    assert study.run_arm(*arguments) == json.loads(json.dumps(rows))  # read
    (tmp_path / "results.json").write_text(json.dumps(study.results(scripted, rows)))
    assert study_table([tmp_path]).count("\n") == 2 + len(judges)
