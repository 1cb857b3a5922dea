"""Published step labels: every format, and TRL's for reading and writing."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from minisw.labels import label_with, labelled_steps
from minisw.problems import step_labels
from minisw.recipe import AnnotateKnobs


def rows_of(count, wrong_at):
    return [
        {"prompt": f"Question {i}?", "completions": ["one", "two", "three"], "labels": [k != wrong_at(i) for k in range(3)]}
        for i in range(count)
    ]


@pytest.fixture
def trl_file(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(40, lambda i: i % 4)))  # 3: no error
    return path


@pytest.mark.parametrize("rule", ["abs_q", "rel_effective", "rel_ratio"])
def test_every_label_rule_restores_the_published_labels(trl_file, rule):
    found, questions = step_labels.load(str(trl_file), None, "train", 20, 0)
    assert len(found) == 20 and {s.problem_id for s in found} == set(questions)
    for s in found:
        number = int(questions[s.problem_id].split()[1].rstrip("?"))
        labels = label_with(AnnotateKnobs(rule=rule), s.q)
        upto = labels.index(False) + 1 if False in labels else 3
        assert labels[:upto] == [k != number % 4 for k in range(3)][:upto]
        assert s.correct is (number % 4 == 3) and s.chunks == ("one\n\n", "two\n\n", "three\n\n")


def test_validation_shares_no_question_with_training(trl_file):
    train, _ = step_labels.load(str(trl_file), None, "train", 100, 0)
    validation, _ = step_labels.load(str(trl_file), None, "validation", 100, 0)
    assert len(train) == 32 and len(validation) == 8 and not {s.problem_id for s in train} & {s.problem_id for s in validation}
    half, _ = step_labels.load(str(trl_file), None, "train", 8, 0)
    assert sum(not s.correct for s in half) == 4


def test_written_rows_can_be_read_again(trl_file, tmp_path):
    found, questions = step_labels.load(str(trl_file), None, "train", 100, 0)
    rows = step_labels.to_trl(found, [label_with(AnnotateKnobs(), s.q) for s in found], questions)
    again = tmp_path / "again.jsonl"
    again.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = {(q, *map(str.strip, steps), *labels) for q, steps, labels in step_labels.read(str(trl_file), None)}
    assert {(q, *map(str.strip, steps), *labels) for q, steps, labels in step_labels.read(str(again), None)} <= first


def test_prm800k_candidates_become_solutions(tmp_path):
    def row(before, step, rating, final=False):
        return {"instruction": "Q?", "responses": before, "next_response": step, "rating": rating, "is_solution": final}

    rows = [
        row([], "a", 1.0),  # on the way: part of others
        row(["a"], "b", -1.0),
        row(["a"], "c", 0.0),
        row(["a", "c"], "d", 0.0, True),  # neutral counts as right
        row(["a", "c"], "e", None, True),  # nobody rated it
    ]
    (tmp_path / "prm800k").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "prm800k" / "phase1_train.parquet")
    assert list(step_labels.read("prm800k", tmp_path)) == [("Q?", ["a", "b"], [True, False]), ("Q?", ["a", "c", "d"], [True] * 3)]


def test_math_shepherd_tags_are_read(tmp_path):
    question, steps, signs = "How many? ", ["Step 1: 1+1=2 ", "\nStep 2: 2+2=5 ", "\nStep 3: The answer is: 5 "], "+--"
    row = {
        "input": question + "".join(step + "ки" for step in steps),
        "label": question + "".join(step + sign for step, sign in zip(steps, signs, strict=True)),
        "task": "GSM8K",
    }
    (tmp_path / "math_shepherd").mkdir()
    (tmp_path / "math_shepherd" / "train.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    assert list(step_labels.read("math_shepherd", tmp_path)) == [("How many?", [s.strip() for s in steps], [True, False, False])]


@pytest.mark.parametrize("source", ["nowhere.jsonl", "prm900k", "folder/nowhere.parquet"])
def test_a_source_that_can_only_be_a_missing_file_is_refused_before_anything_is_read(source):
    with pytest.raises(ValueError, match="no such file; give rollouts, prm800k, math_shepherd, a file or a hub name"):
        step_labels.check_source(source)


def test_known_sources_files_and_hub_names_are_accepted(trl_file):
    for source in ("prm800k", "math_shepherd", str(trl_file), "someone/some-set-v1.5"):
        step_labels.check_source(source)


def test_a_file_of_an_unknown_kind_is_refused(tmp_path):
    (tmp_path / "labels.csv").write_text("a,b")
    with pytest.raises(ValueError, match="give a .jsonl, .json or .parquet file"):
        step_labels.load(str(tmp_path / "labels.csv"), None, "train", 1, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "damaged: a line is not JSON"), ('{"prompt": "?"}', "lacks a field"), (None, "no such file; give rollouts")],
)
def test_a_wrong_source_is_named(tmp_path, content, message):
    path = tmp_path / "x.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        step_labels.load(str(path), None, "train", 1, 0)


def test_a_step_may_hold_any_line_separator(tmp_path):
    """JSON Lines ends a line at a newline and nowhere else, and what stage 2 writes is not escaped."""
    row = {"prompt": "?", "completions": ["one\u2028two\x85three"], "labels": [True]}
    (tmp_path / "x.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert list(step_labels.read(str(tmp_path / "x.jsonl"), None)) == [("?", row["completions"], [True])]


@pytest.mark.slow
def test_a_hub_name_may_hold_a_dot():
    with pytest.raises(ValueError, match=r"cannot load no-one/prm-v1\.5 from the hub"):
        list(step_labels.read("no-one/prm-v1.5", None))


def test_steps_after_an_error_are_not_used(trl_file):
    found, questions = step_labels.load(str(trl_file), None, "train", 100, 0)
    steps = labelled_steps(found, questions, AnnotateKnobs())
    assert len(steps) == sum(s.q[1:].index(0.0) + 1 if 0.0 in s.q[1:] else 3 for s in found)
