"""Stage 2 with a scripted policy: which problems are annotated, by whom, and with which labels."""

import dataclasses
import json

import pytest
from fakes import CUT, FakeLM, FakeSampler, fake_run, fake_task

from minisw.chunks import tag
from minisw.labels import RULES, label, load_steps
from minisw.recipe import MADE, AnnotateKnobs, PolicyKnobs, ProblemKnobs, Recipe
from minisw.records import AnnotatedSolution, BenchItem, Problem, Solution, read_jsonl
from minisw.stages import annotate

TRAIN = [Problem(f"train-{i}", f"TRAIN{i}?", str(10 + i)) for i in range(6)]
VALIDATION = [Problem(f"validation-{i}", f"VALID{i}?", str(20 + i)) for i in range(3)]
TASK = fake_task({"train": TRAIN, "validation": VALIDATION})
RECIPE = Recipe(
    seed=3,
    problems=ProblemKnobs(train=2, validation=2),
    policy=PolicyKnobs(temperature=0.6, max_text_tokens=60, max_chunks=4),
    annotate=AnnotateKnobs(problems=3, samples=5, keep=2, branches=4, max_solutions=14, rule="rel_ratio", gamma=0.7, alpha=0.8),
)


def answer(number: int) -> str:
    return f"\\boxed{{{number}}}"


def gold(text: str) -> int:
    """The right answer to the problem in a prompt."""
    return (10 if "TRAIN" in text else 20) + int(text.split("TRAIN" if "TRAIN" in text else "VALID")[1][0])


def script(text: str, sample: int) -> str:
    """From a prompt, samples 0 and 1 are right (TRAIN3: only sample 1; TRAIN4: all), sample 3 of the first problem of a split is
    cut off. After the chunk "good" all four rollouts are right, after "fair" one is, after "bad" none is."""
    right, wrong = answer(gold(text)), answer(gold(text) + 1)  # the wrong one is right for the next problem
    path = text.split("<reply>")[1]
    if not path:
        if "TRAIN4" in text or sample in ((1,) if "TRAIN3" in text else (0, 1)):
            return tag(["good", "good", right])
        return tag(["good", "fair", "bad", wrong]) + (CUT if sample == 3 and gold(text) in (12, 20) else "")
    hits = {"good": 4, "fair": 1, "bad": 0}[path.removesuffix("</chunk>").split("<chunk>")[-1]]
    return tag([right if sample < hits else wrong])


def make_run(folder, recipe=RECIPE, task=TASK):
    (folder / "segment" / "policy").mkdir(parents=True)
    run = fake_run(folder / "run", recipe, task, FakeSampler(FakeLM("policy"), script))
    annotate.run_stage(run)
    return run


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path)


def annotated(run, split) -> list[AnnotatedSolution]:
    return read_jsonl(run.folder / "annotate" / f"{split}.jsonl", AnnotatedSolution)


def metrics(run) -> dict:
    return json.loads((run.folder / "annotate" / "metrics.json").read_text())


def test_training_problems_are_those_after_the_ones_of_sft(run):
    questions = json.loads((run.folder / "annotate" / "questions.json").read_text())
    assert questions == {p.id: p.question for p in [*TRAIN[2:5], *VALIDATION[:2]]}
    solve, _, _, _ = run.sampler.calls
    assert solve.texts == [f"<user>SOLVE-CHUNKED {p.question}<reply>" for p in TRAIN[2:5]] and solve.counts == [5] * 3


def test_everything_is_sampled_by_the_policy_at_its_temperature_with_seeds_of_the_run(run, tmp_path):
    calls = run.sampler.calls
    assert [call.adapter for call in calls] == ["policy"] * 4
    assert [call.sampling.temperature for call in calls] == [0.6] * 4
    assert len({call.seed for call in calls}) == 4
    other = make_run(tmp_path / "other", dataclasses.replace(RECIPE, seed=4))
    assert all(a.seed != b.seed for a, b in zip(calls, other.sampler.calls, strict=True))


def test_validation_is_drawn_from_its_own_split(run):
    _, _, solve, rollouts = run.sampler.calls
    assert solve.texts == [f"<user>SOLVE-CHUNKED {p.question}<reply>" for p in VALIDATION[:2]] and solve.counts == [5] * 2
    assert all("VALID" in text for text in rollouts.texts)
    assert {s.problem_id for s in annotated(run, "validation")} == {"validation-0", "validation-1"}
    assert {s.problem_id for s in annotated(run, "train")} == {"train-2", "train-3"}  # train-4 is always right


def test_rollouts_start_at_every_boundary_of_the_chosen_solutions(run):
    rollouts = run.sampler.calls[1]
    assert rollouts.texts[:2] == ["<user>SOLVE-CHUNKED TRAIN2?<reply>", "<user>SOLVE-CHUNKED TRAIN3?<reply>"]
    assert rollouts.counts == [4] * len(rollouts.counts)
    for s, text in zip(annotated(run, "train"), rollouts.texts[2:], strict=True):
        assert text == f"<user>SOLVE-CHUNKED TRAIN{s.problem_id[-1]}?<reply>{tag(s.chunks[:-1])}"


def test_every_solution_has_the_values_of_its_own_problem(run):
    wrong = ("good", "fair", "bad")
    q0 = {"train-2": 0.5, "train-3": 0.25}
    for s in annotated(run, "train"):
        assert s.q[0] == q0[s.problem_id]
        if s.correct:
            assert s.chunks == ("good", "good", answer(10 + int(s.problem_id[-1]))) and s.q[1:] == (1.0, 1.0, 1.0)
        else:
            assert s.chunks[:3] == wrong and s.q[1:] == (1.0, 0.25, 0.0, 0.0)
        assert all(len(row) == 4 for row in s.hits) and len(s.hits) == len(s.chunks)


def test_one_solution_in_four_is_right_for_training_and_one_in_two_for_validation(run):
    assert [s.correct for s in annotated(run, "train")] == [False, False, False, True]
    assert [s.correct for s in annotated(run, "validation")] == [False, True, False, True]


def test_the_number_of_solutions_is_limited(tmp_path):
    few = dataclasses.replace(RECIPE, annotate=dataclasses.replace(RECIPE.annotate, max_solutions=3))
    run = make_run(tmp_path, few)
    assert len(annotated(run, "train")) == 3 and len(annotated(run, "validation")) == annotate.validation_size(few.annotate) == 2


@pytest.mark.parametrize("rule", RULES)
def test_labels_follow_the_rule_of_the_recipe(tmp_path, rule):
    recipe = dataclasses.replace(RECIPE, annotate=dataclasses.replace(RECIPE.annotate, rule=rule))
    run = make_run(tmp_path, recipe)
    rows = [json.loads(line) for line in (run.folder / "annotate" / "stepwise.jsonl").read_text().splitlines()]
    solutions = annotated(run, "train")
    assert [row["labels"] for row in rows] == [label(s.q, rule, 0.8, 0.7) for s in solutions]
    assert [row["prompt"] for row in rows] == [f"TRAIN{s.problem_id[-1]}?" for s in solutions]
    assert [row["completions"] for row in rows] == [list(s.chunks) for s in solutions]
    steps = load_steps(run.folder / "annotate", "train", recipe.annotate)
    assert steps[1].label is {"abs_q": True, "rel_ratio": False, "rel_effective": False}[rule]  # Q falls from 1 to 1/4


def test_metrics_describe_the_sampled_and_the_annotated_solutions(run):
    found, solutions = metrics(run), annotated(run, "train")
    drawn = read_jsonl(run.folder / "annotate" / "train-solutions.jsonl", Solution)
    assert len(drawn) == found["drawn"] == 15
    assert found["drawn_accuracy"] == pytest.approx(8 / 15)  # 2, 1 and 5 of 5
    assert found["drawn_cut_off"] == pytest.approx(1 / 15)
    assert (found["solutions"], found["problems_kept"], found["steps"]) == (4, 2, 3 * 4 + 3)
    for row in found["rules"]:
        given = [positive for s in solutions for positive in label(s.q, row["rule"], 0.8, 0.7)]
        assert row["positives"] == pytest.approx(sum(given) / len(given))
    assert len({row["positives"] for row in found["rules"]}) >= 2
    assert found["q"]["start"] == pytest.approx(sum(s.q[0] for s in solutions) / 4)
    assert found["agreement"] == [] and found["exact_positive"] is None and found["mistakes"] == {}


def test_exact_labels_measure_each_solution_with_its_own_problem(tmp_path):
    def exact(problem: Problem, chunks) -> list[bool]:
        return [chunk in ("good", answer(int(problem.answer))) for chunk in chunks]

    task = dataclasses.replace(TASK, exact_labels=exact, mistake_kind=lambda problem, chunks, index: chunks[index])
    found = metrics(make_run(tmp_path, task=task))
    # 8 right solutions of 3 chunks; in 7 wrong ones "good" and then the first error
    assert found["exact_positive"] == pytest.approx((8 * 3 + 7) / (8 * 3 + 7 * 2)) and found["mistakes"] == {"fair": 7}
    rows = {(row["rule"], row["m"]): row for row in found["agreement"]}
    assert rows["abs_q", 4]["exact_positive_called_positive"] == 1.0
    assert rows["abs_q", 4]["exact_negative_called_negative"] == 0.0  # one rollout of four hits after "fair"
    assert rows["rel_ratio", 4]["agreement"] == 1.0


def test_published_labels_need_no_rollouts(tmp_path):
    rows = [{"prompt": f"Q{i}?", "completions": ["a", "b"], "labels": [True, i % 2 == 0]} for i in range(20)]
    source = tmp_path / "labels.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    knobs = dataclasses.replace(RECIPE.annotate, source=str(source), max_solutions=6)
    run = make_run(tmp_path, dataclasses.replace(RECIPE, annotate=knobs))
    assert run.sampler.calls == []
    train, validation = annotated(run, "train"), annotated(run, "validation")
    assert (len(train), len(validation)) == (6, 2) and not {s.problem_id for s in train} & {s.problem_id for s in validation}
    questions = json.loads((run.folder / "annotate" / "questions.json").read_text())
    steps = load_steps(run.folder / "annotate", "train", knobs)
    assert set(questions) == {s.problem_id for s in [*train, *validation]}
    given = {row["prompt"]: row["labels"] for row in rows}
    assert all(step.label is given[step.question][len(step.history)] for step in steps)
    assert {step.label for step in steps} == {True, False}
    assert metrics(run)["source"] == str(source) and metrics(run)["rules"][0]["positives"] == pytest.approx(0.75)


def made(split, count, seed):
    """Solutions of two chunks; every third is wrong, at its first or its second chunk."""
    assert seed == RECIPE.seed
    return [BenchItem(f"{split}{i}", f"{split} {i}?", ("a", "b"), -1 if i % 3 else i // 3 % 2, bool(i % 3)) for i in range(count)]


def test_made_solutions_bring_their_labels(tmp_path):
    knobs = dataclasses.replace(RECIPE.annotate, source=MADE, max_solutions=12)
    run = make_run(tmp_path, dataclasses.replace(RECIPE, annotate=knobs), dataclasses.replace(TASK, made=made))
    assert run.sampler.calls == []
    for split, count in (("train", 12), ("validation", 3)):
        steps = load_steps(run.folder / "annotate", split, knobs)
        labels = {(item.question, i): item.label < 0 or i < item.label for item in made(split, count, 3) for i in (0, 1)}
        assert {(step.question, len(step.history)): step.label for step in steps}.items() <= labels.items()
        assert [s.correct for s in annotated(run, split)] == [bool(i % 3) for i in range(count)]
        assert len(steps) == sum(1 if item.label == 0 else 2 for item in made(split, count, 3))  # up to the first error
    assert metrics(run)["source"] == MADE


def with_labels(exact_labels):
    return dataclasses.replace(TASK, exact_labels=exact_labels, mistake_kind=lambda problem, chunks, index: "slip")


@pytest.mark.parametrize("bad", [1, 2])
def test_exact_labels_are_the_tasks_own_and_need_no_rollouts(tmp_path, bad):
    """The same solutions are chosen; a chunk is right up to the first error and wrong from there on."""
    exact = with_labels(lambda problem, chunks: [i != bad for i in range(len(chunks))])
    recipe = dataclasses.replace(RECIPE, annotate=dataclasses.replace(RECIPE.annotate, source="exact"))
    run, other = make_run(tmp_path / "exact", recipe, exact), make_run(tmp_path / "rollouts", RECIPE, exact)
    assert [text for call in run.sampler.calls for text in call.texts if "<chunk>" in text] == []
    assert [s.chunks for s in annotated(run, "train")] == [s.chunks for s in annotated(other, "train")]
    for split in ("train", "validation"):
        for s in annotated(run, split):
            assert s.q == tuple(1.0 if i <= bad else 0.0 for i in range(len(s.chunks) + 1)) and s.hits == ()
            for rule in (*RULES, "relative_progress"):
                assert label(s.q, rule) == [i < bad for i in range(len(s.chunks))]
    steps = load_steps(run.folder / "annotate", "train", recipe.annotate)
    assert [s.label for s in steps] == ([True] * bad + [False]) * len(annotated(run, "train"))
    assert metrics(run)["agreement"] == [] != metrics(other)["agreement"] and metrics(run)["exact_positive"] is not None


def test_a_solution_without_an_error_is_right_throughout(tmp_path):
    exact = with_labels(lambda problem, chunks: [True] * len(chunks))
    recipe = dataclasses.replace(RECIPE, annotate=dataclasses.replace(RECIPE.annotate, source="exact"))
    run = make_run(tmp_path, recipe, exact)
    assert {s.q for s in annotated(run, "train")} == {(1.0,) * (len(s.chunks) + 1) for s in annotated(run, "train")}
