"""The evaluate stage with a scripted sampler: which adapter judges which steps, and what the rows say."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import pytest
from rich.console import Console

from minisw.engine.requests import Completion
from minisw.evaluate import stats
from minisw.judges.discriminative import DiscriminativeJudge
from minisw.judges.generative import GenerativeJudge, p_positive
from minisw.problems import Task
from minisw.recipe import EvaluateKnobs, JudgeKnobs, PolicyKnobs, ProblemKnobs, Recipe
from minisw.records import BenchItem, Judgment, Problem, read_jsonl
from minisw.runs import Run
from minisw.stages import evaluate

PROBLEMS = [
    Problem("test-0", "Tom has 12 apples.", "15"),
    Problem("test-1", "Anna has 24 eggs.", "27"),
    Problem("test-2", "Ben has 41 books.", "44"),
]
CHUNKS = {  # the policy's solutions, by question; a chunk that holds 99 is wrong
    "Tom has 12 apples.": ("12+3=15. ", "The answer is \\boxed{15}."),
    "Anna has 24 eggs.": ("24+3=27. ", "27+0=99. ", "The answer is \\boxed{99}."),
    "Ben has 41 books.": ("41+3=99. ", "The answer is \\boxed{99}."),
}
FIRST_ERROR = {"test-0": -1, "test-1": 1, "test-2": 0}
ADAPTERS = ("policy", "discriminative", "rejection_sampled", "stepwiser", "stepwiser_tenth", "stepwiser_hundredth")
POSITIVE, NEGATIVE = "12+3=15. 15 and 15: same.\n\\boxed{Positive}", "15 and 16: different.\n\\boxed{Negative}"
RECIPE = Recipe(
    problems=ProblemKnobs(test=3),
    policy=PolicyKnobs(max_text_tokens=60),
    judge=JudgeKnobs(max_new_tokens=50),
    evaluate=EvaluateKnobs(solutions=3, samples=3, pass_samples=4, pass_solutions=2, resamples=37),
)


class Tracked:
    """A language model that knows which adapter is in use, and from which folder each was loaded."""

    def __init__(self, lm):
        self._lm, self.active, self.folders, self.adapters = lm, "nothing chosen", {}, set()

    def __getattr__(self, name):
        return getattr(self._lm, name)

    def load_adapter(self, name, folder):
        self.folders[name] = folder
        self.adapters.add(name)

    @contextlib.contextmanager
    def using(self, name):
        before, self.active = self.active, name
        try:
            with self._lm.using(name):
                yield
        finally:
            self.active = before


class Scripted:
    """Plays the policy and every generative judge by the adapter in use; records (adapter, requests, sampling, seed).

    stepwiser rejects exactly the wrong chunks, rejection_sampled none, stepwiser_tenth all; the base gives no verdict. Of
    several sampled replies of stepwiser the first is wrong.
    """

    def __init__(self, lm):
        self.lm, self.calls = lm, []

    def generate(self, requests, sampling, seed, progress=None):
        self.calls.append((self.lm.active, [(self.lm.decode(r.ids), r.count) for r in requests], sampling, seed))
        return [[self.complete(self.lm.decode(r.ids), i, r.count) for i in range(r.count)] for r in requests]

    def complete(self, prompt, number, count):
        if self.lm.active == "policy":
            (chunks,) = [chunks for question, chunks in CHUNKS.items() if question in prompt]
            text = "".join(f"<chunk>{chunk}</chunk>" for chunk in chunks)
        elif self.lm.active == "stepwiser":
            sound = "99" not in prompt.split("New step:")[1]
            text = POSITIVE if sound != (count > 1 and number == 0) else NEGATIVE
        else:
            text = {"rejection_sampled": POSITIVE, None: "?"}.get(self.lm.active, NEGATIVE)
        return Completion(self.lm.encode(text) + [self.lm.tokenizer.eos_token_id], True)


def make_run(tmp_path, new_lm, recipe=RECIPE, make_task=None):
    """A run with scripted models, and the list of splits that it loads."""
    run, splits = Run(recipe, tmp_path / "run", Console(quiet=True)), []
    lm = Tracked(new_lm(*ADAPTERS, noise=0.3))
    run.__dict__["lm"], run.__dict__["sampler"] = lm, Scripted(lm)

    def load(split, count, seed):
        splits.append(split)
        return PROBLEMS[:count]

    def exact(problem, chunks):
        return [i < FIRST_ERROR[problem.id] or FIRST_ERROR[problem.id] < 0 for i in range(len(chunks))]

    own = dataclasses.replace(run.task, load=load, exact_labels=exact)
    run.__dict__["task"] = make_task(run.task) if make_task else own
    (run.folder / "judges").mkdir()
    trained = {name: {"labels": 10 * i} for i, name in enumerate(ADAPTERS)}
    trained["discriminative"] |= {"threshold": 0.5, "validation_labels": 7, "prompt": "judge"}
    (run.folder / "judges" / "metrics.json").write_text(json.dumps(trained))
    return run, splits


@pytest.fixture(scope="module")
def finished(tmp_path_factory, new_lm):
    """(run, splits loaded, resamples of every bootstrap) after the stage. Tests only read it."""
    run, splits = make_run(tmp_path_factory.mktemp("finished"), new_lm)
    resamples, original = [], stats.bootstrap

    def bootstrap(rows, statistic, seed, count=1000, groups=None):
        resamples.append(count)
        return original(rows, statistic, seed, count, groups)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minisw.evaluate.stats.bootstrap", bootstrap)
        patch.setattr("minisw.evaluate.metrics.bootstrap", bootstrap)
        evaluate.run_stage(run)
    yield run, splits, resamples
    run._lock.close()


def metrics(run):
    return json.loads((run.folder / "evaluate" / "metrics.json").read_text())


def test_the_random_control_rejects_at_the_rate_of_the_judge():
    verdicts = [[True, False, None], [False]]
    judge = evaluate.random_judge([[Judgment(v) for v in own] for own in verdicts])
    assert judge.rate == 0.5 and judge.name == "random, at StepWiser's rate"
    assert evaluate.random_judge([[Judgment(True), Judgment(None)]]).rate == 0


def test_the_random_control_is_the_last_row(finished):
    rows = metrics(finished[0])["rows"]
    assert rows[-1]["id"] == "random" and rows[-1]["labels_used"] == 0
    share = sum(j.verdict is False for j in judgments(finished[0], "stepwiser")) / len(judgments(finished[0], "stepwiser"))
    other = [j.verdict for j in judgments(finished[0], "random")]
    assert 0 < share < 1 and len(set(other)) == 2  # it rejects some steps and passes others


def judgments(run, name):
    return read_jsonl(run.folder / "evaluate" / f"{name}.jsonl", Judgment)


def steps():
    """Every step of every item, in order."""
    items = [BenchItem(p.id, p.question, CHUNKS[p.question], FIRST_ERROR[p.id], FIRST_ERROR[p.id] < 0) for p in PROBLEMS]
    return [step for item in items for step in item.steps()]


def calls(run, adapter, sampled):
    return [call for call in run.sampler.calls if call[0] == adapter and (call[2].temperature > 0) is sampled]


def test_each_row_comes_from_its_own_adapter(finished):
    run = finished[0]
    rows = {row["id"]: row for row in metrics(run)["rows"]}
    found = {name: (row["accuracy_error"], row["accuracy_correct"], row["unparseable"]) for name, row in rows.items()}
    assert found["stepwiser"] == (1, 1, 0)
    assert found["rejection_sampled"] == found["always_positive"] == (0, 1, 0)
    assert found["stepwiser_tenth"] == (0.5, 0, 0)  # the first step of every item
    assert found["untrained"] == (0, 0, 1)
    assert rows["stepwiser"]["f1"] == rows["stepwiser"]["f1_pooled"] == 1 and rows["rejection_sampled"]["f1"] == 0
    folders = {name: run.folder / "judges" / name for name in ADAPTERS[1:]}
    assert run.lm.folders == {"policy": run.folder / "segment" / "policy", **folders}


def test_each_judge_sees_every_step_with_its_history(finished):
    run = finished[0]
    for adapter in ("stepwiser", "rejection_sampled", "stepwiser_tenth"):
        ((_, requests, sampling, seed),) = calls(run, adapter, sampled=False)
        expected = [run.lm.decode(GenerativeJudge(run.judge_context, adapter).prompt(step)) for step in steps()]
        assert requests == [(prompt, 1) for prompt in expected] and len(set(expected)) == 7
        assert sampling.max_new_tokens == 50 and seed == run.seed_of(f"evaluate-{adapter}")
    history, step = calls(run, "stepwiser", sampled=False)[0][1][4][0].split("New step:")  # the last step of the second item
    assert "24+3=27. 27+0=99." in history and "The answer is" in step and "27" not in step


def beginnings():
    """Every step of every item up to its first error, in order."""
    kept = [(p, CHUNKS[p.question][: FIRST_ERROR[p.id] + 1 or None]) for p in PROBLEMS]
    return [s for p, chunks in kept for s in BenchItem(p.id, p.question, chunks, FIRST_ERROR[p.id], False).steps()]


def test_every_generative_judge_is_sampled_too_up_to_the_first_error(finished):
    run = finished[0]
    rows = {row["id"]: row for row in metrics(run)["rows"]}
    for name in ("untrained", "rejection_sampled", "stepwiser", "stepwiser_tenth", "stepwiser_hundredth"):
        adapter = None if name == "untrained" else name
        (_, requests, sampling, seed), *more = calls(run, adapter, sampled=True)
        asked = [run.lm.decode(GenerativeJudge(run.judge_context, adapter).prompt(step)) for step in beginnings()]
        assert requests == [(prompt, 3) for prompt in asked] and len(asked) == 5
        assert sampling.temperature == 1.0 and seed == run.seed_of(f"evaluate-{name}-sampled")
        assert len(more) == (name in ("untrained", "stepwiser")) and rows[name]["samples"] == 3
    # of three samples stepwiser's first is wrong on every step, the others on none
    row = rows["stepwiser"]
    assert row["f1_sampled"] == pytest.approx(2 / 3) and row["f1_majority"] == 1 and row["unparseable_sampled"] == 0
    assert rows["untrained"]["unparseable_sampled"] == 1 and rows["untrained"]["f1_majority"] == 0
    assert not any("f1_sampled" in rows[name] for name in ("always_positive", "discriminative"))
    assert all(not {"predictions_sampled", "predictions", "gain_of_votes"} & row.keys() for row in rows.values())
    gains = metrics(finished[0])["gain_of_votes"]
    assert gains.keys() == {name for name, row in rows.items() if "f1_sampled" in row} and "stepwiser" in gains
    for name, gain in gains.items():
        assert gain["measured"] == pytest.approx(rows[name]["f1_majority"] - rows[name]["f1_sampled"])


def test_pass_at_k_before_and_after_grpo(finished):
    run = finished[0]
    found = metrics(run)["pass"]
    assert list(found) == ["untrained", "stepwiser"]
    for name, adapter in (("untrained", None), ("stepwiser", "stepwiser")):
        _, requests, sampling, seed = calls(run, adapter, sampled=True)[1]
        asked = [run.lm.decode(GenerativeJudge(run.judge_context, adapter).prompt(step)) for step in beginnings()[:4]]
        assert requests == [(prompt, 4) for prompt in asked]  # the first two items
        assert sampling.temperature == 1.0 and seed == run.seed_of(f"evaluate-{name}-pass")
        assert [row["k"] for row in found[name]] == [1, 2, 4]
    assert all(row["steps"] == row["solutions"] == 0 for row in found["untrained"])
    # three right samples of four on every step: two of them contain a right one always
    assert [(row["steps"], row["solutions"]) for row in found["stepwiser"]] == [(0.75, 0.75), (1, 1), (1, 1)]


def test_habits_are_shares_of_the_greedy_replies(finished):
    run = finished[0]
    for row in metrics(run)["rows"]:
        shares = {key: value for key, value in row.items() if key.startswith("habits/")}
        if row["id"] in ("always_positive", "discriminative", "random"):
            assert not shares
            continue
        own = [j.analysis for j in judgments(run, row["id"])]
        assert shares.keys() == {f"habits/{name}" for name in run.task.habits} and sum(shares.values()) == pytest.approx(1)
        for name in run.task.habits:
            assert shares[f"habits/{name}"] == pytest.approx(sum(run.task.habit_of(reply) == name for reply in own) / 7)


def test_without_samples_nothing_is_sampled(tmp_path, new_lm):
    knobs = dataclasses.replace(RECIPE.evaluate, samples=0, pass_samples=0)
    run, _ = make_run(tmp_path, new_lm, dataclasses.replace(RECIPE, evaluate=knobs))
    run.__dict__["task"] = dataclasses.replace(run.task, habits=(), habit_of=None)
    evaluate.run_stage(run)
    found = metrics(run)
    assert {call[0] for call in run.sampler.calls if call[2].temperature > 0} == {"policy"}
    assert found["pass"] == found["differences_sampled"] == {} and len(found["differences"]) == 5
    assert not any(key.startswith("habits/") or "sampled" in key for row in found["rows"] for key in row)
    run._lock.close()


@pytest.mark.parametrize(("label", "kept"), [(-1, "abcd"), (0, "a"), (2, "abc"), (3, "abcd")])
def test_an_item_up_to_its_error_is_otherwise_the_same(label, kept):
    item = BenchItem("i", "?", tuple("abcd"), label, True)
    assert evaluate.up_to_error(item) == dataclasses.replace(item, chunks=tuple(kept))


def test_classifier_and_probabilities_use_their_own_adapters(finished):
    run = finished[0]
    saved = [j.p_positive for j in judgments(run, "discriminative")]
    classifiers = [DiscriminativeJudge(run.judge_context, adapter, request="judge") for adapter in ADAPTERS[1:3]]
    own, bare = ([j.p_positive for j in classifier.judge(steps())] for classifier in classifiers)
    assert saved == pytest.approx(own, abs=1e-6) and saved != pytest.approx(bare, abs=1e-3)
    assert [j.verdict for j in judgments(run, "discriminative")] == [p >= 0.5 for p in own]
    made = judgments(run, "stepwiser")
    prompts = [GenerativeJudge(run.judge_context, "stepwiser").prompt(step) for step in steps()]
    measured = p_positive(run.judge_context, "stepwiser", prompts, [j.analysis for j in made])
    assert [j.p_positive for j in made] == pytest.approx(measured, abs=1e-6) and 0 < measured[0] < 1


def test_items_are_test_solutions_of_the_policy_with_exact_labels(finished):
    run, splits, _ = finished
    assert set(splits) == {"test"}
    ((_, requests, _, seed),) = calls(run, "policy", sampled=True)
    assert [prompt for prompt, _ in requests] == [run.lm.decode(run.policy().prompt(p.question)) for p in PROBLEMS]
    assert seed == run.seed_of("evaluate")
    found = metrics(run)
    assert (found["items"], found["questions"], found["with_error"]) == (3, 3, 2)


def test_labels_differences_and_resamples(finished):
    run, _, resamples = finished
    found = metrics(run)
    used = {row["id"]: row["labels_used"] for row in found["rows"]}
    assert used["discriminative"] == 10 + 7  # its validation labels count too
    assert used["stepwiser"] == 30 and used["stepwiser_tenth"] == 40 and used["stepwiser_hundredth"] == 50
    assert used["untrained"] == used["always_positive"] == 0
    pairs = ["stepwiser-discriminative", "stepwiser-untrained", "stepwiser-rejection_sampled"]
    assert list(found["differences"]) == [*pairs, "stepwiser_tenth-discriminative", "stepwiser_hundredth-discriminative"]
    assert list(found["differences_sampled"]) == pairs[1:]  # the classifier is not sampled
    rows = {row["id"]: row for row in found["rows"]}
    for which, figure in (("differences", "f1"), ("differences_sampled", "f1_sampled")):
        for key, entry in found[which].items():
            a, b = key.split("-")
            assert entry["measured"] == pytest.approx(rows[a][figure] - rows[b][figure])
            assert entry["interval"][0] <= entry["measured"] <= entry["interval"][1]
    assert set(resamples) == {37} and len(resamples) == 2 * len(rows) + 3 * 5 + 5 + 2


def test_the_showcase_leaves_labels_behind_the_first_error_open(finished):
    shown = json.loads((finished[0].folder / "evaluate" / "showcase.json").read_text())
    assert [[c["label"] for c in s["chunks"]] for s in shown] == [[True, False, None], [True, True]]  # and there is no miss
    assert [s["correct"] for s in shown] == [False, True] and shown[0]["question"] == PROBLEMS[1].question
    assert [c["verdict"] for c in shown[0]["chunks"]] == [True, False, False]
    assert shown[0]["chunks"][1]["analysis"].strip().endswith("\\boxed{Negative}")


@pytest.mark.slow
def test_solutions_that_break_the_format_or_exceed_the_count_are_left_out(tmp_path, new_lm, monkeypatch):
    monkeypatch.setitem(CHUNKS, "Tom has 12 apples.", ("12+3=15. ", "</chunk>\\boxed{15}.<chunk>x"))
    knobs = EvaluateKnobs(solutions=1, samples=0, pass_samples=0, resamples=5)
    run, _ = make_run(tmp_path, new_lm, dataclasses.replace(RECIPE, evaluate=knobs))
    evaluate.run_stage(run)
    assert metrics(run)["items"] == 1 and "Anna" in calls(run, "stepwiser", sampled=False)[0][1][0][0]
    run._lock.close()


def bench(items):
    return lambda task: Task("published", task.prompts, task.load, bench=lambda part, count, seed: items[part][:count])


@pytest.mark.slow
def test_processbench_parts_are_averaged_and_nothing_is_sampled(tmp_path, new_lm):
    def item(part, i):
        wrong = i % 2 == 1
        chunks = ("1+1=2. ", "2+2=99. " if wrong else "2+2=4. ")
        return BenchItem(f"{part}-{i}", f"{part} {i}?", chunks, 1 if wrong else -1, not wrong)

    items = {"gsm8k": [item("gsm8k", i) for i in range(4)], "math": [item("math", i) for i in range(2)]}
    recipe = dataclasses.replace(RECIPE, evaluate=EvaluateKnobs(("gsm8k", "math"), 3, samples=2, pass_samples=0, resamples=10))
    run, _ = make_run(tmp_path, new_lm, recipe, bench(items))
    evaluate.run_stage(run)
    found = metrics(run)
    assert found["items"] == 3 + 2 and not calls(run, "policy", sampled=True)
    rows = {row["id"]: row for row in found["rows"]}
    assert rows["stepwiser"]["by_part"].keys() == {"gsm8k", "math"} and rows["stepwiser"]["f1"] == 1
    run._lock.close()


def test_a_task_that_makes_solutions_is_measured_on_them(tmp_path, new_lm):
    chunks, labels = (("1+1=2. ",), ("1+1=99. ",)), (-1, 0)

    def make(split, count, seed):
        assert (split, seed) == ("test", RECIPE.seed)
        return [BenchItem(f"made-{i}", f"made {i}?", chunks[i % 2], labels[i % 2], i % 2 == 0) for i in range(count)]

    run, _ = make_run(tmp_path, new_lm, make_task=lambda task: Task("made", task.prompts, task.load, made=make))
    evaluate.run_stage(run)
    found = {row["id"]: row for row in metrics(run)["rows"]}
    assert metrics(run)["items"] == RECIPE.evaluate.solutions == 3 and found["stepwiser"]["f1"] == 1
    assert not calls(run, "policy", sampled=True)
    run._lock.close()


def test_a_file_with_judgments_of_other_items_is_refused(tmp_path, new_lm):
    run, _ = make_run(tmp_path, new_lm)
    (run.folder / "evaluate").mkdir()
    (run.folder / "evaluate" / "always_positive.jsonl").write_text('{"verdict": true}\n')
    with pytest.raises(ValueError, match="has 1 judgments for 7 steps"):
        evaluate.run_stage(run)
    run._lock.close()


def test_a_task_without_labels_or_items_is_refused(tmp_path, new_lm):
    run, _ = make_run(tmp_path, new_lm, make_task=lambda task: Task("bare", task.prompts, task.load))
    with pytest.raises(ValueError, match="'bare' has neither exact labels"):
        evaluate.run_stage(run)
    run.__dict__["task"] = bench({"gsm8k": []})(run.task)
    with pytest.raises(ValueError, match="no item to evaluate on"):
        evaluate.run_stage(run)
    run._lock.close()


def test_the_showcase_has_one_find_one_pass_and_one_miss():
    items = [BenchItem(str(i), f"{i}?", ("a", "b"), label, label < 0) for i, label in enumerate((1, 1, -1, -1, 0))]
    verdicts = [(True, True), (True, False), (True, True), (True, True), (False, True)]
    made = [[Judgment(v) for v in row] for row in verdicts]
    before = [[Judgment(None, f"{n}.{i}") for i in range(len(own))] for n, own in enumerate(made)]
    shown = evaluate.showcase(items, made, before)
    assert [s["question"] for s in shown] == ["1?", "2?", "0?"] and shown[2]["chunks"][1]["label"] is False
    for n, solution in zip((1, 2, 0), shown, strict=True):
        assert [c["before"] for c in solution["chunks"]] == [{"verdict": None, "analysis": j.analysis} for j in before[n]]
    assert [s["question"] for s in evaluate.showcase(items[3:4], made[3:4], before[3:4])] == ["3?"]
