"""GSM8K and ProcessBench in their published form, from a folder."""

import json

import pytest

from minisw.problems import gsm8k, load_task, processbench
from minisw.recipe import ProblemKnobs


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
    with pytest.raises(ValueError, match="has 3 problems, and 4 were asked for"):
        task.load("test", 4, 0)


def test_processbench_items_have_their_published_labels(folder):
    items = processbench.load(folder, "gsm8k", 0, 0)
    assert sorted(i.label for i in items) == [-1] * 3 + [0] * 3 + [1] * 3 and all(i.chunks == ("a\n\n", "b\n\n") for i in items)
    some = processbench.load(folder, "gsm8k", 6, 0)
    assert [i.label >= 0 for i in some] == [True] * 4 + [False] * 2 and set(some) <= set(items)
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
