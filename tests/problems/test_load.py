"""What every task owes the stages: more problems are appended, splits do not overlap, and stages 1 and 2 share no problem."""

import dataclasses
import json

import pytest

from minisw.problems import load_task, training_problems
from minisw.recipe import AnnotateKnobs, ProblemKnobs, Recipe

SOURCES = ("arithmetic", "gsm8k", "math")


@pytest.fixture
def folder(tmp_path):
    def write(path: str, rows: list[dict]) -> None:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("".join(json.dumps(row) + "\n" for row in rows))

    for split, count in (("train", 50), ("test", 20)):
        write(f"gsm8k/{split}.jsonl", [{"question": f"{split} {i}?", "answer": f"so\n#### {i}"} for i in range(count)])
        name = "math/train.jsonl" if split == "train" else "math500/test.jsonl"
        write(name, [{"problem": f"{split} {i}?", "solution": f"It is \\boxed{{{i}}}."} for i in range(count)])
    return tmp_path


def recipe(source: str, folder, taught: int, annotated: int) -> Recipe:
    prompts = "arithmetic" if source == "arithmetic" else "english"
    problems = ProblemKnobs(source=source, prompts=prompts, data_dir=folder, train=taught)
    return Recipe(seed=5, problems=problems, annotate=AnnotateKnobs(problems=annotated))


@pytest.mark.parametrize("source", SOURCES)
def test_a_larger_count_appends_problems(source, folder):
    task = load_task(recipe(source, folder, 1, 1).problems)
    for split, count in (("train", 30), ("validation", 8), ("test", 20)):
        longest = task.load(split, count, 3)
        assert len(longest) == len({p.id for p in longest}) == len({p.question for p in longest}) == count
        for n in (1, count // 2, count - 1):
            assert task.load(split, n, 3) == longest[:n]
        assert task.load(split, count, 4) != longest  # another seed, other problems or another order


@pytest.mark.parametrize("source", SOURCES)
def test_splits_share_no_question(source, folder):
    task = load_task(recipe(source, folder, 1, 1).problems)
    counts = {"train": 40, "validation": 10, "test": 20}
    splits = [{p.question for p in task.load(split, count, 3)} for split, count in counts.items()]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 70


@pytest.mark.parametrize("source", SOURCES)
def test_stages_one_and_two_share_no_problem(source, folder):
    knobs = recipe(source, folder, 25, 15)
    task = load_task(knobs.problems)
    taught, annotated = training_problems(task, knobs)
    assert taught + annotated == task.load("train", 40, 5)
    assert (len(taught), len(annotated)) == (25, 15) and not {p.question for p in taught} & {p.question for p in annotated}
    more = dataclasses.replace(knobs, annotate=AnnotateKnobs(problems=5))
    assert training_problems(task, more) == (taught, annotated[:5])


def test_published_labels_need_no_further_problems(folder):
    knobs = recipe("gsm8k", folder, 40, 40)
    knobs = dataclasses.replace(knobs, annotate=dataclasses.replace(knobs.annotate, source="prm800k"))
    taught, annotated = training_problems(load_task(knobs.problems), knobs)
    assert len(taught) == 40 and annotated == []
    with pytest.raises(ValueError, match=r"has 40 problems, not 41: ask for fewer \(--problems.train\)$"):
        more = dataclasses.replace(knobs.problems, train=41)
        training_problems(load_task(more), dataclasses.replace(knobs, problems=more))


@pytest.mark.parametrize("source", ["gsm8k", "math"])
def test_too_few_problems_are_an_error_that_names_the_knobs(source, folder):
    knobs = recipe(source, folder, 30, 11)
    remedy = r"has 40 problems, not 41: .*--problems.train\): 30 for SFT, and 11 others for labels \(--annotate.problems\)$"
    with pytest.raises(ValueError, match=remedy) as caught:
        training_problems(load_task(knobs.problems), knobs)
    assert "\n" not in str(caught.value)
    for split in ("validation", "test"):
        with pytest.raises(ValueError, match=rf"\(--problems.{split}\)$"):
            load_task(knobs.problems).load(split, 21, 5)


def test_a_damaged_file_is_not_reported_as_too_few_problems(folder):
    (folder / "gsm8k" / "train.jsonl").write_text("{")
    knobs = recipe("gsm8k", folder, 1, 1)
    with pytest.raises(ValueError, match="is damaged") as caught:
        training_problems(load_task(knobs.problems), knobs)
    assert "lower" not in str(caught.value)


def test_too_many_generated_problems_are_refused_and_the_knobs_named():
    huge = dataclasses.replace(Recipe(), problems=dataclasses.replace(Recipe().problems, train=100_000_000_000))
    with pytest.raises(ValueError, match=r"ask for at most 1000000 \(--problems.train\): 100000000000 for SFT"):
        training_problems(load_task(huge.problems), huge)


def test_only_the_generated_task_names_habits_of_judging(folder):
    """Its measures are 1 for the habit that a reply shows and 0 for all others; the other tasks measure nothing."""
    task = load_task(recipe("arithmetic", folder, 1, 1).problems)
    replies = {
        "glance": "The step says 7.\n\\boxed{Positive}",
        "equation": "No equation.\nThe step says 7.\n\\boxed{Positive}",
        "redo": "Last: nothing.\nDue: the answer.\nResult: 7.",
        "other": "eggs",
    }
    assert set(task.habits) == set(replies)
    measures = task.reply_measures()
    for shown, reply in replies.items():
        assert {name: measure(reply) for name, measure in measures.items()} == {
            f"habits/{habit}": float(habit == shown) for habit in replies
        }
    for source in ("gsm8k", "math"):
        other = load_task(recipe(source, folder, 1, 1).problems)
        assert other.habits == () and other.habit_of is None and other.reply_measures() == {}
