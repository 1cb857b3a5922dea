"""Tables of studies of whole runs: means over seeds, figures by name, and nothing where there is nothing."""

import json

import pytest

from minisw.report import tables
from minisw.report.study_tables import STUDY_TABLES, contrasts_table, costs_table, is_claim, pareto_table, selection_table


def pareto(arm: str, multiple: int, accuracy: float, tokens: float, seed: int = 0, split: str = "test", **more) -> dict:
    return {"seed": seed, "arm": arm, "split": split, "multiple": multiple, "accuracy": accuracy, "tokens": tokens, **more}


ROWS = [
    pareto("plain", 1, 0.4, 100),
    pareto("chunk_reset", 1, 0.7, 700, difference=0.25, flops=2e9, judge_tokens=400),
    pareto("chunk_reset", 8, 0.8, 790),
    pareto("chunk_reset", 8, 0.6, 810, seed=1),
    pareto("chunk_reset", 8, 0.1, 5, split="hard"),
    pareto("chunk_reset", 2, 0.9, 7, split="validation"),
]


def contrast(figure: str) -> dict:
    return {
        "id": f"by-{figure}", "claim": "c", "a": "a", "b": "b", "source": "us", "paper": 0.021, "figure": figure,
        "measured": 0.5, "interval": [0.25, 0.75], "each": [0.25, 0.75], "seeds": [0, 1],
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    def make(**found):
        (tmp_path / "results.json").write_text(json.dumps({"contrasts": [], **found}), encoding="utf-8")
        return [tmp_path]

    return make


def test_methods_by_budgets_with_accuracy_and_tokens(folder):
    judges = [
        {"seed": seed, "id": "stepwiser", "name": "StepWiser", "f1": f1, "f1_interval": [0, 1], "accuracy": 0.5, "tokens": 9}
        for seed, f1 in ((0, 0.6), (1, 0.8))
    ]
    assert pareto_table(folder(pareto=ROWS, judges=judges)).splitlines() == [
        "| method, test problems | 1× | 8× |",
        "| --- | ---: | ---: |",
        "| plain | 0.40 (100) | – |",
        "| chunk reset | 0.70 (700) | 0.70 (800) |",
        "",
        "| method, harder problems | 8× |",
        "| --- | ---: |",
        "| chunk reset | 0.10 (5) |",
        "",
        "| judge | F1 | accuracy | all tokens |",
        "| --- | ---: | ---: | ---: |",
        "| StepWiser | 0.70 (0.60 0.80) | 0.50 | 9 |",
    ]
    assert pareto_table(folder(judges=judges)).count("\n") == 3 and "method" not in pareto_table(folder(judges=judges))


def test_costs_have_a_row_for_each_search(folder):
    assert costs_table(folder(pareto=ROWS)).splitlines()[2:] == [
        "| test | plain | 1× | 0.40 | – | – | 100 | – |",
        "| test | chunk_reset | 1× | 0.70 | +0.250 | 400 | 700 | 2e+09 |",
        "| test | chunk_reset | 8× | 0.70 | – | – | 800 | – |",
        "| hard | chunk_reset | 8× | 0.10 | – | – | 5 | – |",
    ]


def test_selection_shows_rounds_rewards_and_what_was_gamed(folder):
    selection = [
        {"seed": s, "round": number, "id": "outcome", "name": "at random", "greedy": 0.5, "sampled": 0.25, "lucky": lucky}
        for s, number, lucky in ((0, 1, 0.1), (1, 1, 0.3), (0, 2, 0.4))
    ]
    dense = [{"seed": 0, "id": "process", "name": "both", "greedy": 0.75, "sampled": 0.5, "greedy_interval": [0.5, 1]}]
    judged = (("first", 0.1), ("last", 1))
    hacking = [{"seed": 0, "id": "process", "name": "both", "when": when, "policy/process": p} for when, p in judged]
    shown = selection_table(folder(selection=selection, dense=dense, hacking=hacking)).split("\n\n")
    assert [part.splitlines()[0].split(" | ")[0] for part in shown] == ["| chosen", *["| rewarded by GRPO"] * 2]
    assert shown[0].splitlines()[2:] == ["| at random | 1 | 0.50 | 0.25 | 0.20 |", "| at random | 2 | 0.50 | 0.25 | 0.40 |"]
    assert shown[1].splitlines()[2:] == ["| both | 0.75 [0.50, 1.00] | 0.50 |"]
    assert shown[2].splitlines()[2:] == ["| both | first | 0.10 |", "| both | last | 1.00 |"]


def test_a_study_has_no_tables_of_others(folder):
    found = folder(pareto=ROWS)
    assert [name for name, make in STUDY_TABLES.items() if make(found)] == ["pareto", "costs"]
    assert tables.all_tables(found) == [pareto_table(found), costs_table(found)]
    assert [name for name, make in STUDY_TABLES.items() if make(folder(selection=[{"id": "x", "round": 1, "name": "n"}]))] == [
        "selection"
    ]


def test_contrasts_name_their_figure_and_sampled_ones_make_no_claim(folder):
    names = {
        "f1": "F1, greedy", "f1_sampled": "F1, sampled", "greedy": "accuracy, greedy", "sampled": "accuracy, sampled",
        "accuracy": "accuracy", "spearman": "rank correlation",
    }  # fmt: skip
    found = folder(contrasts=[contrast(figure) for figure in names])
    lines = contrasts_table(found).splitlines()
    assert lines[0] == "| claim | figure | paper | mean | 95%, other seeds | each seed | outcome |"
    assert lines[2:] == [
        f"| `by-{figure}` | {name} | +0.021 | +0.500 | [+0.250, +0.750] | +0.250 +0.750 | holds |"
        for figure, name in names.items()
    ]
    claims = [figure for figure in names if is_claim(contrast(figure))]
    assert claims == ["f1", "greedy", "accuracy", "spearman"]
    assert [row["id"] for row in tables.study_claims(found[0])] == [f"by-{figure}" for figure in claims]


def test_a_document_may_hold_these_tables(folder, tmp_path):
    folder(pareto=ROWS)
    path = tmp_path.parent / f"{tmp_path.name}.md"
    path.write_text(f"<!-- table: pareto {tmp_path.name} -->\n<!-- end -->\n", encoding="utf-8")
    assert tables.update(path) and pareto_table([tmp_path]) in path.read_text(encoding="utf-8")
    path.write_text(f"<!-- table: selection {tmp_path.name} -->\n<!-- end -->\n", encoding="utf-8")
    with pytest.raises(ValueError, match="have no metrics for it"):
        tables.update(path)


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no results of a study: run python -m minisw.reproduce --study ablations first"):
        pareto_table([tmp_path])
