"""The page of a run: the committed runs as the stages wrote them, runs with missing files, and hostile text."""

import itertools
import json
import re
import shutil
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from minisw.report import columns
from minisw.report.charts import bar_chart, line_chart, ticks
from minisw.report.html import duration, element, interval, number
from minisw.report.page import claims_table, write_report, write_results
from minisw.report.sections import CURVES, SECTIONS, evaluate_body, judges_body, run_body

ROOT = Path(__file__).resolve().parents[2]
SEED_0, GSM8K = ROOT / "data" / "results" / "tiny" / "seed-0", ROOT / "data" / "results" / "gsm8k-0.5b"
FILES = [section.file for section in SECTIONS]
EVIL = "<script>alert('x')</script> & \"quoted\""


def load(folder, file):
    return json.loads((folder / file).read_text(encoding="utf-8"))


def written(folder: Path, files: dict[str, object]) -> str:
    """The page of a run folder with these files, exactly as its bytes say."""
    for name, value in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    path = write_report(folder)
    assert path == folder / "report.html" and not list(folder.rglob("*.part"))
    return path.read_bytes().decode("utf-8")


def run_files(folder: Path = SEED_0) -> dict[str, object]:
    """Every file of a committed run that the page reads, by its path there."""
    return {file: load(folder, file) for file in FILES if (folder / file).exists()}


class Tree(HTMLParser):
    """Elements in order as (tag, attributes, text within); fails on unbalanced tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict, list[str]]] = []
        self.open: list[tuple] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        entry = (tag, dict(attrs), [])
        self.all.append(entry)
        if tag not in ("meta", "link"):
            self.open.append(entry)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for entry in self.open:
            entry[2].append(data)

    def find(self, tag: str, kind: str | None = None) -> list[tuple[str, dict, str]]:
        return [
            (t, a, "".join(text)) for t, a, text in self.all if t == tag and (kind is None or kind in a.get("class", "").split())
        ]

    def section(self, name: str) -> str:
        return next("".join(text) for tag, a, text in self.all if tag == "section" and a["id"] == name)


@pytest.fixture
def seed_0(tmp_path) -> str:
    return written(tmp_path, run_files())


@pytest.fixture
def hostile(tmp_path) -> str:
    """A page whose every text from a model or a file is an attack."""
    return written(tmp_path, _poisoned(run_files()))


def _poisoned(value, key=""):
    if isinstance(value, dict):
        return {k: _poisoned(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [_poisoned(v, key) for v in value]
    texts = ("text", "analysis", "question", "claim", "source", "baseline", "name", "method", "given", "cpu", "torch", "preset")
    return f"{EVIL}\r\n" if isinstance(value, str) and key in texts else value


def test_a_committed_run_has_every_section(seed_0):
    page = Tree(seed_0)
    assert page.find("h1")[0][2] == page.find("title")[0][2] == "minisw: tiny, seed 0"
    outcomes, run = [claim["outcome"] for claim in load(SEED_0, "claims.json")], load(SEED_0, "run.json")
    held = f"{outcomes.count('holds')} of {len(outcomes)} tested claims hold"
    assert f"{held} · {duration(run['seconds'])} · {run['hardware']['cpu']}, 2 cores, no GPU" in page.find("header")[0][2]
    assert "not tested" not in outcomes
    assert (
        [a["id"] for _, a, _ in page.find("section")]
        == [s.id for s in SECTIONS]
        == [
            "claims",
            "segment",
            "annotate",
            "judges",
            "evaluate",
            "search",
            "solutions",
            "trace",
            "run",
        ]
    )
    assert "not run yet" not in seed_0
    for section in SECTIONS:
        assert section.introduction in page.section(section.id)


def test_every_row_of_a_table_is_shown_as_in_the_markdown(seed_0):
    page = Tree(seed_0)
    for section, wanted, rows in (
        ("evaluate", columns.JUDGE, load(SEED_0, "evaluate/metrics.json")["rows"]),
        ("search", columns.SEARCH, load(SEED_0, "search/metrics.json")["rows"]),
        ("annotate", columns.AGREEMENT, load(SEED_0, "annotate/metrics.json")["agreement"]),
        ("judges", columns.SWEEP, load(SEED_0, "judges/metrics.json")["discriminative"]["sweep"]),
    ):
        shown = [c for c in columns.used(wanted, rows) if c.key != "f1_pooled"]
        for row in rows:
            assert "".join(columns.cell(column, [row]) for column in shown) in page.section(section)
        assert all(c.title in page.section(section) and c.meaning in page.section(section) for c in shown)


def test_numbers_of_a_committed_run(seed_0):
    """Every section shows the figures of its file, with the columns' digits."""
    page, claims = Tree(seed_0), {claim["id"]: claim for claim in load(SEED_0, "claims.json")}
    stages = ("segment", "annotate", "evaluate", "search")
    segment, annotate, evaluate, search = (load(SEED_0, f"{stage}/metrics.json") for stage in stages)
    rule = next(row for row in annotate["agreement"] if (row["rule"], row["m"]) == ("rel_ratio", 8))
    judge = next(row for row in evaluate["rows"] if row["id"] == "stepwiser")
    for section, shown in {
        "claims": columns.claim_cells(claims["judge-beats-classifier"])["measured"],
        "segment": columns.ratio(segment["ratio"]),
        "annotate": f"rel_ratio: M 8, {number(rule['agreement'])}",
        "judges": "stepwiser_hundredth",
        "evaluate": f"{columns.share(judge['f1'])} {columns.bounds(judge['interval'], columns.share)}",
        "search": f"chunk-reset minus plain sampling{columns.difference(search['difference']['measured'])}",
        "run": f"judges{duration(load(SEED_0, 'run.json')['stages']['judges']['seconds'])}",
    }.items():
        assert shown in page.section(section), section
    assert f"{evaluate['items']} solutions, {evaluate['with_error']} of them with an error." in page.section("evaluate")
    assert "StepWiser minus RS-FT" in page.section("evaluate") and '"lr": 0.0003' in page.section("run")
    # two charts of three rules; of three GRPO trainings the shared charts, and one with four habits each; RS-FT's loss; two
    # charts of pass@k with two judges
    assert seed_0.count("<polyline") == 2 * 3 + len(CURVES) * 3 + 3 * 4 + 1 + 2 * 2


def test_several_parts_are_shown_with_both_averages(tmp_path):
    page = Tree(written(tmp_path, run_files(GSM8K)))
    section = page.section("evaluate")
    assert "gsm8k only" in section and "math only" in section and "F1 pooled" in section and "F1 by answer" in section
    assert "Differences are of the F1 pooled" in section
    assert "F1 pooled" not in Tree(written(tmp_path, run_files())).section("evaluate")


def test_every_chart_and_every_numeric_column_has_a_sentence(seed_0):
    assert len(Tree(seed_0).find("figure")) == len([text for _, _, text in Tree(seed_0).find("figcaption") if text.endswith(".")])
    lists = [value for value in vars(columns).values() if isinstance(value, tuple) and isinstance(value[0], columns.Column)]
    assert len(lists) >= 10
    for column in itertools.chain(*lists):
        assert column.meaning.endswith(".") or column.format is columns.text or column.key == "lr", column


@pytest.mark.parametrize("empty", [False, True])
def test_an_empty_run_says_so_in_every_section(tmp_path, empty):
    page = Tree(written(tmp_path, {name: type(value)() for name, value in run_files().items()} if empty else {}))
    assert len(page.find("p", "missing")) == len(SECTIONS)
    assert page.find("h1")[0][2] == f"minisw: {tmp_path.name}" and "no claims yet" in page.find("header")[0][2]


@pytest.mark.parametrize("missing", FILES)
def test_any_one_file_may_be_missing(tmp_path, missing):
    page = Tree(written(tmp_path, {name: value for name, value in run_files().items() if name != missing}))
    assert [section.file for section in SECTIONS if "not run yet" in page.section(section.id)] == [missing]


def test_missing_numbers_leave_a_dash_or_no_chart(tmp_path):
    files = {
        "judges/metrics.json": {"stepwiser": {"curve": []}, "discriminative": {"labels": float("nan")}},
        "annotate/metrics.json": {"rules": [], "agreement": [], "exact_positive": None, "mistakes": {}},
        "evaluate/metrics.json": {"rows": [{"id": "judge", "name": "judge", "f1": None, "interval": None}]},
        "search/metrics.json": {"rows": [{"method": "vote", "accuracy": 0.5, "interval": None}]},
    }
    page = written(tmp_path, files)
    assert "nan" not in page.lower() and page.count("<rect") == 1 and "<polyline" not in page


def test_sft_curves_are_drawn_where_they_are_known(tmp_path):
    curve = [{"step": 1, "loss": 0.9}, {"step": 2, "loss": 0.4}]
    page = Tree(written(tmp_path, {"judges/metrics.json": {"rejection_sampled": {"labels": 8, "curve": curve}}}))
    assert "SFT loss" in page.section("judges") and "rejection_sampled: step 2, 0.4" in page.section("judges")


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "claims.json").write_text("[{")
    with pytest.raises(ValueError, match=r"claims\.json"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_results_are_made_again_from_the_metrics(tmp_path):
    shutil.copytree(SEED_0, tmp_path / "run")
    for name in ("claims.json", "report.html"):
        (tmp_path / "run" / name).unlink()
    assert write_results(tmp_path / "run") == tmp_path / "run" / "report.html"
    for name in ("claims.json", "report.html"):
        assert (tmp_path / "run" / name).read_bytes() == (SEED_0 / name).read_bytes(), "python -m minisw.report --write"


def test_text_of_a_model_never_becomes_markup(hostile):
    assert "<script" not in hostile.lower() and "alert(&#x27;x&#x27;)" in hostile
    page = Tree(hostile)
    for section in ("claims", "evaluate", "search", "solutions", "trace", "run"):
        assert EVIL in page.section(section), section
    assert page.find("title")[0][2].startswith(f"minisw: {EVIL}")


def test_nothing_is_loaded(seed_0):
    page = Tree(seed_0)
    links = [value for _, attributes, _ in page.all for name, value in attributes.items() if name in ("src", "href")]
    assert links and all(link.startswith("#") or link == "data:," for link in links)
    assert not re.search(r"https?://|url\(|@import", seed_0)
    policy = next(a["content"] for _, a, _ in page.find("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_the_style_sheet_is_a_file_of_the_package(seed_0):
    style = (ROOT / "minisw" / "report" / "style.css").read_text(encoding="utf-8")
    assert Tree(seed_0).find("style")[0][2].strip() == style.strip() and ".question, .text" in style
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    assert "style.css" in data["minisw.report"]


def test_chunks_rejoin_exactly_and_carry_their_verdicts(tmp_path):
    chunks = ("First, 2 < 3 & so\r\n", "  then   3·4 = 12.\n\n", f"{EVIL}\n", "\n\tThe answer is 12.")
    verdicts, labels = (True, False, None, True), (True, True, None, False)
    solution = {"question": "How much is 3·4?", "correct": False, "chunks": []}
    for chunk, verdict, label in zip(chunks, verdicts, labels, strict=True):
        judgment = {"verdict": verdict, "label": label, "p_positive": 0.83, "analysis": "Goal: 12."}
        solution["chunks"].append({"text": chunk, **judgment})
    text = written(tmp_path, {"evaluate/showcase.json": [solution]})
    page = Tree(text)
    assert [t for _, _, t in page.find("span", "text")] == list(chunks)
    assert "\r" not in text  # a browser would read it back as a line feed
    assert [a["class"].split()[1] for _, a, _ in page.find("details", "step")] == ["good", "bad", "none", "good"]
    summaries = [t for _, _, t in page.find("summary")]
    for summary, words in zip(summaries, ("✓ Positive", "✗ Negative", "? unreadable", "✓ Positive"), strict=True):
        assert summary.startswith(words) and "P(Positive) 0.83" in summary
    assert ["≠" in summary for summary in summaries] == [False, True, False, True]
    assert "label: right" in summaries[1] and "label:" not in summaries[2] and "label: wrong" in summaries[3]
    assert "✗ wrong answer" in page.section("solutions") and page.section("solutions").count("Goal: 12.") == 4


def test_the_showcase_of_a_committed_run_is_shown_whole(seed_0):
    shown = [text for _, _, text in Tree(seed_0).find("span", "text")]
    chunks = [chunk["text"] for solution in load(SEED_0, "evaluate/showcase.json") for chunk in solution["chunks"]]
    assert shown[: len(chunks)] == chunks and len(chunks) > 9


def test_the_trace_strikes_out_exactly_what_was_discarded(seed_0):
    page, trace = Tree(seed_0), load(SEED_0, "search/trace.json")
    assert [text for _, _, text in page.find("del")] == [t["text"] for t in trace["tries"] if not t["kept"]] != []
    places = list(dict.fromkeys(t["position"] for t in trace["tries"]))
    assert [text for _, _, text in page.find("div", "turn")] == [f"Chunk {i}" for i in range(1, len(places) + 1)]
    section = page.section("trace")
    assert section.count(", kept") == len(places) and section.count(", discarded") == sum(not t["kept"] for t in trace["tries"])
    assert "try 1, discarded" in section and f"answer given: {trace['given']}, right answer: {trace['answer']}" in section


def percent(value: str) -> float:
    return float(value.removesuffix("%"))


def test_bars_and_intervals_are_placed_in_order():
    rows = [("low", 0.2, [0.1, 0.3]), ("nothing", None, None), ("high", 0.8, [0.6, 0.9])]
    page = Tree(bar_chart("Accuracy", rows, "what"))
    bars = [a for _, a, _ in page.find("rect")]
    whiskers = [a for _, a, _ in page.find("line", "whisker") if a["y1"] == a["y2"]]
    assert [percent(bar["width"]) for bar in bars] == [20, 80]
    assert [(percent(w["x1"]), percent(w["x2"])) for w in whiskers] == [(10, 30), (60, 90)]
    for bar, whisker in zip(bars, whiskers, strict=True):
        assert int(bar["y"]) < int(whisker["y1"]) < int(bar["y"]) + int(bar["height"])
    assert int(bars[0]["y"]) < int(bars[1]["y"])


def test_line_chart_rises_with_its_values_and_skips_holes():
    chart = line_chart("t", {"a": [(4, 0.9), (1, 0.1), (2, None), (3, float("nan"))], "b": []}, "step", "what")
    (line,) = [a["points"] for _, a, _ in Tree(chart).find("polyline")]
    (x1, y1), (x2, y2) = (tuple(map(float, point.split(","))) for point in line.split())
    assert x1 < x2 and y1 > y2  # sorted by x; up is a smaller y
    assert line_chart("t", {"a": [(1, None)]}, "step", "what") == ""
    one = line_chart("t", {"a": [(5, 0.5)]}, "step", "what", zero=True)
    assert "<circle" in one and ">0<" in one


def test_even_spacing_marks_every_m():
    chart = line_chart("t", {"a": [(m, m) for m in (1, 2, 4, 8, 16)]}, "M", "what", even=True)
    (line,) = [a["points"] for _, a, _ in Tree(chart).find("polyline")]
    across = [float(point.split(",")[0]) for point in line.split()]
    gaps = {round(b - a) for a, b in zip(across, across[1:], strict=False)}
    assert len(gaps) <= 2 and max(gaps) - min(gaps) <= 1
    assert all(f">{m}<" in chart for m in (1, 2, 4, 8, 16))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.52, 0.58), (-0.3, 0.4), (0, 12345), (0.5, 0.5), (0, 0), (3e-6, 4e-6)])
def test_ticks_enclose_the_values(low, high):
    made = ticks(low, high)
    assert made[0] <= low and made[-1] >= high and 2 <= len(made) <= 7 and made == sorted(set(made))


def test_numbers():
    assert [number(v) for v in (None, float("nan"), 0, 0.4472, -0.05, 36.25, 999.7, 12345.6, 1234567, True)] == [
        "–",
        "–",
        "0",
        "0.447",
        "−0.05",
        "36.2",
        "1,000",
        "12,346",
        "1,234,567",
        "–",
    ]
    assert interval(0.5, [0.4, 0.6]) == "0.5 [0.4, 0.6]" and interval(0.5, None) == "0.5" and interval(None, None) == "–"
    assert [duration(s) for s in (0.25, 59.96, 200, 7500, None)] == ["0.25 s", "1 min 0 s", "3 min 20 s", "2 h 5 min", "–"]


def test_elements_escape_children_and_attributes():
    assert element("p", "<b>", element("i", "&"), None, class_='"x"') == '<p class="&quot;x&quot;">&lt;b&gt;<i>&amp;</i></p>'


def test_the_terminal_table_shows_claims_as_they_are():
    claims = load(SEED_0, "claims.json")
    claims[0] |= {"claim": f"Chunks [bold]fewer[/bold] {EVIL}"}
    console = Console(width=300, no_color=True)
    with console.capture() as capture:
        console.print(claims_table(claims))
    rows = [[c.strip() for c in line.strip("│┃ ").split("│")] for line in capture.get().splitlines() if line.startswith("│")]
    assert rows[0][0] == f"Chunks [bold]fewer[/bold] {EVIL}"
    for row, claim in zip(rows, claims, strict=True):
        cells = columns.claim_cells(claim)
        assert row[2:4] == [cells["paper"], cells["measured"]] and row[4].endswith(f" {claim['outcome']}")
    assert {row[4][0] for row in rows} <= {"✓", "✗", "~"} and len({row[4] for row in rows}) > 1
    assert len(rows) == len(claims)


def test_cells():
    column = columns.Column("x", "x", columns.share, "What.", "i")
    assert columns.cell(column, [{"x": 0.5, "i": [0.4, 0.6]}]) == "0.50 [0.40, 0.60]"
    assert columns.cell(column, [{"x": 0.5}]) == "0.50" and columns.cell(column, [{}]) == "–"
    assert columns.cell(column, [{"x": None, "i": [0, 1]}]) == columns.cell(column, [{"x": float("nan")}]) == "–"
    assert columns.cell(column, [{"x": 0.5}, {"x": 0.7}]) == "0.60 (0.50 0.70)"
    assert columns.cell(column, [{"x": 0.5}] * 2) == "0.50"
    assert columns.cell(column, [{"x": 0.5}, {}]) == "0.50 (0.50 –)" and columns.cell(column, [{}, {}]) == "–"
    assert [columns.difference(v) for v in (0.05, -0.05, 0.0, None)] == ["+0.050", "−0.050", "+0.000", "–"]
    assert columns.count(1234.6) == "1,235" and columns.one_digit(5.82) == "5.8" and columns.text(None) == "–"


@pytest.mark.parametrize("gpu", [None, 3.25])
def test_gpu_memory_is_shown_if_it_was_measured(gpu: float | None) -> None:
    facts = {"seconds": 10.0, "peak_memory_gb": 1.5} | ({"peak_gpu_memory_gb": gpu} if gpu else {})
    text = str(run_body(facts))
    assert "1.5" in text and ("peak GPU memory" in text) is (gpu is not None) and ("3.25" in text) is (gpu is not None)


def figures(page: Tree) -> list[str]:
    return [text for _, _, text in page.find("figure")]


def test_each_grpo_has_a_chart_of_its_habits() -> None:
    """A line for each habit named in its curve, with or without a value in the later rows; no chart where none is named."""
    curve = [{"step": k, "reward": 0.5, "habits/glance": 0.9 - 0.2 * k, "habits/redo": 0.1 + 0.2 * k} for k in range(3)]
    plain = [{"step": k, "reward": 0.25} for k in range(3)]
    sft = [{"step": k, "loss": 1.0, "habits/redo": 0.5} for k in range(3)]
    metrics = {"stepwiser": {"curve": curve}, "tenth": {"curve": curve}, "plain": {"curve": plain}, "rs": {"curve": sft}}
    shown = [text for text in figures(Tree(judges_body(metrics))) if "Habits of" in text]
    assert len(shown) == 2 and "Habits of stepwiser" in shown[0] and "Habits of tenth" in shown[1]
    for text in shown:
        assert "glance: step 2, 0.5" in text and "redo: step 2, 0.5" in text and "glance: step 0, 0.9" in text
        assert "habits/" not in text and "reward:" not in text and "by their habit" in text
    chart = Tree(judges_body({"stepwiser": {"curve": curve}}))
    assert [title for _, _, title in chart.find("h3")] == ["Reward", "Habits of stepwiser"]
    holed = [*curve[:2], {"step": 2, "reward": 0.5}]
    (text,) = [text for text in figures(Tree(judges_body({"stepwiser": {"curve": holed}}))) if "Habits of" in text]
    assert "step 1" in text and "step 2" not in text


def test_pass_at_k_has_a_chart_of_solutions_and_one_of_steps() -> None:
    """Judges are called by their names in the table, those without a row by their ids; every k has a mark of its own."""
    rows = [{"id": "untrained", "name": "the base", "f1": 0.25, "interval": [0.2, 0.3]}]
    passes = {
        "untrained": [{"k": k, "solutions": 0.1 * (i + 1), "steps": 0.5 + 0.1 * i} for i, k in enumerate((1, 2, 4, 16))],
        "stepwiser": [{"k": k, "solutions": 0.6, "steps": 0.75} for k in (1, 2, 4, 16)],
    }
    page = evaluate_body({"rows": rows, "pass": passes})
    solutions, steps = (text for text in figures(Tree(page)) if "pass@k" in text)
    assert "pass@k, solutions" in solutions and "exactly right" in solutions and "Guessing" not in solutions
    assert "pass@k, steps" in steps and "Guessing" in steps
    assert "the base: k 4, 0.3" in solutions and "stepwiser: k 16, 0.6" in solutions and "untrained" not in solutions
    assert "the base: k 4, 0.7" in steps and "stepwiser: k 1, 0.75" in steps
    across = [float(a["cx"]) for _, a, _ in Tree(page).find("circle")][:4]
    gaps = [right - left for left, right in itertools.pairwise(across)]
    assert len(across) == 4 and max(gaps) - min(gaps) < 0.3 and min(gaps) > 0  # 1, 2, 4 and 16 at equal distances
    for without in ({"rows": rows}, {"rows": rows, "pass": {}}):
        assert "pass@k" not in evaluate_body(without)
