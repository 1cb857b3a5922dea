"""A user's own problems: splits by a hash of the question, and one line for what cannot be used."""

import json

import pytest

from minisw.problems import load_task, own
from minisw.problems.files import TooFewProblems
from minisw.recipe import ProblemKnobs


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows(count: int) -> list[dict]:
    return [{"question": f"What is {i} and {i}?", "answer": 2 * i} for i in range(count)]


def splits(path, counts) -> dict[str, set[str]]:
    return {split: {p.question for p in own.load_split(path, split, count, 3)} for split, count in counts.items()}


def sizes(path) -> dict[str, int]:
    """The number of problems of each split, by asking for more and more."""
    found = {}
    for split in ("train", "validation", "test"):
        with pytest.raises(TooFewProblems) as error:
            own.load_split(path, split, 10_000, 0)
        found[split] = int(str(error.value).split(" has ")[1].split()[0])
    return found


def test_every_problem_is_in_one_split_and_stays_there_when_the_file_grows(tmp_path):
    small, large = write(tmp_path / "a.jsonl", rows(100)), write(tmp_path / "b.jsonl", rows(400)[::-1])
    few, many = sizes(small), sizes(large)
    assert sum(few.values()) == 100 and sum(many.values()) == 400
    assert 55 <= many["validation"] <= 105 and 55 <= many["test"] <= 105  # a fifth each
    before, after = splits(small, few), splits(large, many)
    assert len(set.union(*before.values())) == 100
    assert all(before[split] <= after[split] for split in before)


def test_the_seed_decides_the_order_and_a_larger_count_appends(tmp_path):
    path = write(tmp_path / "a.jsonl", rows(60))
    ten = own.load_split(path, "train", 10, 1)
    assert own.load_split(path, "train", 20, 1)[:10] == ten != own.load_split(path, "train", 10, 2)
    assert all(p.answer == str(2 * int(p.question.split()[2])) and p.id for p in ten)


def test_a_task_loads_them(tmp_path):
    path = write(tmp_path / "a.jsonl", rows(60))
    task = load_task(ProblemKnobs(source="file", file=path, prompts="english"))
    assert task.load("test", 3, 5) == own.load_split(path, "test", 3, 5)
    assert task.name == "file" and task.exact_labels is None and task.bench is not None


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "Why?"}, 'problem \'3\' has no "answer": training and measuring need one for each'),
        ({"answer": 3}, r'a.jsonl:3: a problem is an object with a "question", a text that is not empty'),
    ],
)
def test_a_problem_that_cannot_be_used_is_one_line(row, words, tmp_path):
    path = write(tmp_path / "a.jsonl", [*rows(2), row])
    with pytest.raises(ValueError, match=words):
        own.load_split(path, "train", 1, 0)


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no split 'hard': choose train, validation or test"):
        own.load_split(write(tmp_path / "a.jsonl", rows(3)), "hard", 1, 0)
