"""MATH, MATH-500 and NuminaMath-CoT in their published form, from a folder."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from minisw.problems import load_task, math
from minisw.recipe import ProblemKnobs
from minisw.verify import algebra


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "math500").mkdir()
    (tmp_path / "math").mkdir()
    (tmp_path / "numina").mkdir()
    test = [{"problem": f"Test {i}?", "solution": "", "answer": str(i), "unique_id": f"t/{i}"} for i in range(6)]
    (tmp_path / "math500" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in test))
    train = [{"problem": f"Train {i}?", "solution": f"so \\boxed{{{i}}}"} for i in range(20)]
    train += [{"problem": "train  3?", "solution": "\\boxed{3}"}]  # the same question again
    train += [{"problem": "Test 2?", "solution": "\\boxed{2}"}]  # a question of the test
    train += [{"problem": "Prove it.", "solution": "clear"}]  # no answer
    (tmp_path / "math" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in train))
    parts = [train[:12], train[12:] + [{"problem": "Odd?", "solution": "\\boxed{\\text{see the proof above}}"}]]
    for number, part in enumerate(parts):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(part), tmp_path / "numina" / f"train-{number}.parquet")
    return tmp_path


def test_each_question_occurs_once_and_none_is_of_the_test_split(folder):
    train = math.load_split(folder, "math", "train", 16, 0)
    validation = math.load_split(folder, "math", "validation", 4, 0)
    questions = [p.question for p in train + validation]
    assert sorted(questions) == sorted(f"Train {i}?" for i in range(20))
    assert all(p.question == f"Train {p.answer}?" for p in train)
    assert train[:5] == math.load_split(folder, "math", "train", 5, 0)
    assert train != math.load_split(folder, "math", "train", 16, 1)
    with pytest.raises(ValueError, match="math's train part has 16 problems, not 17: ask for fewer"):
        math.load_split(folder, "math", "train", 17, 0)


@pytest.mark.slow
def test_both_tasks_are_tested_on_math500(folder):
    for source in ("math", "numina"):
        task = load_task(ProblemKnobs(source=source, prompts="english", data_dir=folder))
        assert {p.answer for p in task.load("test", 6, 0)} == set("012345") and task.name == source
        assert len(task.load("train", 10, 0)) == 10


@pytest.mark.skipif(not algebra.installed(), reason="math-verify is not installed")
def test_problems_whose_reference_does_not_equal_itself_are_dropped(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(algebra, "equal", lambda gold, answer: asked.append((gold, answer)))
    every = [p for split, n in (("train", 16), ("validation", 4)) for p in math.load_split(folder, "numina", split, n, 0)]
    assert len(every) == 20 and "Odd?" not in [p.question for p in every]
    with pytest.raises(ValueError, match="ask for fewer"):
        math.load_split(folder, "numina", "train", 21, 0)
        math.load_split(folder, "numina", "validation", 21, 0)
    assert set(asked) <= {("\\text{see the proof above}",) * 2}


@pytest.mark.parametrize("spoil", ["missing", "cut"])
def test_a_missing_or_cut_file_is_named(folder, spoil):
    path = folder / "numina" / "train-0.parquet"
    if spoil == "missing":
        for part in path.parent.iterdir():
            part.unlink()
    else:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="no such file" if spoil == "missing" else "is damaged: it is not parquet"):
        math.load_split(folder, "numina", "train", 1, 0)
