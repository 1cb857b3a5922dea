"""What the papers claim, and the one rule that decides it."""

import dataclasses
import json
from pathlib import Path

import pytest
from rich.console import Console

from minisw.records import Claim
from minisw.report import claims, tables
from minisw.report.claims import CLAIMS, SPECS, collect_claims, decide, make_claim
from minisw.report.page import claims_table, page

RESULTS = Path(__file__).resolve().parents[2] / "data" / "results"
TINY = sorted(RESULTS.glob("tiny/seed-*"))
GSM8K = RESULTS / "gsm8k-0.5b"

BETTER, KEEPS, FEWER = SPECS["search-beats-sampling"], SPECS["segment-keeps-accuracy"], SPECS["segment-fewer-chunks"]


@pytest.mark.parametrize(
    ("spec", "interval", "outcome"),
    [
        (BETTER, (0.01, 0.2), "holds"),
        (BETTER, (-0.01, 0.2), "not settled"),
        (BETTER, (0.0, 0.2), "not settled"),
        (BETTER, (-0.2, -0.01), "does not hold"),
        (BETTER, (-0.2, 0.0), "does not hold"),
        (KEEPS, (-0.04, 0.03), "holds"),
        (KEEPS, (0.02, 0.1), "holds"),
        (KEEPS, (-0.04, -0.01), "holds"),  # a loss, but within the margin
        (KEEPS, (-0.093, -0.041), "not settled"),  # a proven loss, perhaps beyond the margin
        (KEEPS, (-0.16, 0.02), "not settled"),  # too wide to settle anything
        (KEEPS, (-0.05, 0.1), "not settled"),
        (KEEPS, (-0.2, -0.06), "does not hold"),
        (KEEPS, (-0.2, -0.05), "does not hold"),
        (FEWER, (0.5, 0.7), "holds"),
        (FEWER, (0.9, 1.1), "not settled"),
        (FEWER, (0.9, 1.0), "not settled"),
        (FEWER, (1.0, 1.2), "does not hold"),
        (FEWER, (1.1, 1.2), "does not hold"),
    ],
)
def test_decisions(spec, interval, outcome):
    assert decide(spec, sum(interval) / 2, interval) == outcome
    assert make_claim(spec, sum(interval) / 2, interval).outcome == outcome


@pytest.mark.parametrize("spec", CLAIMS, ids=lambda spec: spec.id)
def test_without_a_figure_nothing_is_tested_and_without_an_interval_nothing_settled(spec):
    assert decide(spec, None, None) == decide(spec, None, (0.2, 0.3)) == "not tested"
    assert decide(spec, 0.3, None) == "not settled"


@pytest.mark.parametrize("spec", CLAIMS, ids=lambda spec: spec.id)
def test_a_narrower_interval_never_turns_one_verdict_into_the_opposite(spec):
    grid = [x / 20 for x in range(-8, 30)]
    for low in grid:
        for high in (h for h in grid if h > low):
            wide, narrow = decide(spec, low, (low, high)), decide(spec, low, (low, (low + high) / 2))
            assert narrow in (wide, "not settled") or wide == "not settled"


def test_specifications_are_complete():
    kinds = {"segment-fewer-chunks": "ratio-below", "segment-keeps-accuracy": "non-inferiority"}
    for spec in CLAIMS:
        assert spec.kind == kinds.get(spec.id, "superiority")
        assert spec.claim and spec.source and spec.baseline and spec.measured_in.count("/") >= 1
        assert spec.same_contrast or spec.paper is None or spec.paper > 0
    assert SPECS["segment-keeps-accuracy"].margin == 0.05 and FEWER.margin == 1
    assert {s.id for s in CLAIMS if not s.same_contrast} == {
        "grpo-beats-untrained",
        "tenth-of-labels",
        "hundredth-of-labels",
        "search-beats-random-rejection",
    }


def test_the_papers_figure_depends_on_the_rule_where_it_must():
    judge = SPECS["judge-beats-classifier"]
    assert [make_claim(judge, None, None, rule).paper for rule in ("rel_ratio", "abs_q", "rel_effective", "")] == [
        0.121,
        0.089,
        0.056,
        None,
    ]
    assert make_claim(BETTER, None, None, "abs_q").paper == 0.057


def write(folder, stage, value):
    (folder / stage).mkdir(parents=True, exist_ok=True)
    (folder / stage / "metrics.json").write_text(json.dumps(value))


def test_each_claim_reads_its_own_figure(tmp_path):
    entry = {key: {"measured": i / 10, "interval": [i / 10 - 0.05, i / 10 + 0.05]} for i, key in enumerate("abcdefgh", 1)}
    pairs = ("stepwiser-discriminative", "stepwiser-untrained", "stepwiser-rejection_sampled", "stepwiser_tenth-discriminative")
    pairs = (*pairs, "stepwiser_hundredth-discriminative")
    segment = {"ratio": 0.7, "ratio_interval": [0.6, 0.8], "difference": -0.2, "difference_interval": [-0.3, -0.1]}
    write(tmp_path, "segment", segment)
    write(tmp_path, "evaluate", {
        "differences": dict(zip(pairs, (entry[k] for k in "abdef"), strict=True)),
        "differences_sampled": {"stepwiser-rejection_sampled": entry["c"]},
        "gain_of_votes": {"stepwiser": {"measured": 0.45, "interval": [0.4, 0.5]}, "untrained": entry["h"]},
    })  # fmt: skip
    write(tmp_path, "search", {"difference": entry["g"], "random_difference": entry["h"]})
    (tmp_path / "run.json").write_text('{"recipe": {"annotate": {"rule": "rel_ratio"}}}')
    found = collect_claims(tmp_path)
    assert [c.measured for c in found] == [0.7, -0.2, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8]
    assert [c.interval[0] for c in found] == pytest.approx([0.6, -0.3, 0.05, 0.15, 0.25, 0.35, 0.4, 0.45, 0.55, 0.65, 0.75])
    assert [c.outcome for c in found] == ["holds", "does not hold", *["holds"] * 9]
    assert (found[2].paper, found[6].paper) == (0.121, 0.013)


def test_an_empty_run_has_all_claims_untested(tmp_path):
    found = collect_claims(tmp_path)
    assert [c.id for c in found] == [s.id for s in CLAIMS]
    assert all(c.outcome == "not tested" and c.measured is None and c.interval is None for c in found)


@pytest.mark.parametrize("folder", [*TINY, GSM8K], ids=lambda folder: folder.name)
def test_committed_claims_are_what_the_committed_metrics_say(folder):
    committed = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    assert [Claim(**{**c, "interval": c["interval"] and tuple(c["interval"])}) for c in committed] == collect_claims(folder)


@pytest.mark.parametrize("folder", [TINY[0], GSM8K], ids=lambda folder: folder.name)
def test_every_medium_gives_the_same_outcomes(folder):
    outcomes = [claim.outcome for claim in collect_claims(folder)]
    assert [row["outcome"] for row in tables.pool([folder])] == outcomes
    lines = tables.claims_table([folder]).splitlines()[2:]
    assert [line.strip("| ").split(" | ")[-1] for line in lines] == outcomes
    badges = page(folder).split('id="segment"')[0].split('class="badge ')[1:]
    assert [badge.split(">")[1].split("<")[0][2:] for badge in badges] == outcomes
    console = Console(width=250, no_color=True)
    with console.capture() as capture:
        console.print(claims_table([dataclasses.asdict(claim) for claim in collect_claims(folder)]))
    cells = [line.rstrip("│┃ ").split("│")[-1].strip() for line in capture.get().splitlines()[3:-1]]
    assert [cell[2:] for cell in cells] == outcomes


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "segment").mkdir()
    (tmp_path / "segment" / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match=r"segment/metrics\.json is not JSON"):
        collect_claims(tmp_path)
    assert claims.read_json(tmp_path / "nothing.json") is None
