"""`python -m minisw.evaluate`: the official numbers, the same figures from any form of the file, and mistakes in one line."""

import json
import random
import runpy
import subprocess
import sys

import pytest

from minisw.evaluate import __main__ as command
from minisw.evaluate import metrics
from minisw.evaluate.calibration import calibration_error
from minisw.evaluate.stats import bootstrap
from minisw.records import BenchItem, Judgment
from minisw.verdicts import vote

PARTS = {"gsm8k": 12, "math": 17}


def published_rows(part: str, count: int, seed: int = 0) -> list[dict]:
    """Rows in ProcessBench's form: two in three have an error; two rows share a question."""
    rng = random.Random(f"{part}{seed}")
    rows = []
    for i in range(count):
        steps = [f"step {j}" for j in range(rng.randrange(2, 6))]
        label = -1 if i % 3 == 0 else rng.randrange(len(steps))
        row = {"id": f"{part}-{i}", "generator": "g", "problem": f"{part} {i // 2}?", "steps": steps, "label": label}
        rows.append(row | {"final_answer_correct": label < 0 or i % 5 == 0})
    return rows


ROWS = {part: published_rows(part, count) for part, count in PARTS.items()}
ALL = [row for rows in ROWS.values() for row in rows]


def truth(row: dict) -> list[bool]:
    return [row["label"] < 0 or i < row["label"] for i in range(len(row["steps"]))]


def noisy(seed: int, votes: int = 0, rows: list[dict] = ALL) -> list[dict]:
    """Lines of a judge that is mostly right and sometimes cannot be read; `votes` for each step, or one bare verdict."""
    rng = random.Random(seed)

    def verdict(right: bool) -> bool | None:
        return rng.choices([right, not right, None], [0.85, 0.1, 0.05])[0]

    return [
        {"id": row["id"], "verdicts": [[verdict(t) for _ in range(votes)] if votes else verdict(t) for t in truth(row)]}
        for row in rows
    ]


def scored(seed: int, rows: list[dict] = ALL) -> list[dict]:
    rng = random.Random(seed)
    return [
        {"id": row["id"], "scores": [round(rng.uniform(0.3, 1) if t else rng.uniform(0, 0.7), 3) for t in truth(row)]}
        for row in rows
    ]


def labelled(lines: list[dict], rows: list[dict] = ALL) -> list[dict]:
    """The same lines with all that they need to do without published files."""
    by_id = {row["id"]: row for row in rows}
    return [by_id[line["id"]] | line for line in lines]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "processbench").mkdir()
    for part, rows in ROWS.items():
        (tmp_path / "processbench" / f"{part}.json").write_text(json.dumps(rows))
    return tmp_path


@pytest.fixture
def write(tmp_path):
    def lines(name: str, rows: list) -> str:
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return lines


@pytest.fixture
def figures(capsys):
    def run(*arguments: object) -> dict:
        command.main([*map(str, arguments), "--json", "--resamples", "10"])
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def refused(capsys):
    def run(*arguments: object) -> str:
        """The one line on standard error with which the command refuses."""
        with pytest.raises(SystemExit) as ended:
            command.main([*map(str, arguments)])
        out, error = capsys.readouterr()
        assert ended.value.code == 2 and out == "" and error.startswith("minisw: ") and error.count("\n") == 1
        return error

    return run


def without_names(found: dict) -> dict:
    return {key: value for key, value in found.items() if key != "judge"}


# --- the official numbers -------------------------------------------------------------------------------------------------


def official(rows: list[dict], predictions: dict) -> tuple[float, float, float]:
    """Error accuracy, correct accuracy and F1 in percent, computed as ProcessBench's run_eval.py does."""
    error = [predictions[row["id"]] == row["label"] for row in rows if row["label"] != -1]
    correct = [predictions[row["id"]] == row["label"] for row in rows if row["label"] == -1]
    acc1, acc2 = sum(error) / len(error) * 100, sum(correct) / len(correct) * 100
    return acc1, acc2, 2 * acc1 * acc2 / (acc1 + acc2)


def first_objection(verdicts: list[bool | None]) -> int | None:
    objections = [i for i, verdict in enumerate(verdicts) if verdict is not True]
    if not objections:
        return -1
    return None if verdicts[objections[0]] is None else objections[0]


@pytest.mark.parametrize("seed", range(3))
def test_the_official_numbers_to_the_digit(folder, write, figures, capsys, seed):
    lines = noisy(seed)
    path = write("judge.jsonl", lines)
    found = figures(path, "--items", folder)
    predictions = {line["id"]: first_objection(line["verdicts"]) for line in lines}
    assert found["predictions"] == predictions and list(found["by_part"]) == list(PARTS)
    expected = {part: official(rows, predictions) for part, rows in ROWS.items()}
    for part, (error, correct, f1) in expected.items():
        own = found["by_part"][part]
        assert own["accuracy_error"] * 100 == pytest.approx(error, abs=1e-9)
        assert own["accuracy_correct"] * 100 == pytest.approx(correct, abs=1e-9)
        assert own["f1"] * 100 == pytest.approx(f1, abs=1e-9)
    average = sum(f1 for *_, f1 in expected.values()) / len(expected)
    assert found["f1"] * 100 == pytest.approx(average, abs=1e-9)
    command.main([path, "--items", str(folder), "--resamples", "10"])
    printed = {
        row[1].strip(): row[2:] for row in (line.split("|") for line in capsys.readouterr().out.splitlines()) if len(row) > 4
    }
    assert [cell.split()[0] for cell in printed["F1 (official)"][:3]] == [
        f"{value:.1f}" for value in (average, *(f1 for *_, f1 in expected.values()))
    ]
    assert [cell.strip() for cell in printed["error found"][1:3]] == [f"{error:.1f}" for error, *_ in expected.values()]
    assert [cell.strip() for cell in printed["right solution passed"][1:3]] == [f"{c:.1f}" for _, c, _ in expected.values()]
    assert [cell.strip() for cell in printed["solutions"][:3]] == ["29", "12", "17"]


def test_the_other_two_f1s_by_hand(write, figures):
    """Labels -1, -1, 0, 1 with answers right, wrong, wrong, right; the judge says -1, 0, 1, 1."""
    verdicts = [[True, True], [False, True], [True, False], [True, False]]
    lines = [
        {"id": str(i), "label": label, "final_answer_correct": correct, "verdicts": own}
        for i, (label, correct, own) in enumerate(zip([-1, -1, 0, 1], [True, False, False, True], verdicts, strict=True))
    ]
    found = figures(write("judge.jsonl", lines))
    assert found["f1"] == found["f1_pooled"] == 0.5
    assert found["f1_by_answer"] == 0  # of the two wrong answers none is judged rightly, of the right ones both
    assert found["f1_binary"] == pytest.approx(2 * 2 / (2 * 2 + 1))
    assert (found["interval_binary"][0] <= found["f1_binary"] <= found["interval_binary"][1]) and "by_part" not in found
    lines[1]["final_answer_correct"] = True
    lines[3] |= {"final_answer_correct": False}
    # right answers: 1 of 2; wrong ones: 1 of 2
    assert figures(write("judge.jsonl", lines))["f1_by_answer"] == 0.5
    del lines[2]["final_answer_correct"]
    unknown = figures(write("judge.jsonl", lines))
    assert unknown["f1_by_answer"] is None and unknown["interval_by_answer"] is None and unknown["f1"] == 0.5


def test_figures_are_those_of_the_library(folder, write, figures):
    lines = noisy(3)
    found = figures(write("judge.jsonl", lines), "--items", folder, "--seed", 7)
    items = [BenchItem(r["id"], r["problem"], tuple(r["steps"]), r["label"], r["final_answer_correct"]) for r in ALL]
    p = {True: 1.0, False: 0.0, None: 0.5}
    judgments = [[Judgment(v, p_positive=p[v]) for v in line["verdicts"]] for line in lines]
    expected = metrics.score(items, judgments, 7, 10)
    for key in (
        "f1",
        "interval",
        "f1_pooled",
        "f1_by_answer",
        "interval_by_answer",
        "accuracy_error",
        "balanced_accuracy",
        "calibration_error",
        "unparseable",
    ):
        assert found[key] == pytest.approx(expected[key]), key
        if key != "f1_pooled":
            for part in PARTS:
                assert found["by_part"][part][key] == pytest.approx(expected["by_part"][part][key]), key
    assert found["f1_binary"] == pytest.approx(
        sum(
            metrics.f1_binary([items[i].label for i in own], [expected["predictions"][i] for i in own])
            for own in (range(12), range(12, 29))
        )
        / 2
    )
    rows = list(zip(items, expected["predictions"], strict=True))
    interval = bootstrap(rows, metrics.average_f1_binary, 7, 10, [item.question for item in items])
    assert found["interval_binary"] == pytest.approx(interval)
    nothing = write("b.jsonl", [{"id": row["id"], "prediction": 0} for row in ALL])
    rows = figures(write("judge.jsonl", lines), "--items", folder, "--seed", 7, "--compare", nothing)["differences"]
    measured, interval = metrics.f1_difference(items, expected["predictions"], [0] * len(items), 7, 10)
    assert rows[0]["measured"] == pytest.approx(measured) and rows[0]["interval"] == pytest.approx(interval)
    assert found["questions"] == 6 + 9 and found["by_part"]["math"]["questions"] == 9
    assert found["with_error"] == sum(row["label"] >= 0 for row in ALL)


# --- the same figures from any form of the file ---------------------------------------------------------------------------


def test_labels_may_be_in_the_file_or_in_published_files_in_any_order(folder, write, figures):
    lines = noisy(1)
    expected = without_names(figures(write("judge.jsonl", lines), "--items", folder))
    shuffled = random.Random(0).sample(lines, len(lines))
    assert without_names(figures(write("judge.jsonl", shuffled), "--items", folder / "processbench")) == expected
    assert without_names(figures(write("judge.jsonl", labelled(lines)))) == expected
    assert without_names(figures(write("judge.jsonl", labelled(lines)), "--items", folder)) == expected
    renamed = [{"question" if key == "problem" else key: value for key, value in row.items()} for row in labelled(lines)]
    assert without_names(figures(write("judge.jsonl", renamed))) == expected


def test_one_published_file_is_one_part(folder, write, figures):
    lines = noisy(1, rows=ROWS["math"])
    path = write("judge.jsonl", lines)
    expected = without_names(figures(path, "--items", folder / "processbench" / "math.json"))
    assert "by_part" not in expected and expected["solutions"] == 17
    assert without_names(figures(path, "--items", folder)) == expected  # no prediction for gsm8k: it is not asked for


def test_parts_come_from_published_ids_or_from_the_field(write, figures):
    lines = labelled(noisy(1))
    assert list(figures(write("judge.jsonl", lines))["by_part"]) == list(PARTS)
    plain = [line | {"id": f"x-y-{i}"} for i, line in enumerate(lines)]
    assert "by_part" not in figures(write("judge.jsonl", plain))
    named = [line | {"part": "much-harder" if i % 2 else "own"} for i, line in enumerate(plain)]
    assert {part: own["solutions"] for part, own in figures(write("judge.jsonl", named))["by_part"].items()} == {
        "own": 15,
        "much-harder": 14,
    }


def test_items_of_another_benchmark_and_unnamed_parts_are_shown_as_other(write, figures, capsys):
    rows = ROWS["gsm8k"] + [row | {"id": f"mine-{i}"} for i, row in enumerate(ROWS["math"])]
    items = write("items.jsonl", rows)
    judge = write("judge.jsonl", noisy(1, rows=rows))
    found = figures(judge, "--items", items, "--compare", judge)
    assert {part: own["solutions"] for part, own in found["by_part"].items()} == {"gsm8k": 12, "": 17}
    assert [row["name"] for row in found["differences"]][3:] == ["F1, gsm8k", "F1, other"]
    command.main([judge, "--items", items, "--resamples", "10"])
    head = capsys.readouterr().out.splitlines()[0]
    assert [cell.strip() for cell in head.split("|")[1:-1]] == ["judge", "all", "gsm8k", "other"]


def test_a_line_needs_only_its_label_and_each_is_then_a_question_of_its_own(write, figures):
    lines = [{"id": i, "label": i % 3 - 1, "verdicts": [i % 2 == 0, True]} for i in range(9)]
    found = figures(write("judge.jsonl", lines))
    assert found["questions"] == found["solutions"] == 9 and list(found["predictions"]) == [str(i) for i in range(9)]
    together = [line | {"question": "the same"} for line in lines]
    one = figures(write("judge.jsonl", together))
    assert one["questions"] == 1 and one["f1"] == found["f1"]
    assert one["interval"] == [one["f1"]] * 2 != found["interval"]


def test_every_interval_resamples_questions(write, figures):
    """If all solutions are of one question, no resample differs, and every interval is its figure."""
    lines = [line | {"problem": "the same", "part": "one"} for line in labelled(noisy(1, 2))]
    other = write("b.jsonl", noisy(2))
    found = figures(write("a.jsonl", lines), "--compare", other)
    for own in (found, found["compared_with"]):
        for key in ("", "_by_answer", "_binary"):
            assert own["interval" + key] == pytest.approx([own["f1" + key]] * 2), key
    assert all(row["interval"] == pytest.approx([row["f1"]] * 2) for row in found["majority"])
    assert all(row["interval"] == pytest.approx([row["measured"]] * 2) for row in found["differences"])
    apart = figures(write("a.jsonl", labelled(noisy(1, 2))), "--compare", other)
    assert all(row["interval"][0] < row["interval"][1] for row in [*apart["majority"], *apart["differences"]])


def test_blank_lines_other_line_ends_and_a_byte_order_mark_do_not_matter(tmp_path, write, figures):
    lines = labelled(noisy(2))
    expected = figures(write("judge.jsonl", lines))
    text = "\r\n\r\n".join(json.dumps(line) for line in lines) + "\r\n \r\n"
    (tmp_path / "judge.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert figures(tmp_path / "judge.jsonl") == expected


def test_a_prediction_for_the_solution_says_the_same_as_its_verdicts(folder, write, figures):
    """The official script's own output can be measured: it has a field `prediction`."""
    lines = noisy(4)
    by_steps = figures(write("steps.jsonl", lines), "--items", folder)
    whole = [{"id": line["id"], "prediction": first_objection(line["verdicts"]), "match": False} for line in lines]
    found = figures(write("whole.jsonl", whole), "--items", folder)
    same = ("predictions", "f1", "interval", "f1_by_answer", "f1_binary", "interval_binary", "accuracy_error", "accuracy_correct")
    for key in same:
        assert found[key] == by_steps[key], key
    for own in (found, *found["by_part"].values()):
        for key in ("right_steps_passed", "wrong_steps_rejected", "balanced_accuracy", "calibration_error", "tokens_per_step"):
            assert own[key] is None, key
    unreadable = [line["id"] for line in whole if line["prediction"] is None]
    assert found["unparseable"] == pytest.approx(len(unreadable) / len(whole)) and unreadable
    assert "reliability" not in found and "majority" not in found
    assert figures(write("own.jsonl", labelled(whole)))["f1"] == found["f1"]


@pytest.mark.parametrize("prediction,read", [(2, 2), (3, None), (-1, -1), (-2, None), (None, None), (0, 0)])
def test_a_prediction_that_is_no_step_is_unreadable(write, figures, prediction, read):
    line = {"id": "a", "label": 2, "steps": ["x", "y", "z"], "prediction": prediction}
    found = figures(write("judge.jsonl", [line, line | {"id": "b", "label": -1, "prediction": -1}]))
    assert found["predictions"] == {"a": read, "b": -1}
    assert found["unparseable"] == (0.5 if read is None else 0) and found["f1"] == (read == 2)


# --- steps, calibration, tokens -------------------------------------------------------------------------------------------


def test_step_accuracy_by_class_counts_steps_up_to_the_first_error(write, figures):
    lines = [
        {"id": "a", "label": 1, "verdicts": [True, True, False]},  # the last one has no label
        {"id": "b", "label": -1, "verdicts": [True, None, False]},
        {"id": "c", "label": 0, "verdicts": [False]},
        {"id": "d", "label": 0, "verdicts": [None, True]},
    ]
    found = figures(write("judge.jsonl", lines))
    assert found["right_steps_passed"] == 2 / 4 and found["wrong_steps_rejected"] == pytest.approx(1 / 3)
    assert found["balanced_accuracy"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert found["unparseable"] == pytest.approx(2 / 9)
    assert sum(row["count"] for row in found["reliability"]) == 7
    right = figures(write("judge.jsonl", [lines[1]]))
    assert right["wrong_steps_rejected"] is None and right["right_steps_passed"] == pytest.approx(1 / 3)
    wrong = figures(write("judge.jsonl", [lines[2]]))
    assert wrong["right_steps_passed"] is None and wrong["wrong_steps_rejected"] == 1


def test_accuracy_of_steps_by_side():
    assert metrics.step_accuracies([True, True, False, False, False], [True, None, False, None, True]) == (
        0.5,
        pytest.approx(1 / 3),
    )
    assert metrics.step_accuracies([True], [True]) == (1, 0) and metrics.step_accuracies([False], [True]) == (0, 0)


def test_calibration_is_that_of_scores_or_of_the_share_of_readable_votes(write, figures):
    rows = [{"id": "a", "label": 1, "verdicts": [[True, None, False, True], [None] * 4]}]
    found = figures(write("judge.jsonl", rows))
    assert [(row["count"], row["probability"], row["share"]) for row in found["reliability"]] == [
        (1, 0.5, 0),
        (1, pytest.approx(2 / 3), 1),
    ]
    assert found["calibration_error"] == pytest.approx((0.5 + 1 / 3) / 2)
    rows[0] |= {"scores": [0.9, 0.05]}
    both = figures(write("judge.jsonl", rows))
    assert both["calibration_error"] == pytest.approx((0.1 + 0.05) / 2) and both["predictions"] == found["predictions"]


def test_tokens_of_steps_or_of_the_solution(folder, write, figures):
    lines = noisy(5)
    counts = [[10 * i + 5 for i, _ in enumerate(line["verdicts"])] for line in lines]
    steps = [line | {"tokens": own} for line, own in zip(lines, counts, strict=True)]
    whole = [line | {"tokens": sum(own)} for line, own in zip(lines, counts, strict=True)]
    found = [figures(write("judge.jsonl", rows), "--items", folder) for rows in (steps, whole)]
    mean = sum(map(sum, counts)) / sum(map(len, counts))
    assert found[0] == found[1] and found[0]["tokens_per_step"] == pytest.approx(mean)
    assert figures(write("judge.jsonl", lines), "--items", folder)["tokens_per_step"] is None
    predicted = [{"id": line["id"], "prediction": -1, "tokens": own["tokens"]} for line, own in zip(lines, whole, strict=True)]
    assert figures(write("judge.jsonl", predicted), "--items", folder)["tokens_per_step"] == pytest.approx(mean)
    free = [line | {"tokens": 0} for line in lines]
    assert figures(write("judge.jsonl", free), "--items", folder)["tokens_per_step"] == 0


# --- votes ----------------------------------------------------------------------------------------------------------------


def column(lines: list[dict], k: int) -> list[dict]:
    return [{"id": line["id"], "verdicts": [own[k] for own in line["verdicts"]]} for line in lines]


def test_one_vote_in_a_list_is_a_bare_verdict(folder, write, figures):
    lines = noisy(6, votes=1)
    found = figures(write("judge.jsonl", lines), "--items", folder)
    assert found == figures(write("judge.jsonl", column(lines, 0)), "--items", folder) and "majority" not in found
    assert "unparseable_votes" not in found


@pytest.mark.parametrize("votes,ks", [(2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (5, [1, 2, 4, 5])])
def test_maj_at_k_goes_from_the_mean_sample_to_the_majority_of_all(folder, write, figures, votes, ks):
    lines = noisy(7, votes)
    found = figures(write("judge.jsonl", lines), "--items", folder)
    curve = found["majority"]
    assert [row["k"] for row in curve] == ks
    singles = [figures(write("one.jsonl", column(lines, k)), "--items", folder)["f1"] for k in range(votes)]
    assert curve[0]["f1"] == pytest.approx(sum(singles) / votes)
    assert curve[-1]["f1"] == found["f1"] and curve[-1]["interval"] == found["interval"]
    pairs = [
        [{"id": line["id"], "verdicts": [vote(own[at : at + 2]) for own in line["verdicts"]]} for line in lines]
        for at in range(0, votes - 1, 2)
    ]
    two = [figures(write("two.jsonl", rows), "--items", folder)["f1"] for rows in pairs]
    assert curve[1]["f1"] == pytest.approx(sum(two) / len(two))
    every = [own for line in lines for step in line["verdicts"] for own in step]
    assert found["unparseable_votes"] == pytest.approx(every.count(None) / len(every))
    assert all(0 <= row["interval"][0] <= row["interval"][1] <= 1 for row in curve)


def test_pass_at_k_stands_beside_maj_at_k_and_only_for_powers_of_two(folder, write, figures):
    curve = figures(write("judge.jsonl", noisy(8, 3)), "--items", folder)["majority"]
    for key in ("pass_solutions", "pass_steps"):
        first, second, last = (row[key] for row in curve)
        assert 0 < first <= second <= 1 and last is None


# --- scores ---------------------------------------------------------------------------------------------------------------


def test_a_step_passes_if_its_score_is_at_least_the_threshold(folder, write, figures):
    lines = scored(1)
    threshold = lines[0]["scores"][0]  # one score is exactly at the threshold
    found = figures(write("scores.jsonl", lines), "--items", folder, "--threshold", threshold)
    verdicts = [{"id": line["id"], "verdicts": [s >= threshold for s in line["scores"]]} for line in lines]
    by_verdict = figures(write("verdicts.jsonl", verdicts), "--items", folder)
    for key in ("predictions", "f1", "interval", "f1_by_answer", "f1_binary", "right_steps_passed", "wrong_steps_rejected"):
        assert found[key] == by_verdict[key], key
    assert found["threshold"] == threshold and by_verdict["threshold"] is None and found["unparseable"] == 0
    pairs = [
        (score, label)
        for row, line in zip(ALL, lines, strict=True)
        for i, (score, label) in enumerate(zip(line["scores"], truth(row), strict=True))
        if row["label"] < 0 or i <= row["label"]
    ]
    assert found["calibration_error"] == pytest.approx(calibration_error(*map(list, zip(*pairs, strict=True))))


@pytest.mark.parametrize("threshold", [0, 1])
def test_the_extreme_thresholds_pass_everything_and_nothing(folder, write, figures, threshold):
    lines = [line | {"scores": [0] + [0.5] * (len(line["scores"]) - 1)} for line in scored(1)]
    found = figures(write("scores.jsonl", lines), "--items", folder, "--threshold", threshold)
    assert set(found["predictions"].values()) == {-1 if threshold == 0 else 0}


def test_validation_data_choose_the_threshold(folder, write, figures):
    rows = published_rows("held-out", 15, seed=1)
    lines = scored(2, rows)
    expected, f1 = metrics.best_threshold([row["label"] for row in rows], [line["scores"] for line in lines])
    path = write("scores.jsonl", scored(1))
    held_out = write("held.jsonl", labelled(lines, rows))
    found = figures(path, "--items", folder, "--validation", held_out)
    assert found["threshold"] == expected
    fixed = figures(path, "--items", folder, "--threshold", expected)
    assert found["f1"] == fixed["f1"] and found["predictions"] == fixed["predictions"]
    assert fixed["notes"] == found["notes"][1:] and not any("measured" in note for note in found["notes"])
    assert f"threshold {expected:.2f}" in found["notes"][0] and f"F1 there {100 * f1:.1f}" in found["notes"][0]
    both = write("both.jsonl", [row | {"verdicts": [True] * len(row["steps"])} for row in labelled(lines, rows)])
    assert figures(path, "--items", folder, "--validation", both)["threshold"] == expected  # verdicts are not looked at


def test_validation_may_use_the_published_labels_and_shared_questions_are_told(folder, write, figures):
    """ProcessBench itself chooses thresholds on GSM8K; a reader must know."""
    path = write("math.jsonl", scored(1, ROWS["math"]))
    other = write("gsm8k.jsonl", scored(2, ROWS["gsm8k"]))
    found = figures(path, "--items", folder, "--validation", other)
    assert not any("may be too high" in note for note in found["notes"]) and found["solutions"] == 17
    own = figures(path, "--items", folder, "--validation", path)
    assert any("17 solutions of" in note and "may be too high" in note for note in own["notes"])
    same = [row | {"id": f"v{i}"} for i, row in enumerate(labelled(scored(3, ROWS["math"])[:5]))]  # other ids, same questions
    found = figures(path, "--items", folder, "--validation", write("v.jsonl", same))
    assert any(note.startswith("5 solutions of") for note in found["notes"])
    unnamed = [{key: row[key] for key in ("id", "label", "scores")} for row in labelled(scored(3, ROWS["math"])[:4])]
    found = figures(path, "--items", folder, "--validation", write("v.jsonl", unnamed))  # the same ids, no question
    assert any(note.startswith("4 solutions of") for note in found["notes"])


# --- two judges -----------------------------------------------------------------------------------------------------------


def test_differences_are_paired_and_change_their_sign(folder, write, figures):
    a, b = write("a.jsonl", noisy(1)), write("b.jsonl", random.Random(0).sample(noisy(2), len(ALL)))
    found = figures(a, "--items", folder, "--compare", b)
    alone = {"a": figures(a, "--items", folder), "b": figures(b, "--items", folder)}
    rows = {row["name"]: row for row in found["differences"]}
    assert list(rows) == ["F1", "F1 by final answer", "F1 binary", "F1, gsm8k", "F1, math"]
    for name, key in (("F1", "f1"), ("F1 by final answer", "f1_by_answer"), ("F1 binary", "f1_binary")):
        assert rows[name]["measured"] == pytest.approx(alone["a"][key] - alone["b"][key])
    for part in PARTS:
        expected = alone["a"]["by_part"][part]["f1"] - alone["b"]["by_part"][part]["f1"]
        assert rows[f"F1, {part}"]["measured"] == pytest.approx(expected)
    assert without_names(found["compared_with"]) | {"notes": []} == without_names(alone["b"])
    for row, back in zip(found["differences"], figures(b, "--items", folder, "--compare", a)["differences"], strict=True):
        assert back["measured"] == pytest.approx(-row["measured"])
        assert back["interval"] == pytest.approx([-row["interval"][1], -row["interval"][0]])
    same = figures(a, "--items", folder, "--compare", a)["differences"]
    assert all(row["measured"] == 0 and row["interval"] == [0, 0] for row in same)


def test_another_judge_needs_no_labels_and_has_its_own_threshold(write, figures):
    a = write("a.jsonl", labelled(scored(1)))
    b = write("b.jsonl", scored(2))
    found = figures(a, "--threshold", 0.5, "--compare", b, "--compare-threshold", 0.6)
    assert (found["threshold"], found["compared_with"]["threshold"]) == (0.5, 0.6)
    held = published_rows("held-out", 15, seed=1)
    validation = write("held.jsonl", labelled(scored(3, held), held))
    chosen = figures(a, "--threshold", 0.5, "--compare", b, "--compare-validation", validation)
    assert chosen["compared_with"]["threshold"] == figures(b.replace("b.j", "a.j"), "--validation", validation)["threshold"]
    assert any(note.startswith(f"{b}: threshold") for note in chosen["notes"])
    verdicts = write("v.jsonl", noisy(1))
    assert figures(a, "--threshold", 0.5, "--compare", verdicts)["compared_with"]["threshold"] is None


def test_without_final_answers_there_is_no_difference_by_answer(write, figures):
    lines = [{key: row[key] for key in ("id", "label", "verdicts")} for row in labelled(noisy(1, rows=ROWS["math"]))]
    other = write("b.jsonl", labelled(noisy(2, rows=ROWS["math"])))
    found = figures(write("a.jsonl", lines), "--compare", other)
    assert [row["name"] for row in found["differences"]] == ["F1", "F1 binary"]
    assert found["compared_with"]["f1_by_answer"] is None


def test_some_of_the_solutions_are_measured_only_on_demand(folder, write, figures, refused):
    some = noisy(1)[:10]
    path = write("some.jsonl", some)
    assert "no line for 'gsm8k-10' and 1 more: add it, or measure the others alone with --partial" in refused(
        path, "--items", folder
    )
    found = figures(path, "--items", folder, "--partial")
    assert found["solutions"] == 10 and list(found["predictions"]) == [line["id"] for line in some]
    path = write("one.jsonl", noisy(1)[:11])
    assert "no line for 'gsm8k-11': add it" in refused(path, "--items", folder)
    error = refused(path, "--items", folder, "--partial", "--compare", write("less.jsonl", some))
    assert "less.jsonl has no line for 'gsm8k-10': --compare needs the solutions of" in error
    error = refused(write("less.jsonl", some), "--items", folder, "--partial", "--compare", path)
    assert "one.jsonl:11: id: no solution 'gsm8k-10' is known" in error


# --- what is printed ------------------------------------------------------------------------------------------------------


def test_tables_are_markdown_with_equal_rows(folder, write, capsys):
    a, b = write("a|b.jsonl", noisy(1, 4)), write("other.jsonl", scored(1))
    command.main([a, "--items", str(folder), "--compare", b, "--compare-threshold", "0.5", "--resamples", "10"])
    out, error = capsys.readouterr()
    assert error == ""
    blocks = [block.splitlines() for block in out.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 3 + 2 + 1  # the second judge has no votes
    for block in blocks:
        assert len({len(line) for line in block}) == 1 and set(block[1]) <= set("|-: ")
        assert len({line.replace("\\|", "").count("|") for line in block}) == 1
    assert blocks[0][0].startswith("| a\\|b") and blocks[3][0].startswith("| other")
    names = [line.split("|")[1].strip() for line in blocks[3][2:]]
    assert "unreadable votes" not in names and "unreadable votes" in "".join(blocks[0]) and "F1 (official), pooled" in names
    assert [line.split("|")[1].strip() for line in blocks[1][2:]] == ["1", "2", "4"]
    assert all("+" in line or "-" in line for line in blocks[5][2:]) and "F1, math" in "".join(blocks[5])
    assert "means over the parts" in out.splitlines()[-1]


def test_one_part_has_no_pooled_row_and_missing_figures_are_dashes(write, capsys):
    lines = [{"id": i, "label": i % 2 - 1, "steps": ["x", "y"], "prediction": -1} for i in range(4)]
    command.main([write("judge.jsonl", lines), "--resamples", "10"])
    out = capsys.readouterr().out
    cells = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in out.splitlines() if line.startswith("|")}
    assert "F1 (official), pooled" not in cells and "over the parts" not in out
    for name in ("F1 by final answer", "right steps passed", "mean of these two", "calibration error (ECE)", "tokens per step"):
        assert cells[name] == "–", name
    assert cells["right solution passed"] == "100.0" and cells["F1 (official)"] == "0.0 [0.0, 0.0]" and cells["solutions"] == "4"


def test_numbers_as_papers_print_them():
    assert command.percent(0.12345) == "12.3" and command.percent(1.0, (0.5, 1)) == "100.0 [50.0, 100.0]"
    assert command.percent(0.021, (-0.01, 0.05), "+") == "+2.1 [-1.0, +5.0]" and command.percent(None, (0, 1)) == "–"
    assert command.count(12345.6) == "12,346" and command.count(0) == "0" and command.count(None) == "–"


def test_a_side_without_solutions_is_told(write, figures):
    one = labelled(noisy(1, rows=ROWS["gsm8k"]))
    for keep, side in ((True, "without"), (False, "with")):
        lines = [line for line in one if (line["label"] >= 0) is keep]
        assert figures(write("judge.jsonl", lines))["notes"] == [f"no solution {side} an error: its F1 is 0 for any judge"]
    lines = [line for line in labelled(noisy(1)) if line["label"] < 0 or line["id"].startswith("math")]
    assert figures(write("judge.jsonl", lines))["notes"] == ["no solution with an error in gsm8k: its F1 is 0 for any judge"]
    assert figures(write("judge.jsonl", one))["notes"] == []


def test_seed_and_resamples_change_intervals_only(write, capsys):
    path = write("judge.jsonl", labelled(noisy(1)))

    def run(*arguments: str) -> dict:
        command.main([path, "--json", *arguments])
        return json.loads(capsys.readouterr().out)

    first, again, other, more = (
        run("--resamples", "20"),
        run("--resamples", "20"),
        run("--resamples", "20", "--seed", "3"),
        run("--resamples", "40"),
    )
    assert first == again and first["f1"] == other["f1"] == more["f1"]
    assert first["interval"] != other["interval"] and first["interval"] != more["interval"]


def test_intervals_come_from_a_thousand_resamples_unless_told_otherwise():
    options = command._parser().parse_args(["judge.jsonl"])
    assert (options.resamples, options.seed) == (1000, 0)


def test_it_runs_as_a_module_and_explains_itself(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["minisw.evaluate", "--help"])
    monkeypatch.delitem(sys.modules, "minisw.evaluate.__main__")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("minisw.evaluate", run_name="__main__")
    assert not ended.value.code and '{"id": "gsm8k-0", "verdicts": [true, false, null]}' in capsys.readouterr().out


def test_it_loads_no_torch():
    code = "import minisw.evaluate.__main__, sys; print('torch' in sys.modules, 'datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False False\n"


# --- mistakes -------------------------------------------------------------------------------------------------------------

GOOD = {"id": "a", "label": 1, "verdicts": [True, False]}
SCORES = {"id": "a", "label": 1, "scores": [0.9, 0.1]}
WHOLE = {"id": "a", "label": 1, "steps": ["x", "y"], "prediction": 1}


def changed(line: dict, **values: object) -> dict:
    return {key: value for key, value in (line | values).items() if value != "DROP"}


@pytest.mark.parametrize(
    "second,message",
    [
        ("{", "not JSON in UTF-8"),
        pytest.param("[" * 100_000, "not JSON in UTF-8", id="nested too deep"),
        ("[1]", "no JSON object"),
        (changed(GOOD, id="DROP"), "id: missing"),
        (changed(GOOD, id=""), "id: missing"),
        (changed(GOOD, id=True), "id: missing"),
        (changed(GOOD, id=1.5), "id: missing"),
        (GOOD | {"id": "first"}, "id: 'first' was also at"),
        (changed(GOOD, verdicts="DROP"), "verdicts: missing: add verdicts, scores or prediction"),
        (changed(GOOD, verdicts="DROP", verdict=[True]), "verdict: no such field: did you mean verdicts?"),
        (changed(GOOD, token=3), "token: no such field: did you mean tokens?"),
        (changed(GOOD, prediction=1), "prediction: there are verdicts too"),
        (changed(GOOD, scores=[1, 0]), "verdicts and scores: the first line has verdicts: give the same"),
        (changed(GOOD, tokens=3), "tokens: some lines have it and some do not"),
        (changed(GOOD, label="DROP"), "label: missing: add the index of the first wrong step"),
        (changed(GOOD, label=2), "label: 2 is no index of 2 steps: count from 0"),
        (changed(GOOD, label=-2), "label: -2 is no index"),
        (changed(GOOD, label=None), "label: None is no index"),
        (changed(GOOD, label=1.0), "label: 1.0 is no index"),
        (changed(GOOD, label=True), "label: True is no index"),
        (changed(GOOD, verdicts=[]), "verdicts: no list of values"),
        (changed(GOOD, verdicts=True), "verdicts: no list of values"),
        (changed(GOOD, verdicts=True, steps=["x"], label=0), "verdicts: no list: give one value for each step"),
        (changed(GOOD, verdicts=[True, 1]), "verdicts: 1 for step 1: give true, false or, if unreadable, null"),
        (changed(GOOD, verdicts=["Positive", True]), "verdicts: 'Positive' for step 0"),
        (changed(GOOD, verdicts=[[True], [True, True]]), "verdicts: 2 votes for step 1, 1 for step 0: give 1 or more"),
        (changed(GOOD, verdicts=[[], []]), "verdicts: 0 votes for step 0"),
        (changed(GOOD, verdicts=[[True, True], [None, True]]), "verdicts: 2 votes for each step, 1 at"),
        (changed(GOOD, steps=["x"] * 3), "verdicts: 2 values for 3 steps: give one for each; a judge that stops"),
        (changed(GOOD, steps=[]), "steps: no list of texts"),
        (changed(GOOD, steps="xy"), "steps: no list of texts"),
        (changed(GOOD, steps=["x", 2]), "steps: no list of texts"),
        (changed(GOOD, question=3), "question: no string"),
        (changed(GOOD, problem=3), "question: no string"),
        (changed(GOOD, part=3), "part: no string"),
        (changed(GOOD, part="own"), "part: missing, but other solutions have one"),
        (changed(GOOD, final_answer_correct=1), "final_answer_correct: give true or false"),
        (changed(GOOD, final_answer_correct=None), "final_answer_correct: give true or false"),
    ],
    ids=str,
)
def test_a_line_that_cannot_be_used_is_named_with_its_field(write, refused, second, message):
    error = refused(write("judge.jsonl", [GOOD | {"id": "first"}, "", second]))
    line = 1 if message.startswith("part: missing") else 3
    assert f"judge.jsonl:{line}: {message}" in error


@pytest.mark.parametrize(
    "line,message",
    [
        (changed(SCORES, scores=[0.5, 1.01]), "scores: 1.01 for step 1 is no probability"),
        (changed(SCORES, scores=[-0.01, 1]), "scores: -0.01 for step 0"),
        (changed(SCORES, scores=[float("nan"), 1]), "scores: nan for step 0"),
        (changed(SCORES, scores=[None, 1]), "scores: None for step 0"),
        (changed(SCORES, scores=[True, 1]), "scores: True for step 0"),
        (changed(SCORES, scores=["1", 1]), "scores: '1' for step 0"),
        (changed(SCORES, scores={"a": 1}), "scores: no list of values"),
        (changed(SCORES, tokens=[1]), "tokens: 1 values for 2 steps: give one for each\n"),
        (changed(SCORES, tokens=[1, -1]), "tokens: no count"),
        (changed(SCORES, tokens=-1), "tokens: no count"),
        (changed(SCORES, tokens=10**9 + 1), "tokens: no count"),
        (changed(SCORES, tokens=True), "tokens: no count"),
        (changed(SCORES, tokens="12"), "tokens: no count"),
        (changed(SCORES, tokens=None), "tokens: no count"),
    ],
    ids=str,
)
def test_scores_and_tokens_are_numbers_in_their_range(write, refused, line, message):
    assert f"judge.jsonl:1: {message}" in refused(write("judge.jsonl", [line]), "--threshold", "0.5")


def test_numbers_at_the_ends_of_their_range_are_taken(write, figures):
    found = figures(write("judge.jsonl", [changed(SCORES, scores=[1, 0.0], tokens=[10**9, 0])]), "--threshold", 1)
    assert found["tokens_per_step"] == 5 * 10**8 and found["predictions"] == {"a": 1}


@pytest.mark.parametrize("value", ["1", 1.0, True, [1]])
def test_a_prediction_is_an_index_or_null(write, refused, value):
    assert "judge.jsonl:1: prediction: no index" in refused(write("judge.jsonl", [WHOLE | {"prediction": value}]))


def test_a_prediction_needs_the_steps(write, refused):
    error = refused(write("judge.jsonl", [changed(WHOLE, steps="DROP")]))
    assert "judge.jsonl:1: steps: missing" in error and "--items" in error


def test_files_that_cannot_be_read_are_named(tmp_path, write, refused):
    assert f"cannot read {tmp_path / 'none.jsonl'}: No such file" in refused(tmp_path / "none.jsonl")
    assert f"cannot read {tmp_path}: " in refused(tmp_path)
    assert "empty.jsonl is empty: write one JSON object" in refused(write("empty.jsonl", ["", " "]))
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9"}\n')
    assert "latin.jsonl:1: not JSON in UTF-8" in refused(tmp_path / "latin.jsonl")


def test_ids_and_labels_must_be_those_of_the_items(folder, write, refused, figures):
    lines = noisy(1)
    path = write("judge.jsonl", [lines[0], lines[1] | {"id": "gsm8k-99"}])
    assert f"{path}:2: id: no solution 'gsm8k-99' is known, only such as 'gsm8k-0'" in refused(path, "--items", folder)
    label = ROWS["gsm8k"][1]["label"]
    path = write("judge.jsonl", [lines[0], lines[1] | {"label": label + 1}])
    assert f"{path}:2: label: {label + 1}, but the known one is {label}" in refused(path, "--items", folder, "--partial")
    assert (
        figures(write("judge.jsonl", [lines[0], lines[1] | {"label": label}]), "--items", folder, "--partial")["solutions"] == 2
    )
    short = [lines[0] | {"verdicts": lines[0]["verdicts"][:-1]}, *lines[1:]]
    assert "values for" in refused(write("judge.jsonl", short), "--items", folder)


@pytest.mark.parametrize(
    "spoiled,message",
    [
        ({"id": 3}, "id: no string, or used twice"),
        ({"id": "gsm8k-0"}, "id: no string, or used twice"),
        ({"problem": None}, "problem: no string"),
        ({"label": 9}, "label: 9 is no index"),
        ({"label": "1"}, "label: '1' is no index"),
        ({"steps": None}, "lacks a field"),
    ],
)
def test_a_damaged_row_of_the_items_is_named(folder, write, refused, spoiled, message):
    rows = [dict(row) for row in ROWS["gsm8k"]]
    rows[1] |= spoiled
    (folder / "processbench" / "gsm8k.json").write_text(json.dumps(rows))
    error = refused(write("judge.jsonl", noisy(1)), "--items", folder)
    assert message in error and "gsm8k.json" in error


def test_items_that_are_no_items_are_named(tmp_path, folder, write, refused):
    path = write("judge.jsonl", noisy(1))
    (tmp_path / "nothing").mkdir()
    assert "holds none of gsm8k.json, math.json, olympiadbench.json, omnimath.json" in refused(
        path, "--items", tmp_path / "nothing"
    )
    assert "cannot read" in refused(path, "--items", tmp_path / "none.json")
    assert "give a .jsonl, .json or .parquet file" in refused(path, "--items", write("items.txt", ["x"]))
    for text in ("{}", "5", "{"):
        assert "is damaged: it is no JSON list" in refused(path, "--items", write("items.json", [text]))


@pytest.mark.parametrize(
    "arguments,message",
    [
        ([], "the following arguments are required: PREDICTIONS; see python -m minisw.evaluate --help"),
        (["P", "--wrong"], "unrecognized arguments: --wrong"),
        (["P", "--part"], "unrecognized arguments: --part"),
        (["P", "--threshold", "x"], "invalid float value"),
        (["P", "--threshold", "1.01"], "--threshold is 1.01: give a number from 0 to 1"),
        (["P", "--threshold", "-0.01"], "--threshold is -0.01"),
        (["P", "--threshold", "nan"], "--threshold is nan"),
        (["P", "--compare", "P", "--compare-threshold", "2"], "--compare-threshold is 2.0"),
        (["P", "--threshold", "0", "--validation", "P"], "--threshold and --validation both set the threshold"),
        (
            ["P", "--compare", "P", "--compare-threshold", "0.5", "--compare-validation", "P"],
            "--compare-threshold and --compare-validation both set",
        ),
        (["P", "--compare-threshold", "0"], "are about another judge: name it with --compare"),
        (["P", "--compare-validation", "P"], "are about another judge: name it with --compare"),
        (["P", "--partial"], "--partial is about published items: name them with --items"),
        (["P", "--resamples", "9"], "--resamples is 9: it must be at least 10"),
        (["P", "--seed", "-1"], "--seed is -1: it must be 0 or more"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_used_is_named(write, refused, arguments, message):
    path = write("judge.jsonl", [GOOD])
    assert message in refused(*[path if argument == "P" else argument for argument in arguments])


def test_a_threshold_is_for_scores_and_scores_need_one(write, refused):
    scores, verdicts, whole = (write(f"{i}.jsonl", [line]) for i, line in enumerate((SCORES, GOOD, WHOLE)))
    assert "0.jsonl has scores alone: give a threshold, or validation data" in refused(scores)
    assert "1.jsonl has verdicts: a threshold is for scores alone" in refused(verdicts, "--threshold", "0")
    assert "2.jsonl has prediction: a threshold is for scores alone" in refused(whole, "--threshold", "0")
    both = write("both.jsonl", [SCORES | {"verdicts": [True, True]}])
    assert "both.jsonl has verdicts: a threshold" in refused(both, "--threshold", "0.5")
    assert "0.jsonl has scores alone" in refused(verdicts, "--compare", scores, "--resamples", "10")


def test_validation_data_need_scores_and_both_sides(write, refused):
    scores = write("scores.jsonl", [SCORES])
    assert "v.jsonl:1: scores: missing: validation data need" in refused(scores, "--validation", write("v.jsonl", [GOOD]))
    for label in (-1, 1):
        lines = [SCORES | {"id": str(i), "label": label} for i in range(2)]
        assert "cannot choose a threshold" in refused(scores, "--validation", write("v.jsonl", lines))
    no_labels = write("v.jsonl", [changed(SCORES, label="DROP")])
    assert "v.jsonl:1: label: missing" in refused(scores, "--validation", no_labels)
    bad = write("v.jsonl", [SCORES | {"id": "x", "label": -1}, SCORES | {"scores": [1, 2]}])
    assert "v.jsonl:2: scores: 2 for step 1" in refused(scores, "--validation", bad)
