"""The ladder: which recipe each rung runs, that finished runs are read, and what results.json and its table hold."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from minisw import pictures
from minisw.cli import check
from minisw.evaluate.stats import mean, slope
from minisw.pictures.ladder import ladder_alt, ladder_figure
from minisw.presets import PRESETS
from minisw.recipe import Recipe
from minisw.study import ladder
from minisw.study.ladder import RUNGS, LadderStudy, rung_recipe

COMMITTED = Path(__file__).resolve().parents[1] / "data" / "results" / "tiny"


def test_a_rung_takes_the_users_model_and_nothing_else(tmp_path: Path) -> None:
    own = dataclasses.replace(Recipe().model, name="some/model", gguf_file="a.gguf", slots=7)
    recipe = dataclasses.replace(Recipe(), model=own, problems=dataclasses.replace(Recipe().problems, data_dir=tmp_path, test=3))
    assert RUNGS == ("rung-1", "rung-2", "rung-3", "rung-4", "rung-5")
    for rung in RUNGS:
        made = rung_recipe(rung, recipe, 4)
        check(made)
        assert (made.seed, made.preset) == (4, rung) and made.problems.data_dir == tmp_path
        assert (made.model.name, made.model.gguf_file) == ("some/model", "a.gguf")
        assert made.model.slots == PRESETS[rung].model.slots != 7
        assert dataclasses.replace(made, seed=0, model=PRESETS[rung].model, problems=PRESETS[rung].problems) == PRESETS[rung]
        assert rung_recipe(rung, Recipe(), 0) == PRESETS[rung]  # the embedded model is no chat model


def test_knobs_that_the_rungs_would_not_take_are_refused(tmp_path: Path) -> None:
    model = dataclasses.replace(Recipe().model, name="some/model", device="cpu")
    problems = dataclasses.replace(Recipe().problems, data_dir=tmp_path)
    ladder.check_knobs(dataclasses.replace(Recipe(), seed=7, model=model, problems=problems))
    for changed in (
        dataclasses.replace(Recipe(), judge=dataclasses.replace(Recipe().judge, steps=3)),
        dataclasses.replace(Recipe(), model=dataclasses.replace(model, slots=3)),
        dataclasses.replace(Recipe(), problems=dataclasses.replace(problems, test=3)),
    ):
        with pytest.raises(ValueError, match="for other knobs run one rung with --preset"):
            LadderStudy().run(changed, tmp_path / "out", 1, Console(quiet=True), ("rung-1",))
    assert not (tmp_path / "out").exists()


def test_rungs_get_harder_and_have_the_same_judges() -> None:
    steps = [PRESETS[rung].problems.max_steps for rung in RUNGS]
    assert [PRESETS[rung].problems.source for rung in RUNGS] == ["equations", "stories", "stories", "gsm8k", "gsm8k"]
    assert steps[1] < steps[2] and steps[3] > 0 == steps[4]
    assert len({PRESETS[rung].judge.judges for rung in RUNGS}) == 1
    for judge in (PRESETS[rung].judge for rung in RUNGS):  # RS-FT samples about as many replies as GRPO
        assert {"discriminative", "rejection_sampled", "stepwiser", "stepwiser_from_rs"} <= set(judge.judges)
        assert judge.labels * judge.rs_samples >= judge.steps * judge.prompts * judge.group * 0.8


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list:
    """Stages are only noted; the report stage leaves the committed results of the embedded model with that seed."""
    calls = []

    def run_stage(run, name: str) -> None:
        calls.append((run.folder.name, name))
        if name == "report":
            for part in ("claims.json", "judges/metrics.json", "evaluate/metrics.json"):
                (run.folder / part).parent.mkdir(exist_ok=True)
                shutil.copy(COMMITTED / f"seed-{run.seed}" / part, run.folder / part)

    monkeypatch.setattr(ladder, "run_stage", run_stage)
    return calls


def climb(folder: Path, seeds: int = 2, only: tuple[str, ...] = ("rung-1", "rung-2")) -> tuple[dict, str]:
    console = Console(file=io.StringIO(), width=200)
    LadderStudy().run(Recipe(), folder, seeds, console, only)
    return json.loads((folder / "results.json").read_text(encoding="utf-8")), console.file.getvalue()


def test_each_rung_and_seed_is_a_run_without_search(scripted: list, tmp_path: Path) -> None:
    climb(tmp_path)
    policy = ("segment", "annotate", "judges", "evaluate", "report")
    expected = [(f"rung-1-{seed}", name) for seed in (0, 1) for name in policy[1:]]  # equations need no policy
    assert scripted == expected + [(f"rung-2-{seed}", name) for seed in (0, 1) for name in policy]
    scripted.clear()
    again = climb(tmp_path, seeds=3, only=("rung-1",))[0]
    assert {folder for folder, _ in scripted} == {"rung-1-2"}  # finished runs are read
    assert {(row["rung"], row["seed"]) for row in again["ladder"]} == {("rung-1", s) for s in (0, 1, 2)} | {
        ("rung-2", s) for s in (0, 1)
    }
    with pytest.raises(ValueError, match="unknown arm 'rung-9' of study ladder"):
        climb(tmp_path, only=("rung-9",))


def test_results_have_every_judge_with_the_trend_of_its_reward(scripted: list, tmp_path: Path) -> None:
    found, printed = climb(tmp_path)
    for row in found["ladder"]:
        folder = COMMITTED / f"seed-{row['seed']}"
        curve = json.loads((folder / "judges" / "metrics.json").read_text())
        judge = {r["id"]: r for r in json.loads((folder / "evaluate" / "metrics.json").read_text())["rows"]}[row["id"]]
        assert row["f1"] == judge["f1"] and row["interval"] == judge["interval"]
        assert ("trend" in row) == row["id"].startswith("stepwiser")
        if "trend" in row:
            rewards = [step["reward"] for step in curve[row["id"]]["curve"]]
            assert (row["first_reward"], row["last_reward"]) == (rewards[0], rewards[-1])
            assert row["trend_interval"][0] < row["trend"] < row["trend_interval"][1]
    claims = json.loads((COMMITTED / "seed-1" / "claims.json").read_text())
    measured = {claim["id"]: claim["measured"] for claim in claims if claim["measured"] is not None}
    assert {c["id"]: c["measured"] for c in found["claims"] if (c["rung"], c["seed"]) == ("rung-2", 1)} == measured
    assert "rung-2, seed 1" in printed and "`grpo-beats-untrained`" in printed and "segment-keeps" not in printed


def test_the_slope_is_that_of_the_line_and_its_interval_covers_it() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    for n in (3, 5, 12, 40):
        values = 0.3 + 0.05 * np.arange(n) + rng.normal(0, 0.1, n)
        trend, (low, high) = slope(list(values))
        assert trend == pytest.approx(np.polyfit(np.arange(n), values, 1)[0])
        residuals = values - mean(values) - trend * (np.arange(n) - (n - 1) / 2)
        error = np.sqrt((residuals**2).sum() / (n - 2) / ((np.arange(n) - (n - 1) / 2) ** 2).sum())
        quantile = {3: 12.706, 5: 3.182, 12: 2.228, 40: 2.145}[n]
        assert (low + high) / 2 == pytest.approx(trend) and (high - low) / 2 == pytest.approx(quantile * error)
    assert slope([1.0, 3.0]) == (2.0, None) and slope([1.0]) == (0.0, None)
    assert slope([2.0, 4.0, 6.0]) == (2.0, (2.0, 2.0))


def ladder_row(rung: str, judge: str, f1: float, seed: int = 0) -> dict:
    return {"rung": rung, "seed": seed, "id": judge, "name": judge.title(), "f1": f1, "interval": [f1 - 0.1, f1 + 0.05]}


ROWS = [
    *(ladder_row("rung-1", judge, f1) for judge, f1 in (("always_positive", 0.0), ("untrained", 0.3), ("stepwiser", 0.8))),
    *(ladder_row("rung-1", judge, f1, 1) for judge, f1 in (("untrained", 0.5), ("stepwiser", 0.9))),
    *(ladder_row("rung-3", judge, f1) for judge, f1 in (("untrained", 0.2), ("stepwiser", 0.3), ("random", 0.1))),
]


def test_the_picture_has_a_point_for_every_judge_rung_and_seed_at_its_f1() -> None:
    figure = ladder_figure(ROWS)
    (axis,) = figure.axes
    points = sorted((round(float(y), 3), float(x)) for c in axis.containers for x, y in zip(*c[0].get_data(), strict=True))
    assert [y for y, _ in points] == sorted(row["f1"] for row in ROWS if row["id"] != "always_positive")
    assert len({x for _, x in points}) == len(points)  # none hides another
    places = {round(x) for _, x in points}
    assert places == {0, 1} and [text.get_text() for text in axis.get_xticklabels()] == ["rung 1", "rung 3"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["Untrained", "Stepwiser", "Random"]
    looks = {(c[0].get_color(), c[0].get_marker()) for c in axis.containers}
    assert len(looks) == 3
    assert axis.get_title() == "F1 before and after GRPO: rung 1: 0.40 to 0.85, rung 3: 0.20 to 0.30"
    assert "rung-3: untrained 0.20, stepwiser 0.30, random 0.10" in ladder_alt(ROWS) and "always" not in ladder_alt(ROWS)


def test_the_command_draws_the_ladder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"ladder": ROWS}))
    pictures.main([str(tmp_path)])
    assert (tmp_path / "ladder.svg").exists() and (tmp_path / "ladder.png").exists()
    assert capsys.readouterr().out.strip() == ladder_alt(ROWS)
