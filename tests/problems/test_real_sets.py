"""GSM8K and ProcessBench in their published form, from a folder."""

import json

import pytest

from minisw.problems import first_mistakes, gsm8k, load_task, processbench
from minisw.recipe import ProblemKnobs
from minisw.records import Problem, Solution


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "processbench").mkdir()
    for split, count in (("train", 30), ("test", 8)):
        rows = [{"question": f"{split} {i}? ", "answer": "line\n" * (1 + i % 3) + f"#### 1,0{i:02}"} for i in range(count)]
        (tmp_path / "gsm8k" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = [
        {"id": f"g-{i}", "problem": "?", "steps": ["a", "b"], "label": i % 3 - 1, "final_answer_correct": i % 2 == 0}
        for i in range(9)
    ]
    (tmp_path / "processbench" / "gsm8k.json").write_text(json.dumps(items))
    return tmp_path


def test_gsm8k_splits_share_no_problem_and_answers_are_plain_numbers(folder):
    splits = {name: gsm8k.load_split(folder, name, count, 0) for name, count in (("train", 24), ("validation", 6), ("test", 8))}
    ids = [p.id for problems in splits.values() for p in problems]
    assert len(set(ids)) == len(ids) == 38
    assert {p.answer for p in splits["test"]} == {f"10{i:02}" for i in range(8)}
    assert gsm8k.load_split(folder, "train", 5, 0) == splits["train"][:5] != gsm8k.load_split(folder, "train", 5, 1)


def test_gsm8k_keeps_problems_with_short_references(folder):
    assert [len(gsm8k.read(folder, "test", n)) for n in (0, 1, 2, 3)] == [8, 3, 6, 8]
    task = load_task(ProblemKnobs(source="gsm8k", prompts="english", data_dir=folder, max_steps=1))
    assert len(task.load("test", 3, 0)) == 3
    with pytest.raises(ValueError, match="has 3 problems, not 4: ask for fewer"):
        task.load("test", 4, 0)


def test_processbench_items_have_their_published_labels(folder):
    items = processbench.load(folder, "gsm8k", 0, 0)
    assert sorted(i.label for i in items) == [-1] * 3 + [0] * 3 + [1] * 3 and all(i.chunks == ("a\n\n", "b\n\n") for i in items)
    assert {i.id: i.final_correct for i in items} == {f"g-{i}": i % 2 == 0 for i in range(9)}
    some = processbench.load(folder, "gsm8k", 6, 0)
    assert [i.label >= 0 for i in some] == [True] * 4 + [False] * 2 and set(some) <= set(items)
    assert some != processbench.load(folder, "gsm8k", 6, 1)
    assert {i.label >= 0 for i in processbench.load(folder, "gsm8k", 2, 0)} == {True, False}


@pytest.mark.parametrize("spoil,message", [(None, "cannot read"), ("{", "is damaged")])
def test_a_missing_or_damaged_file_is_named(folder, spoil, message):
    for path, load in (
        (folder / "gsm8k" / "test.jsonl", lambda: gsm8k.load_split(folder, "test", 1, 0)),
        (folder / "processbench" / "gsm8k.json", lambda: processbench.load(folder, "gsm8k", 1, 0)),
    ):
        path.unlink() if spoil is None else path.write_text(spoil)
        with pytest.raises(ValueError, match=message):
            load()


def test_an_unknown_part_or_split_is_named(folder):
    with pytest.raises(ValueError, match="no part 'aime': choose one of gsm8k, math"):
        processbench.load(folder, "aime", 1, 0)
    with pytest.raises(ValueError, match="no split 'dev': choose train"):
        gsm8k.load_split(folder, "dev", 1, 0)
    with pytest.raises(ValueError, match="no such data folder"):
        load_task(ProblemKnobs(source="gsm8k", prompts="english", data_dir=folder / "nowhere"))


@pytest.mark.parametrize("row", ["{}", '{"question": 1, "answer": "#### 2"}', "[]"])
def test_a_file_of_another_set_is_named(folder, row):
    (folder / "gsm8k" / "test.jsonl").write_text(row)
    with pytest.raises(ValueError, match="is it the published file"):
        gsm8k.load_split(folder, "test", 1, 0)


def test_the_task_has_what_its_source_offers(folder):
    real, embedded = load_task(ProblemKnobs(source="gsm8k", prompts="english", data_dir=folder)), load_task(ProblemKnobs())
    assert real.teacher is real.exact_labels is real.mistake_kind is None and not real.has_hard
    assert len(real.bench("gsm8k", 2, 0)) == 2
    assert embedded.bench is None and embedded.has_hard and embedded.prompts is not real.prompts
    problems = embedded.load("test", 2, 3)
    assert [p.id for p in problems] == ["arithmetic-test-3-0", "arithmetic-test-3-1"]


def test_first_mistakes_are_counted_by_kind():
    task = load_task(ProblemKnobs())
    problems = {p.id: p for p in (Problem("a", "?", "22", (15, 22)), Problem("b", "?", "9", (9,)))}
    answer = "The answer is \\boxed{22}."
    solutions = [
        Solution("a", ("10+5=15. So now 15 eggs.", "15+7=22. So now 22 eggs.", answer), "22", True),
        Solution("a", ("10+5=16. So now 16 eggs.", answer), "22", True),
        Solution("a", ("10+5=15. So now 15 eggs.", "15+7=23. So now 23 eggs."), None, False),
        Solution("b", ("2*4=9. So now 9 eggs.",), None, False),
        Solution("a", ("10+5=15. So now 15 eggs.", answer), "22", True),
    ]
    counts = first_mistakes(task, problems, [solutions[-1], *solutions[:-1]])
    assert list(counts.items()) == [("arithmetic", 3), ("steps left out at the end", 1)]
