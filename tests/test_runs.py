"""Run folders: what is finished stays, what was interrupted continues with the same numbers, and reading changes nothing."""

import dataclasses
import importlib.util
import itertools
import json
import os
import sys
import types
from pathlib import Path

import pytest
from rich.console import Console

from minisw import lock, open_run, progress, runs, saved_run
from minisw.judges.discriminative import DiscriminativeJudge
from minisw.recipe import Recipe
from minisw.records import AnnotatedSolution, Answer, Judgment, Solution, Try, read_jsonl, write_json, write_jsonl
from minisw.runs import Run, split


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def run(tmp_path):
    """A run in an empty folder, closed at the end."""
    run = Run(Recipe(), tmp_path / "run", Console(quiet=True))
    yield run
    run.close()


def replaced(run: Run) -> Run:
    """The run of another process that continues in the same folder."""
    run.close()
    return Run(run.recipe, run.folder, Console(quiet=True))


# --- the folder ------------------------------------------------------------------------------------------------------------


def with_steps(steps: int) -> Recipe:
    return dataclasses.replace(Recipe(), judge=dataclasses.replace(Recipe().judge, steps=steps))


def test_a_folder_of_another_recipe_is_refused_and_left_alone(run):
    write_text_file(run.folder / "segment" / "base-test.jsonl", "")
    before = (run.folder / "recipe.json").read_bytes()
    run.close()
    with pytest.raises(ValueError, match="judge.steps is 24 there and 1 here"):
        Run(with_steps(1), run.folder)
    assert (run.folder / "recipe.json").read_bytes() == before
    Run(Recipe(), run.folder).close()  # a refused recipe leaves no lock behind


def test_a_folder_in_which_nothing_was_made_takes_another_recipe(run):
    write_json(run.folder / "run.json", run.facts)
    run.close()
    other = Run(with_steps(1), run.folder)
    assert Recipe.from_json(run.folder / "recipe.json").judge.steps == 1
    assert other.facts["recipe"]["judge"]["steps"] == 1
    other.close()


def write_text_file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_folders_that_hold_something_else_are_refused(tmp_path):
    write_text_file(tmp_path / "full" / "thesis.tex", "years")
    with pytest.raises(ValueError, match="holds no run"):
        Run(Recipe(), tmp_path / "full")
    with pytest.raises(ValueError, match="is a file"):
        Run(Recipe(), tmp_path / "full" / "thesis.tex")
    write_text_file(tmp_path / "broken" / "recipe.json", "{")
    with pytest.raises(ValueError, match="cannot read .*recipe.json"):
        Run(Recipe(), tmp_path / "broken")
    assert (tmp_path / "full" / "thesis.tex").read_text() == "years"


def test_damaged_times_are_one_line(run):
    (run.folder / "run.json").write_text("{")
    run.close()
    with pytest.raises(ValueError, match="run.json .*: delete it; only the times are lost"):
        Run(Recipe(), run.folder)


def test_two_processes_do_not_share_a_folder(run):
    with pytest.raises(ValueError, match="another process is using"):
        Run(Recipe(), run.folder)
    replaced(run).close()


def test_without_fcntl_the_folder_is_locked_by_msvcrt(tmp_path, monkeypatch):
    locked = set()

    def locking(descriptor, mode, count):
        if locked:
            raise OSError("locked")
        locked.add(descriptor)

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(locking=locking, LK_NBLCK=2))
    spec = importlib.util.spec_from_file_location("lock_on_windows", lock.__file__)
    on_windows = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(on_windows)
    first = on_windows.lock(tmp_path / ".lock")
    assert locked == {first.fileno()}
    with pytest.raises(BlockingIOError):
        on_windows.lock(tmp_path / ".lock")
    first.close()


def test_seeds_depend_on_the_use_and_on_the_seed_of_the_run():
    first, second = (runs.RunFolder(dataclasses.replace(Recipe(), seed=seed), Path("x")) for seed in (0, 1))
    seeds = [run.seed_of(use) for run in (first, second, first) for use in ("annotate", "annotate/1", "evaluate")]
    assert len(set(seeds)) == 6 and seeds[:3] == seeds[6:]


# --- records ---------------------------------------------------------------------------------------------------------------


def test_records_are_made_once_and_half_made_ones_again(run):
    calls = []

    def make(tick):
        calls.append(1)
        if len(calls) == 1:
            raise Killed
        return [Judgment(True), Judgment(None, "unreadable")]

    path = run.folder / "x" / "j.jsonl"
    with pytest.raises(Killed):
        run.records(path, Judgment, "x", 1, make)
    first = run.records(path, Judgment, "x", 1, make)
    assert first == run.records(path, Judgment, "x", 1, make) == [Judgment(True), Judgment(None, "unreadable")]
    assert len(calls) == 2


@pytest.mark.parametrize("rows", [[1] * 10, [3, 1, 4, 1, 5, 9, 2, 6], [100, 1, 1], [0, 0, 5], [7], []])
@pytest.mark.parametrize("limit", [1, 4, 10, 1000])
def test_shards_are_consecutive_and_about_equal(rows, limit):
    work = [(f"item {i}", count) for i, count in enumerate(rows)]
    shards = split(work, limit)
    assert list(itertools.chain(*shards)) == work
    assert len(shards) <= max(1, round(sum(rows) / limit)) and (all(shards) or not work)
    if set(rows) == {1}:
        assert max(map(len, shards)) - min(map(len, shards)) <= 1 and len(shards) == min(10, max(1, round(10 / limit)))


class Maker:
    """Makes an answer for each item that depends on item and seed, and dies in the shard with number `dies_in`."""

    def __init__(self, dies_in: int | None = None):
        self.calls: list[tuple[list, int]] = []
        self.dies_in = dies_in

    def __call__(self, items, seed, tick):
        if len(self.calls) == self.dies_in:
            raise Killed
        self.calls.append((items, seed))
        tick(len(items))
        return [Judgment(True, f"{item} by {seed}") for item in items]


ITEMS = [f"item {i}" for i in range(10)]


def in_shards(run: Run, make: Maker) -> list[Judgment]:
    return run.records_in_shards(run.folder / "x" / "j.jsonl", Judgment, "x", "use", [(item, 2) for item in ITEMS], make)


def test_a_small_product_is_one_shard_with_the_seed_of_its_name(run):
    make = Maker()
    records = in_shards(run, make)
    assert make.calls == [(ITEMS, run.seed_of("use"))]
    assert [r.analysis for r in records] == [f"{item} by {run.seed_of('use')}" for item in ITEMS]
    assert in_shards(run, Maker(dies_in=0)) == records  # read, not made again


def test_a_large_product_is_made_in_shards_with_seeds_of_their_own(run, monkeypatch):
    monkeypatch.setattr(runs, "SHARD_ROUNDS", 5 / run.recipe.model.slots)  # 5 of 20 rows
    make = Maker()
    records = in_shards(run, make)
    assert [item for items, _ in make.calls for item in items] == ITEMS and len(make.calls) == 4
    assert [seed for _, seed in make.calls] == [run.seed_of(use) for use in ("use", "use/1", "use/2", "use/3")]
    assert [r.analysis for r in records] == [f"{item} by {seed}" for items, seed in make.calls for item in items]
    assert [f.name for f in (run.folder / "x").iterdir()] == ["j.jsonl"]


@pytest.mark.parametrize("dies_in", [0, 1, 3])
def test_finished_shards_survive_a_kill_and_the_product_is_the_same(run, tmp_path, monkeypatch, dies_in):
    monkeypatch.setattr(runs, "SHARD_ROUNDS", 5 / run.recipe.model.slots)
    with pytest.raises(Killed):
        in_shards(run, Maker(dies_in))
    assert not (run.folder / "x" / "j.jsonl").exists()
    assert len(list((run.folder / "x" / "j.jsonl.parts").iterdir())) == dies_in
    second = replaced(run)
    make = Maker()
    records = in_shards(second, make)
    assert len(make.calls) == 4 - dies_in
    whole = Run(Recipe(), tmp_path / "whole", Console(quiet=True))
    assert records == in_shards(whole, Maker())
    assert [f.name for f in (run.folder / "x").iterdir()] == ["j.jsonl"]
    second.close()
    whole.close()


def test_parts_that_a_kill_left_behind_are_removed(run):
    records = in_shards(run, Maker())
    write_jsonl_in(run.folder / "x" / "j.jsonl.parts" / "00000.jsonl", [Judgment(False)])
    assert in_shards(run, Maker(dies_in=0)) == records
    assert [f.name for f in (run.folder / "x").iterdir()] == ["j.jsonl"]


def write_jsonl_in(path: Path, records: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(path, records)


def test_of_several_processes_the_first_writes_and_all_meet_at_the_same_points(run, monkeypatch):
    monkeypatch.setattr(runs, "SHARD_ROUNDS", 5 / run.recipe.model.slots)
    meetings: list = []
    monkeypatch.setattr(runs.distributed, "barrier", lambda: meetings.append("barrier"))
    monkeypatch.setattr(runs.distributed, "broadcast", lambda value: meetings.append(value) or value)
    records = in_shards(run, Maker())
    of_the_first, answers = list(meetings), iter([m for m in meetings if m != "barrier"])
    assert of_the_first == [False, *[False, "barrier"] * 4, "barrier"]

    # the second process gets the decision of the first one, and finds its files
    def told(_: bool) -> bool:
        meetings.append(next(answers))
        return meetings[-1]

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(runs.distributed, "broadcast", told)
    before = snapshot(run.folder)
    make = Maker()
    other = Run(run.recipe, run.folder)
    meetings.clear()
    assert in_shards(other, make) == records and len(make.calls) == 4  # it takes part in the sampling
    assert meetings == of_the_first
    assert {k: v for k, v in snapshot(run.folder).items() if v} == {k: v for k, v in before.items() if v}


def snapshot(folder: Path) -> dict[str, tuple]:
    """Every file with its time of change and contents; folders with None."""
    return {
        str(f.relative_to(folder)): (f.stat().st_mtime_ns, f.read_bytes()) if f.is_file() else None for f in folder.rglob("*")
    }


# --- trainings -------------------------------------------------------------------------------------------------------------


def fit(run: Run, value: float, calls: list):
    """A training that sets every weight of the adapter to `value`."""

    def train(checkpoint, tick):
        calls.append(checkpoint)
        checkpoint.write_text("state")
        for parameter in run.lm.adapter_parameters("judge").values():
            parameter.data.fill_(value)
        tick(1, {"loss": 0.5})
        return [{"loss": 0.5}]

    return train


def weights(run: Run) -> set[float]:
    return {x for p in run.lm.adapter_parameters("judge").values() for x in p.detach().flatten().tolist()}


def test_a_trained_adapter_is_saved_and_loaded_by_the_next_process(run, new_lm):
    run.__dict__["lm"] = new_lm()
    calls: list = []
    folder = run.folder / "judges"
    curve = run.train("judge", folder, fit(run, 0.25, calls), 1, "GRPO")
    assert curve == [{"loss": 0.5}] and weights(run) == {0.25}
    assert sorted(f.name for f in folder.iterdir()) == ["judge", "judge-curve.json"]  # no checkpoint, no scratch folder
    second = replaced(run)
    second.__dict__["lm"] = new_lm()
    assert second.train("judge", folder, fit(second, 0.5, calls), 1, "GRPO") == curve
    assert weights(second) == {0.25} and calls == [folder / "judge.checkpoint"]
    second.close()


@pytest.mark.parametrize("dies_at", ["adapter_model.safetensors", "adapter_config.json", "judge-curve.json"])
def test_a_training_killed_while_it_is_saved_ends_like_an_uninterrupted_one(run, new_lm, monkeypatch, dies_at):
    """Files are renamed into place, and the process dies before it renames `dies_at`."""
    run.__dict__["lm"] = new_lm()
    calls: list = []
    folder = run.folder / "judges"
    rename = os.replace

    def dies(source, target):
        if Path(target).name == dies_at:
            raise Killed
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", dies)
        with pytest.raises(Killed):
            run.train("judge", folder, fit(run, 0.25, calls), 1, "GRPO")
    second = replaced(run)
    second.__dict__["lm"] = new_lm()
    assert second.train("judge", folder, fit(second, 0.25, calls), 1, "GRPO") == [{"loss": 0.5}]
    assert len(calls) == 2 and weights(second) == {0.25}
    names = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
    assert names == ["judge-curve.json", "judge/adapter_config.json", "judge/adapter_model.safetensors"]
    second.close()


def test_a_checkpoint_that_a_kill_left_behind_is_removed(run, new_lm):
    run.__dict__["lm"] = new_lm()
    folder = run.folder / "judges"
    run.train("judge", folder, fit(run, 0.25, []), 1, "GRPO")
    (folder / "judge.checkpoint").write_text("state")
    run.train("judge", folder, fit(run, 0.5, []), 1, "GRPO")  # only loads
    assert not (folder / "judge.checkpoint").exists() and weights(run) == {0.25}


# --- stages, times, progress -----------------------------------------------------------------------------------------------


def test_a_stage_is_run_once_and_its_time_and_tokens_are_recorded(run, monkeypatch):
    clock = itertools.count(100, 5)
    monkeypatch.setattr(runs.time, "time", lambda: next(clock))
    run.__dict__["sampler"] = types.SimpleNamespace(tokens=7)
    with run.stage("segment") as needed:
        assert needed and not run.finished("segment")
        run.sampler.tokens += 30
        run.records(run.folder / "segment" / "a.jsonl", Judgment, "a", 1, lambda tick: [])
        noted = json.loads((run.folder / "run.json").read_text())["stages"]["segment"]
        assert noted["tokens"] == 30 and noted["seconds"] > 0 and not noted["finished"]
        run.sampler.tokens += 4
    facts = json.loads((run.folder / "run.json").read_text())
    assert facts["stages"]["segment"]["tokens"] == 34 and facts["stages"]["segment"]["finished"]
    assert facts["seconds"] == facts["stages"]["segment"]["seconds"] >= noted["seconds"] + 5
    second = replaced(run)
    with second.stage("segment") as needed:
        assert not needed
    assert second.finished("segment") and not second.finished("annotate")
    second.close()


def test_a_stage_that_fails_is_not_finished_and_its_time_counts(run):
    with pytest.raises(Killed), run.stage("annotate"):
        raise Killed
    entry = json.loads((run.folder / "run.json").read_text())["stages"]["annotate"]
    assert entry["finished"] is False and entry["seconds"] >= 0
    with run.stage("annotate") as needed:
        assert needed


def test_progress_without_a_terminal_is_a_line_a_minute(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "time", lambda: now[0])
    with progress.progress(Console(force_terminal=False), "rollouts", 300) as tick:
        for _ in range(300):
            now[0] += 1
            tick(1, {"reward": 0.25, "lr": 1e-3})
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "  rollouts: 60 of 300, 1.0/s, 4 min left, reward 0.25",
        "  rollouts: 120 of 300, 1.0/s, 3 min left, reward 0.25",
        "  rollouts: 180 of 300, 1.0/s, 120 s left, reward 0.25".replace("120 s", "2 min"),
        "  rollouts: 240 of 300, 1.0/s, 60 s left, reward 0.25",
        "  rollouts: 300 in 5 min",
    ]


def test_progress_on_a_terminal_is_a_bar(capsys):
    with progress.progress(Console(force_terminal=True, width=120), "rollouts", 3) as tick:
        tick(1)
        tick(2, {"loss": 1.5})
    assert "rollouts" in capsys.readouterr().out


def test_rates_and_times_are_readable():
    assert [progress.rate(30, 10), progress.rate(1, 10), progress.rate(0, 0)] == ["3.0/s", "10.0 s each", "1000000.0 s each"]
    assert [progress.duration(s) for s in (5, 119, 120, 7199, 7200)] == ["5 s", "119 s", "2 min", "120 min", "2.0 h"]


# --- reading a run ---------------------------------------------------------------------------------------------------------


SOLUTION = Solution("p1", ("a", "b"), "3", True)
ANNOTATED = AnnotatedSolution("p1", ("a", "b"), True, (0.5, 1.0, 1.0), ((True, False), (True, True)))
RECORDS = {
    "segment/base-test": [SOLUTION, dataclasses.replace(SOLUTION, correct=False)],
    "annotate/train-solutions": [SOLUTION],
    "annotate/train": [ANNOTATED],
    "annotate/validation": [ANNOTATED, ANNOTATED],
    "evaluate/solutions": [SOLUTION],
    "evaluate/stepwiser": [Judgment(True, "fine", 0.9)],
    "search/samples": [SOLUTION],
    "search/chunk-reset": [Answer("p1", "chunk-reset", "3", True, 10)],
    "search/chunk-reset-tries": [Try("p1", 0, 1, "a", True, "fine", True, 5, 5)],
}


@pytest.fixture
def finished(run, new_lm, monkeypatch) -> Path:
    """A folder of a run with records, metrics and three adapters; opened models are the tiny one."""
    for name, records in RECORDS.items():
        write_jsonl_in(run.folder / f"{name}.jsonl", records)
    (run.folder / "annotate" / "stepwise.jsonl").write_text('{"prompt": "p"}\n')
    lm = new_lm("policy", "stepwiser", "discriminative", noise=0.5)
    lm.save_adapter("policy", run.folder / "segment" / "policy")
    for name in ("stepwiser", "discriminative"):
        lm.save_adapter(name, run.folder / "judges" / name)
    classifier = {"threshold": 0.75, "prompt": "judge"}
    write_json(run.folder / "judges" / "metrics.json", {"stepwiser": {"labels": 8}, "discriminative": classifier})
    run.close()
    monkeypatch.setattr(saved_run, "load_base", lambda knobs: new_lm())
    return run.folder


def test_a_run_folder_is_read_without_a_write_or_a_lock(finished):
    before = snapshot(finished)
    (finished / ".lock").unlink()
    before.pop(".lock")
    saved = open_run(str(finished))
    assert saved.recipe == Recipe() and saved.metrics("judges")["stepwiser"] == {"labels": 8}
    for name, records in RECORDS.items():
        assert saved.records(name) == records == read_jsonl(finished / f"{name}.jsonl", type(records[0]))
    assert sorted(saved.lm.adapters) == ["discriminative", "policy", "stepwiser"]
    assert saved.policy().adapter == "policy" and saved.policy(None).adapter is None
    saved.judge("stepwiser")
    assert snapshot(finished) == before
    Run(Recipe(), finished).close()  # a run that is only read can be continued meanwhile


def test_adapters_of_a_read_run_have_the_weights_that_were_saved(finished, new_lm):
    saved, trained = open_run(finished), new_lm("policy", "stepwiser", "discriminative", noise=0.5)
    for name in ("policy", "stepwiser", "discriminative"):
        there = saved.lm.adapter_parameters(name)
        assert there and all((there[key] == p).all() for key, p in trained.adapter_parameters(name).items())


def test_judges_of_a_read_run_have_their_adapters_and_settings(finished):
    saved = open_run(finished)
    assert saved.judge("stepwiser").adapter == "stepwiser" and saved.judge("untrained").adapter is None
    classifier = saved.judge("discriminative")
    assert isinstance(classifier, DiscriminativeJudge) and (classifier.threshold, classifier.request) == (0.75, "judge")
    with pytest.raises(ValueError, match="no judge 'referee': choose one of always_positive, "):
        saved.judge("referee")
    with pytest.raises(ValueError, match="no adapter in .*stepwiser_tenth"):
        saved.judge("stepwiser_tenth")


def test_what_a_run_does_not_have_is_one_line(finished, tmp_path):
    saved = open_run(finished)
    for name in ("annotate/stepwise", "annotate/test", "evaluate/referee", "nothing"):
        with pytest.raises(ValueError, match=f"has no records '{name}'; it has annotate/train, annotate/train-solutions"):
            saved.records(name)
    with pytest.raises(ValueError, match="no results of stage 'evaluate'"):
        saved.metrics("evaluate")
    with pytest.raises(ValueError, match="holds no run: it has no recipe.json"):
        open_run(tmp_path / "elsewhere")
    values = json.loads((finished / "recipe.json").read_text())
    (finished / "recipe.json").write_text(json.dumps(values | {"old": 1}))
    with pytest.raises(ValueError, match="unknown field 'old'"):
        open_run(finished)
