"""The report on synthetic run folders: a full one, an empty one, and hostile text."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from minisw.report.charts import bar_chart, line_chart, ticks
from minisw.report.html import duration, element, interval, number
from minisw.report.page import table, write_report
from minisw.report.sections import SECTIONS

EVIL = "<script>alert('x')</script> & \"quoted\""
CHUNKS = ("First, 2 < 3 & so\r\n", "  then   3·4 = 12.\n\n", f"{EVIL}\n", "\n\tThe answer is 12.")
RULES = ("abs_q", "rel_effective", "rel_ratio")
TRIES = (  # (position, text, verdict, kept)
    (0, "Start with 6.\n", True, True),
    (1, "6 + 7 = 12\n", False, False),
    (1, "6 + 7 = 14\n", None, False),
    (1, "6 + 7 = 13\n", True, True),
    (2, f"Answer {EVIL}", False, True),
)


def training(steps: int, gain: float) -> list[dict]:
    return [
        {
            "step": k + 1,
            "reward": 0.5 + gain * k / steps,
            "frac_reward_zero_std": 0.2 + 0.3 * k / steps,
            "entropy": 0.6 - 0.4 * k / steps,
            "completions/mean_length": 90 - 20 * k / steps,
            "loss": 0.01,
        }
        for k in range(steps)
    ]


def full_run() -> dict[str, object]:
    """Every file of a run folder, by its path there."""
    return {
        "claims.json": [
            {
                "id": "f1",
                "claim": f"The judge beats the classifier {EVIL}",
                "source": "StepWiser Table 5",
                "paper": 12.1,
                "measured": 0.2345,
                "interval": [0.101, 0.35],
                "baseline": "classifier",
                "holds": True,
            },
            {
                "id": "reset",
                "claim": "Chunk-reset [bold]helps[/bold]",
                "source": "StepWiser Table 7",
                "paper": 5.7,
                "measured": -0.01,
                "interval": [-0.05, 0.03],
                "baseline": "no search",
                "holds": False,
            },
            {
                "id": "select",
                "claim": "Selection helps",
                "source": "StepWiser Table 8",
                "paper": None,
                "measured": None,
                "interval": None,
                "baseline": "",
                "holds": None,
            },
        ],
        "run.json": {
            "preset": "tiny",
            "seed": 7,
            "versions": {"torch": "2.9.1", "python": "3.11.7"},
            "hardware": {"cpu": "AMD EPYC 7B13", "cores": 2, "gpu": None, "memory_gb": 23.4},
            "stages": {"segment": {"seconds": 61.2, "tokens": 120345}, "judge": {"seconds": 3720.0, "tokens": 998001}},
            "seconds": 3999.0,
            "peak_memory_gb": 3.21,
            "recipe": {"preset": "tiny", "judge": {"lr": 1e-06, "steps": 40}},
        },
        "segment/metrics.json": {
            "base": {
                "accuracy": 0.61,
                "interval": [0.57, 0.65],
                "chunks": 9.6,
                "tokens": 120.2,
                "newline_chunks": 9.6,
                "blank_line_chunks": 4.1,
            },
            "policy": {"accuracy": 0.6, "interval": [0.56, 0.64], "chunks": 6.0, "tokens": 131.0, "format_kept": 0.98},
            "ratio": 0.625,
            "teacher": "rules",
        },
        "annotate/metrics.json": {
            "rules": [{"rule": rule, "positives": share} for rule, share in zip(RULES, (0.702, 0.61, 0.565), strict=True)],
            "agreement": [
                {"rule": rule, "m": m, "agreement": 0.6 + 0.02 * m**0.5 * (k + 1), "balanced_agreement": 0.5 + 0.02 * m**0.5 * k}
                for k, rule in enumerate(RULES)
                for m in (16, 8, 4, 2, 1)
            ],
            "solutions": 500,
            "steps": 3210,
            "exact_positive": 0.643,
            "mistakes": {"wrong sum": 120, "skipped a step": 45, "copied wrongly": 12},
        },
        "judge/metrics.json": {
            "grpo": training(40, 0.3),
            "tenth": training(40, 0.15),
            "format": {"examples": 64, "well_formed": 0.97, "validation": {"f1": 0.31}},
        },
        "evaluate/metrics.json": {
            "items": 300,
            "with_error": 150,
            "rows": [
                {
                    "name": name,
                    "labels_used": labels,
                    "f1": f1,
                    "interval": [f1 - 0.05, f1 + 0.04],
                    "accuracy_error": f1 - 0.1,
                    "accuracy_correct": f1 + 0.1,
                    "unparseable": 0.01,
                    "balanced_accuracy": balanced,
                    "tokens_per_step": tokens,
                }
                for name, labels, f1, balanced, tokens in (
                    ("generative judge, GRPO", 600, 0.62, 0.81, 71.0),
                    ("generative judge, a tenth", 60, 0.48, 0.7, 75.0),
                    ("classifier", 600, 0.41, 0.68, 1.0),
                    ("untrained judge", 0, 0.22, 0.55, 66.0),
                    ("always Positive", 0, 0.05, None, 0.0),
                )
            ],
        },
        "search/metrics.json": {
            "difference": {"measured": 0.052, "interval": [0.01, 0.094]},
            "rows": [
                {
                    "method": method,
                    "accuracy": share,
                    "interval": [share - 0.06, share + 0.05],
                    "policy_tokens": 130 * cost,
                    "judge_tokens": judge,
                    "rejected_tokens": judge // 2,
                    "tokens": 130 * cost + judge,
                }
                for method, share, cost, judge in (
                    ("no search", 0.45, 1, 0),
                    ("chunk-reset, judge", 0.52, 2, 900),
                    ("majority vote, same tokens", 0.55, 8, 0),
                    ("random rejection", 0.44, 2, 0),
                )
            ],
        },
        "evaluate/showcase.json": [
            {
                "question": f"How much is 3·4? {EVIL}",
                "correct": correct,
                "chunks": [
                    {
                        "text": text,
                        "verdict": verdict,
                        "label": label,
                        "p_positive": 0.83,
                        "analysis": f"Goal: {EVIL}\n\\boxed{{Positive}}",
                    }
                    for text, verdict, label in zip(CHUNKS, (True, False, None, True), (True, True, None, False), strict=True)
                ],
            }
            for correct in (True, False, True)
        ],
        "search/trace.json": {
            "question": "What is 6 + 7?",
            "answer": "13",
            "given": None,
            "correct": False,
            "tries": [
                {"position": position, "try": count, "text": text, "verdict": verdict, "analysis": EVIL, "kept": kept}
                for count, (position, text, verdict, kept) in enumerate(TRIES)
            ],
        },
    }


def written(folder: Path, files: dict[str, object]) -> str:
    """The page of a run folder with these files, exactly as its bytes say."""
    for name, value in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    path = write_report(folder)
    assert path == folder / "report.html" and not list(folder.rglob("*.part"))
    return path.read_bytes().decode("utf-8")


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
def full(tmp_path: Path) -> str:
    return written(tmp_path, full_run())


def test_full_run_has_every_section_and_its_numbers(full):
    page = Tree(full)
    assert page.find("h1")[0][2] == page.find("title")[0][2] == "minisw: tiny, seed 7"
    header = page.find("header")[0][2]
    assert "1 of 2 tested claims hold · 1 h 6 min · AMD EPYC 7B13, 2 cores, no GPU, 23.4 GB memory" in header
    assert [a["id"] for _, a, _ in page.find("section")] == [
        "claims",
        "segment",
        "annotate",
        "judge",
        "evaluate",
        "search",
        "solutions",
        "trace",
        "run",
    ]
    assert "not run yet" not in full
    for section, seen in {
        "claims": "0.234 [0.101, 0.35]",
        "segment": "×0.625",
        "annotate": "rel_ratio: M 16, 0.84",
        "judge": "validation / f1",
        "evaluate": "0.62 [0.57, 0.66]",
        "search": "+0.052",
        "run": '"lr": 1e-06',
    }.items():
        assert seen in page.section(section), section
    assert [text for _, _, text in page.find("span", "badge")][:3] == ["✓ holds", "✗ does not hold", "– not tested"]
    assert full.count("<polyline") == 3 + 3 + 4 * 2  # two charts of three rules, four charts of two trainings


@pytest.mark.parametrize("files", [{}, {name: type(value)() for name, value in full_run().items()}])
def test_empty_run_says_so_in_every_section(tmp_path, files):
    page = Tree(written(tmp_path, files))
    assert len(page.find("p", "missing")) == len(SECTIONS)
    assert page.find("h1")[0][2] == f"minisw: {tmp_path.name}"
    assert "no claims yet" in page.find("header")[0][2]


@pytest.mark.parametrize("missing", sorted(full_run()))
def test_any_one_file_may_be_missing(tmp_path, missing):
    page = Tree(written(tmp_path, {name: value for name, value in full_run().items() if name != missing}))
    assert [section.file for section in SECTIONS if "not run yet" in page.section(section.id)] == [missing]


def test_numbers_that_are_not_there_leave_a_dash_or_no_chart(tmp_path):
    files = {
        "judge/metrics.json": {"grpo": [], "tenth": [], "format": {"f1": float("nan")}},
        "annotate/metrics.json": {"rules": [], "agreement": [], "exact_positive": None, "mistakes": {}},
        "evaluate/metrics.json": {"rows": [{"name": "judge", "f1": None, "interval": None}]},
        "search/metrics.json": {"rows": [{"method": "vote", "accuracy": 0.5, "interval": None}]},
    }
    text = written(tmp_path, files)
    assert "nan" not in text.lower() and text.count("<rect") == 1 and "<polyline" not in text


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "claims.json").write_text("[{")
    with pytest.raises(ValueError, match=r"claims\.json"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_text_of_a_model_never_becomes_markup(full):
    assert "<script" not in full.lower() and "alert(&#x27;x&#x27;)" in full
    page = Tree(full)
    for section in ("claims", "solutions", "trace"):
        assert EVIL in page.section(section), section


def test_nothing_is_loaded(full):
    page = Tree(full)
    links = [value for _, attributes, _ in page.all for name, value in attributes.items() if name in ("src", "href")]
    assert links and all(link.startswith("#") or link == "data:," for link in links)
    assert not re.search(r"https?://|url\(|@import", full)
    policy = next(a["content"] for _, a, _ in page.find("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_chunks_rejoin_exactly_and_carry_their_verdicts(full):
    page = Tree(full)
    texts = [text for _, _, text in page.find("span", "text")]
    assert texts[: len(CHUNKS)] == list(CHUNKS)
    assert "\r" not in full  # a browser would read it back as a line feed
    kinds = [a["class"].split()[1] for _, a, _ in page.find("details", "step")]
    assert kinds[:4] == ["good", "bad", "none", "good"]
    summaries = [text for _, _, text in page.find("summary")][:4]
    for summary, words in zip(summaries, ("✓ Positive", "✗ Negative", "? no verdict", "✓ Positive"), strict=True):
        assert summary.startswith(words)
    marks = ["≠" in summary for summary in summaries]
    assert marks == [False, True, False, True] and "exact:" not in summaries[2]
    assert "white-space: pre-wrap" in next(line for line in full.splitlines() if line.startswith(".question, .text"))


def test_trace_strikes_out_exactly_what_was_thrown_away(full):
    page = Tree(full)
    assert [text for _, _, text in page.find("del")] == [text for _, text, _, kept in TRIES if not kept]
    assert [text for _, _, text in page.find("div", "turn")] == ["Chunk 1", "Chunk 2", "Chunk 3"]
    trace = page.section("trace")
    assert "try 3, kept" in trace and "given: no answer, right: 13" in trace and "✗ wrong answer" in trace


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
    assert [number(v, signed=True) for v in (0.05, -0.05, 0.0, 3)] == ["+0.05", "−0.05", "0", "+3"]
    assert interval(0.5, [0.4, 0.6]) == "0.5 [0.4, 0.6]" and interval(0.5, None) == "0.5" and interval(None, None) == "–"
    assert [duration(s) for s in (0.25, 59.96, 200, 7500, None)] == ["0.25 s", "1 min 0 s", "3 min 20 s", "2 h 5 min", "–"]


def test_elements_escape_children_and_attributes():
    assert element("p", "<b>", element("i", "&"), None, class_='"x"') == '<p class="&quot;x&quot;">&lt;b&gt;<i>&amp;</i></p>'


def test_terminal_table_shows_claims_as_they_are():
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        console.print(table(full_run()["claims.json"]))
    lines = capture.get().splitlines()
    assert "measured [95% interval]" in lines[1]
    rows = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in lines if "StepWiser Table" in line]
    assert rows[0] == [f"The judge beats the classifier {EVIL}", "StepWiser Table 5", "12.1", "0.234 [0.101, 0.35]", "✓ holds"]
    assert rows[1] == ["Chunk-reset [bold]helps[/bold]", "StepWiser Table 7", "5.7", "−0.01 [−0.05, 0.03]", "✗ does not hold"]
    assert rows[2][2:] == ["–", "–", "– not tested"]
