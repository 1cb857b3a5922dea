"""Markdown tables of one run and of several seeds, and tables inside documents."""

import json
from pathlib import Path

import pytest

from minisw.report import columns, tables
from minisw.report.__main__ import main
from minisw.report.claims import SPECS, make_claim

ROOT = Path(__file__).resolve().parents[2]
TINY = sorted((ROOT / "data" / "results" / "tiny").glob("seed-*"))
GSM8K = ROOT / "data" / "results" / "gsm8k-0.5b"


def write(folder, stage, value):
    (folder / stage).mkdir(parents=True, exist_ok=True)
    (folder / stage / "metrics.json").write_text(json.dumps(value))


def search_runs(tmp_path, *differences):
    """Run folders whose only figure is chunk-reset minus plain sampling, ± 0.1."""
    for seed, value in enumerate(differences):
        write(tmp_path / str(seed), "search", {"difference": {"measured": value, "interval": [value - 0.1, value + 0.1]}})
    return [tmp_path / str(seed) for seed in range(len(differences))]


def row_of(rows, name="search-beats-sampling"):
    return next(row for row in rows if row["id"] == name)


def test_the_unit_is_the_seed(tmp_path):
    row = row_of(tables.pool(search_runs(tmp_path, 0.1, 0.2, 0.3)))
    assert row["measured"] == pytest.approx(0.2) and row["each"] == [0.1, 0.2, 0.3]
    assert row["interval"] == pytest.approx((0.2 - 4.303 * 0.1 / 3**0.5, 0.2 + 4.303 * 0.1 / 3**0.5))
    assert row["items_interval"] == pytest.approx((0.2 - 0.1 / 3**0.5, 0.2 + 0.1 / 3**0.5))
    assert row["outcome"] == "not settled"  # each run and their items say yes; three seeds do not settle it
    assert row_of(tables.pool(search_runs(tmp_path, 0.19, 0.2, 0.21)))["outcome"] == "holds"
    assert row_of(tables.pool(search_runs(tmp_path, -0.19, -0.2, -0.21)))["outcome"] == "does not hold"


def test_one_run_keeps_its_own_interval(tmp_path):
    row = row_of(tables.pool(search_runs(tmp_path, 0.2)))
    assert row["interval"] == pytest.approx((0.1, 0.3)) and row["outcome"] == "holds"
    line = next(line for line in tables.claims_table([tmp_path / "0"]).splitlines() if "search-beats-sampling" in line)
    assert line == "| `search-beats-sampling` | +0.057 | +0.200 [+0.100, +0.300] | holds |"


def test_a_claim_that_only_some_runs_tested_counts_those(tmp_path):
    folders = search_runs(tmp_path, 0.1, 0.3)
    (tmp_path / "empty").mkdir()
    row = row_of(tables.pool([*folders, tmp_path / "empty"]))
    assert row["each"] == [0.1, 0.3] and row["measured"] == pytest.approx(0.2)
    untested = row_of(tables.pool(folders), "tenth-of-labels")
    assert untested["outcome"] == "not tested" and untested["measured"] is untested["interval"] is None
    assert untested["items_interval"] is None and untested["each"] == []


def test_claims_of_several_runs_in_markdown(tmp_path):
    lines = tables.claims_table(search_runs(tmp_path, 0.19, 0.2, 0.21)).splitlines()
    assert lines[0] == "| claim | paper | mean | 95%, other seeds | 95%, other test items | each run | outcome |"
    (line,) = [line for line in lines if "search-beats-sampling" in line]
    assert line == (
        "| `search-beats-sampling` | +0.057 | +0.200 | [+0.175, +0.225] | [+0.142, +0.258] | +0.190 +0.200 +0.210 | holds |"
    )
    assert len({line.count("|") for line in lines}) == 1
    summary = tables.summary_table([tmp_path / str(i) for i in range(3)])
    assert f"| {SPECS['search-beats-sampling'].claim} | +0.057 | +0.200 | [+0.175, +0.225] | holds |" in summary


def test_papers_figures_of_other_contrasts_are_in_brackets_and_ratios_have_no_sign():
    tenth = columns.claim_cells(make_claim(SPECS["tenth-of-labels"], 0.1, (0.05, 0.15)))
    assert tenth["paper"] == "(+0.090)" and tenth["measured"] == "+0.100 [+0.050, +0.150]"
    fewer = columns.claim_cells(make_claim(SPECS["segment-fewer-chunks"], 0.6, (0.5, 0.7)))
    assert fewer["paper"] == "0.625" and fewer["measured"] == "0.600 [0.500, 0.700]"
    untested = columns.claim_cells(make_claim(SPECS["grpo-beats-untrained"], None, None))
    assert untested["paper"] == untested["measured"] == untested["over_seeds"] == untested["each"] == "–"


def test_rows_show_the_mean_and_each_run_of_headline_figures(tmp_path):
    for seed, accuracy in enumerate((0.4, 0.6)):
        row = {"method": "plain sampling", "accuracy": accuracy, "interval": [0.1, 0.9], "policy_tokens": 1000 + 2 * seed}
        write(tmp_path / str(seed), "search", {"rows": [row | {"judge_tokens": 0}]})
    head, rule, row = tables.search_table([tmp_path / "0", tmp_path / "1"]).splitlines()
    assert head == "| method | accuracy | policy tokens | judge tokens |"  # columns without any value are left out
    assert row == "| plain sampling | 0.50 (0.40 0.60) | 1,001 | 0 |"
    assert rule == "| --- | ---: | ---: | ---: |"
    assert tables.search_table([tmp_path / "1"]).splitlines()[2] == "| plain sampling | 0.60 [0.10, 0.90] | 1,002 | 0 |"
    assert tables.search_table([tmp_path]) == "" and tables.all_tables([tmp_path]) == []


def test_runs_with_different_rows_are_refused(tmp_path):
    for name in "ab":
        write(tmp_path / name, "search", {"rows": [{"method": name, "accuracy": 0.5}]})
    with pytest.raises(ValueError, match="different rows"):
        tables.search_table([tmp_path / "a", tmp_path / "b"])


def test_rows_are_matched_by_name_and_not_by_place(tmp_path):
    rows = [{"id": name, "name": name, "f1": value} for name, value in (("a", 0.2), ("b", 0.8))]
    write(tmp_path / "0", "evaluate", {"rows": rows})
    write(tmp_path / "1", "evaluate", {"rows": rows[::-1]})
    table = tables.judges_table([tmp_path / "0", tmp_path / "1"])
    assert "| a | 0.20 |" in table and "| b | 0.80 |" in table


def test_parts_have_tables_of_their_own_and_the_pooled_f1_is_shown_only_beside_them():
    whole, gsm8k, math = tables.judges_table([GSM8K]).split("\n\n")
    assert "| F1 | F1 pooled | F1 by answer |" in whole and gsm8k.startswith("| judge, gsm8k only | F1 | F1 by answer |")
    row = {r["id"]: r for r in json.loads((GSM8K / "evaluate" / "metrics.json").read_text())["rows"]}["stepwiser"]
    assert row["f1"] == pytest.approx((row["by_part"]["gsm8k"]["f1"] + row["by_part"]["math"]["f1"]) / 2)
    assert f"| StepWiser | 78 | {row['f1']:.2f} [" in whole
    assert f"| StepWiser | {row['by_part']['math']['f1']:.2f} [" in math
    assert "pooled" not in tables.judges_table(TINY)


def test_all_tables_of_the_committed_runs():
    assert len(TINY) == 3 and "95%, other seeds" in tables.all_tables(TINY)[0]
    found = tables.all_tables(TINY[:1])
    heads = ["| claim", "| solver", "| label rule", "| judge", "| judge", "| method"]
    assert [table.split(" | ")[0] for table in found] == heads
    rows = json.loads((TINY[0] / "evaluate" / "metrics.json").read_text())["rows"]
    judge = next(row for row in rows if row["id"] == "stepwiser")
    assert f"| StepWiser | {judge['labels_used']} | {judge['f1']:.2f} " in found[3] and "| rel_effective | 8 | " in found[2]
    assert "| StepWiser | 16 | " in found[4] and "| chunk-reset with the judge | " in found[5]
    noise = tables.all_tables([ROOT / "data" / "results" / "label-noise"])
    assert any("| abs_q | 32 |" in table for table in noise)


def test_pass_at_k_has_a_row_for_each_judge_and_k(tmp_path):
    for seed, shift in enumerate((0.0, 0.2)):
        curve = {name: [{"k": k, "solutions": x + shift, "steps": 0.5} for k, x in ((1, 0.1), (2, 0.3))] for name in ("a", "b")}
        write(tmp_path / str(seed), "evaluate", {"rows": [{"id": "a", "name": "judge A"}], "pass": curve})
    head, _, *rows = tables.pass_table([tmp_path / "0", tmp_path / "1"]).splitlines()
    assert head == "| judge | k | solutions | steps |" and len(rows) == 4
    assert rows[0].startswith("| judge A | 1 | 0.20") and rows[3].startswith("| b | 2 | 0.40")
    write(tmp_path / "none", "evaluate", {"rows": []})
    assert tables.pass_table([tmp_path / "none"]) == ""


def test_harder_problems_have_a_table_of_their_own(tmp_path):
    rows = [{"method": "plain sampling", "accuracy": 0.5}]
    write(tmp_path, "search", {"rows": rows, "hard": {"rows": [{"method": "plain sampling", "accuracy": 0.25}]}})
    easy, hard = tables.search_table([tmp_path]).split("\n\n")
    assert "| plain sampling | 0.50 |" in easy and hard.startswith("| method, harder problems |") and "0.25" in hard


# --- documents -------------------------------------------------------------------------------------------------------------


def document(tmp_path, text):
    search_runs(tmp_path / "runs", 0.19, 0.2, 0.21)
    path = tmp_path / "DOC.md"
    path.write_text(text, encoding="utf-8")
    return path


def test_update_writes_between_the_marks_and_nowhere_else(tmp_path):
    marks = "a\n<!-- table: claims runs/* -->\nold | text\n<!-- end -->\nb\n\n<!-- table: claims runs/0 -->\n<!-- end -->\nc\n"
    path = document(tmp_path, marks)
    assert tables.update(path) is True
    text = path.read_text(encoding="utf-8")
    folders = [tmp_path / "runs" / str(i) for i in range(3)]
    assert text == (
        f"a\n<!-- table: claims runs/* -->\n{tables.claims_table(folders)}<!-- end -->\nb\n\n"
        f"<!-- table: claims runs/0 -->\n{tables.claims_table(folders[:1])}<!-- end -->\nc\n"
    )
    assert tables.update(path) is False and path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<!-- table: claims runs/* -->\n", "has no <!-- end -->"),
        ("<!-- table: claims runs/* -->\n<!-- table: claims runs/* -->\n<!-- end -->\n", "has no <!-- end -->"),
        ("<!-- table: soup runs/* -->\n<!-- end -->\n", "unknown table 'soup': choose one of claims"),
        ("<!-- table: claims nowhere/* -->\n<!-- end -->\n", "no folder matches nowhere"),
        ("<!-- table: claims -->\n<!-- end -->\n", "no folder matches"),
        ("<!-- table: agreement runs/* -->\n<!-- end -->\n", "have no metrics for it"),
    ],
)
def test_update_refuses_bad_marks_and_writes_nothing(tmp_path, text, words):
    path = document(tmp_path, "<!-- table: claims runs/0 -->\n<!-- end -->\n" + text)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=words) as caught:
        tables.update(path)
    assert "\n" not in str(caught.value) and path.read_bytes() == before


@pytest.mark.parametrize("name", ["README.md", "REPRODUCE.md"])
def test_committed_documents_show_the_committed_results(tmp_path, name):
    """If this fails: python -m minisw.report --update README.md REPRODUCE.md."""
    (tmp_path / "data").symlink_to(ROOT / "data")
    copy = tmp_path / name
    copy.write_bytes((ROOT / name).read_bytes())
    assert "<!-- table:" in copy.read_text(encoding="utf-8") and tables.update(copy) is False


# --- the command -----------------------------------------------------------------------------------------------------------


def test_the_command_prints_writes_and_updates(tmp_path, capsys):
    path = document(tmp_path, "<!-- table: claims runs/* -->\n<!-- end -->\n")
    folders = [str(tmp_path / "runs" / str(i)) for i in range(3)]
    main(folders)
    assert capsys.readouterr().out == tables.claims_table([Path(f) for f in folders])
    main(["--write", *folders[:2]])
    assert capsys.readouterr().out.split() == [f"{folder}/report.html" for folder in folders[:2]]
    claims = json.loads((tmp_path / "runs" / "1" / "claims.json").read_text(encoding="utf-8"))
    assert next(c for c in claims if c["id"] == "search-beats-sampling")["outcome"] == "holds"
    assert "+0.200 [+0.100, +0.300]" in (tmp_path / "runs" / "1" / "report.html").read_text(encoding="utf-8")
    assert not (tmp_path / "runs" / "2" / "claims.json").exists()
    main(["--update", str(path)])
    assert capsys.readouterr().out == f"{path}: updated\n"
    main(["--update", str(path)])
    assert capsys.readouterr().out == f"{path}: unchanged\n"


def test_an_unfinished_run_shows_its_rows_without_claims(tmp_path, capsys):
    row = {"rule": "abs_q", "m": 4, "balanced_agreement": 0.9}
    row |= {"exact_positive_called_positive": 0.95, "exact_negative_called_negative": 0.85}
    write(tmp_path, "annotate", {"agreement": [row]})
    main([str(tmp_path)])
    shown = capsys.readouterr().out
    assert "| abs_q | 4 | 0.90 | 0.95 | 0.85 |" in shown and "claim" not in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name run folders"),
        (["no/such"], "no such run folder: no/such"),
        (["--colour"], "unrecognized arguments: --colour"),
        (["--update", "no/such.md"], "no/such.md"),
    ],
)
def test_mistakes_are_one_line(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    shown = capsys.readouterr().err
    assert stop.value.code == 2 and words in shown and shown.startswith("minisw: ") and shown.count("\n") == 1


def write_study(folder, contrasts):
    folder.mkdir()
    rows = [{"arm": "base", "judge": "stepwiser", "title": "as it is", "seed": 0, "labels": 8, "f1": 0.5}]
    (folder / "results.json").write_text(json.dumps({"rows": rows, "contrasts": contrasts}))


def contrast(name: str, figure: str, measured: float, interval, paper=None) -> dict:
    return {
        "id": name, "claim": f"{name} in words", "a": "x/stepwiser", "b": "y/stepwiser", "source": "us", "paper": paper,
        "figure": figure, "measured": measured, "interval": interval, "each": [measured], "seeds": [0],
    }  # fmt: skip


def test_claims_of_studies_stand_below_those_of_the_runs(tmp_path):
    """Greedy figures only, decided by the same rule; a study alone is shown without the claims of runs."""
    found = [
        contrast("first-helps", "f1", 0.25, [0.1, 0.4], 0.126),
        contrast("first-helps", "f1_sampled", 0.75, [0.7, 0.8]),
        contrast("second-helps", "f1", -0.5, [-0.6, -0.4]),
        contrast("third-helps", "f1", 0.0, None),
    ]
    write_study(tmp_path / "study", found)
    expected = [
        "| `first-helps` | +0.126 | +0.250 [+0.100, +0.400] | holds |",
        "| `second-helps` | – | −0.500 [−0.600, −0.400] | does not hold |",
        "| `third-helps` | – | +0.000 | not settled |",
    ]
    assert [line for line in tables.claims_table([tmp_path / "study"]).splitlines() if "helps" in line] == expected
    (tmp_path / "run").mkdir()
    both = tables.claims_table([tmp_path / "study", tmp_path / "run"]).splitlines()
    assert [line.split(" | ")[0] for line in both[2:-3]] == [f"| `{name}`" for name in SPECS]
    assert "first-helps" in both[-3]
    text = "\n".join(tables.all_tables([tmp_path / "study"]))
    assert "as it is" in text and text.count("`first-helps`") == 2 and "segment" not in text
    assert "first-helps in words" in tables.summary_table([tmp_path / "study"])


def test_replies_before_and_after_stand_side_by_side_up_to_the_first_error(tmp_path):
    def chunk(name, label):
        return {"text": f"{name}\n", "label": label, "analysis": f"after|{name}\n<b>", "before": {"analysis": f"before\n{name}"}}

    showcase = [
        {"question": "Q0?", "chunks": [chunk("a", True), chunk("b", False), chunk("c", None)]},
        {"question": "Q1?", "chunks": [chunk("d", True)]},
    ]
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate" / "showcase.json").write_text(json.dumps(showcase))
    lines = tables.replies_table([tmp_path]).splitlines()
    assert lines[2:] == [
        rf"| Q{q}? | {name} | {label} | before<br>{name} | after\|{name}<br>&lt;b&gt; |"
        for q, name, label in ((0, "a", "right"), (0, "b", "wrong"), (1, "d", "right"))
    ]
    assert tables.replies_table([tmp_path / "nothing"]) == ""
