"""TODO."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass

from minisw.report.charts import bar_chart, line_chart
from minisw.report.claims import verdict
from minisw.report.html import Html, duration, element, facts, grid, interval, join, number

HOLDS = {"holds": ("good", "✓", "green"), "does not hold": ("bad", "✗", "red"), "not tested": ("none", "–", "dim")}


HOLDS["not settled"] = ("none", "~", "yellow")


VERDICT = {True: ("good", "✓ Positive"), False: ("bad", "✗ Negative"), None: ("none", "? no verdict")}


LABEL = {True: "right", False: "wrong"}


CURVES = (  # (metric, title, what it means, does the axis start at 0)
    (
        "reward",
        "Reward",
        "Share of sampled analyses whose verdict agrees with the label; on balanced labels, guessing gives 0.5.",
        False,
    ),
    (
        "completions/mean_length",
        "Length of an analysis",
        "Mean tokens an analysis; a fall towards zero means that the judge has stopped reasoning.",
        True,
    ),
    (
        "entropy",
        "Entropy",
        "How undecided the judge is at a token, in nats; near zero all samples of a group say the same.",
        True,
    ),
    (
        "frac_reward_zero_std",
        "Groups that teach nothing",
        "Share of groups whose rewards are all equal: their advantage, and so their gradient, is zero.",
        True,
    ),
)


@dataclass(frozen=True)
class Section:
    """One part of the page: the file it reads, what one sees, and the function from the file's value to HTML."""

    id: str
    file: str
    title: str
    paper: str
    says: str
    body: Callable[..., Html]


def _hardware(hardware: dict) -> str:
    return ", ".join(
        (
            str(hardware.get("cpu") or "unknown CPU"),
            f"{number(hardware.get('cores'))} cores",
            str(hardware.get("gpu") or "no GPU"),
            f"{number(hardware.get('memory_gb'))} GB memory",
        )
    )


def _verdict(claim: dict) -> tuple[str, str, str]:
    words = verdict(claim.get("holds"), claim.get("measured"))
    kind, sign, style = HOLDS[words]
    return kind, f"{sign} {words}", style


def _badge(kind: str, words: str) -> Html:
    return element("span", words, class_=f"badge {kind}")


def claims_body(claims: list[dict]) -> Html:
    rows = [
        (
            claim["claim"],
            claim["source"],
            number(claim.get("paper")),
            interval(claim.get("measured"), claim.get("interval")),
            claim.get("baseline"),
            _badge(*_verdict(claim)[:2]),
        )
        for claim in claims
    ]
    return element("div", grid(("claim", "source", "paper", "measured [95% interval]", "against", ""), rows), class_="claims")


def segment_body(metrics: dict) -> Html:
    arms = [(name, metrics[name]) for name in ("base", "policy") if metrics.get(name)]
    columns = ("chunks", "tokens", "newline_chunks", "blank_line_chunks", "format_kept")
    rows = [
        (name, interval(arm.get("accuracy"), arm.get("interval")), *(number(arm.get(column)) for column in columns))
        for name, arm in arms
    ]
    head = ("solver", "accuracy [95% interval]", "chunks", "tokens", "chunks by newline", "chunks by blank line", "format kept")
    ratio = element("p", f"Ratio of chunks: ×{number(metrics['ratio'])}") if metrics.get("ratio") is not None else None
    return join(grid(head, rows), ratio, facts({k: v for k, v in metrics.items() if k not in ("base", "policy", "ratio")}))


def annotate_body(metrics: dict) -> Html:
    agreement = metrics.get("agreement") or []

    def by_rule(column: str) -> dict[str, list]:
        rules = dict.fromkeys(row["rule"] for row in agreement)
        return {rule: [(row["m"], row.get(column)) for row in agreement if row["rule"] == rule] for rule in rules}

    rules = [(row["rule"], number(row.get("positives"))) for row in metrics.get("rules") or []]
    noise = "Share of Monte-Carlo labels that equal the exact one, by the completions sampled a boundary (M): label noise."
    balanced = "The same, as the mean over right and wrong steps; a rule that says + to everything gets 0.5."
    charts = element(
        "div",
        line_chart("Agreement with the exact labels", by_rule("agreement"), "M", noise, even=True),
        line_chart("Balanced agreement", by_rule("balanced_agreement"), "M", balanced, even=True),
        class_="charts",
    )
    rest = {
        "solutions": metrics.get("solutions"),
        "steps": metrics.get("steps"),
        "share of steps exactly right": metrics.get("exact_positive"),
    }
    mistakes = [(kind, count, None) for kind, count in (metrics.get("mistakes") or {}).items()]
    return join(
        grid(("label rule", "share of positive labels"), rules),
        charts,
        facts(rest),
        bar_chart("Mistakes by kind", mistakes, "Steps with each kind of mistake."),
    )


def judge_body(metrics: dict) -> Html:
    runs = {"all labels": metrics.get("grpo") or [], "a tenth of the labels": metrics.get("tenth") or []}
    charts = [
        line_chart(
            title,
            {name: [(row.get("step"), row.get(metric)) for row in rows] for name, rows in runs.items()},
            "step",
            meaning,
            zero=zero,
        )
        for metric, title, meaning, zero in CURVES
    ]
    before = join(element("h3", "Before GRPO: learning the format"), facts(metrics["format"])) if metrics.get("format") else None
    return join(element("div", *charts, class_="charts"), before)


def evaluate_body(metrics: dict) -> Html:
    rows = metrics.get("rows") or []
    columns = ("accuracy_error", "accuracy_correct", "balanced_accuracy", "unparseable", "tokens_per_step")
    head = (
        "judge",
        "labels used",
        "F1 [95% interval]",
        "accuracy, with error",
        "accuracy, without error",
        "balanced accuracy",
        "unparseable",
        "tokens a step",
    )
    chart = bar_chart(
        "First-error F1",
        [(row["name"], row.get("f1"), row.get("interval")) for row in rows],
        "Bar: harmonic mean of the two accuracies. Whisker: 95% interval.",
    )
    cells = [
        (
            row["name"],
            number(row.get("labels_used")),
            interval(row.get("f1"), row.get("interval")),
            *(number(row.get(column)) for column in columns),
        )
        for row in rows
    ]
    count = element("p", f"{number(metrics.get('items'))} solutions, {number(metrics.get('with_error'))} of them with an error.")
    names = {row["id"]: row["name"] for row in rows if "id" in row}
    pairs = {key: [names.get(part, part) for part in key.split("-")] for key in metrics.get("differences") or {}}
    versus = _differences({" minus ".join(pair): metrics["differences"][key] for key, pair in pairs.items()})
    return join(count, chart, grid(head, cells), versus)


def _differences(found: dict[str, dict]) -> Html | None:
    """Paired differences by what is compared: {"measured", "interval"} each."""
    if not found:
        return None
    rows = [(name, interval(value.get("measured"), value.get("interval"), signed=True)) for name, value in found.items()]
    return join(element("h3", "Differences"), grid(("on the same items", "difference [95% interval]"), rows))


def search_body(metrics: dict) -> Html:
    rows = metrics.get("rows") or []
    chart = bar_chart(
        "Accuracy",
        [(row["method"], row.get("accuracy"), row.get("interval")) for row in rows],
        "Bar: share of problems answered rightly. Whisker: 95% interval.",
    )
    versus = (("plain sampling", "difference"), ("random rejection", "random_difference"), ("majority", "majority_difference"))
    last = _differences({f"chunk-reset minus {name}": metrics[key] for name, key in versus if metrics.get(key)})
    hard = metrics.get("hard")
    harder = join(element("h3", "Longer, harder problems"), _methods(hard["rows"])) if hard else None
    return join(chart, _methods(rows), last, harder)


def _methods(rows: list[dict]) -> Html:
    columns = ("policy_tokens", "judge_tokens", "rejected_tokens", "tokens")
    head = ("method", "accuracy [95% interval]", "policy tokens", "judge tokens", "rejected tokens", "all tokens")
    return grid(
        head,
        [
            (row["method"], interval(row.get("accuracy"), row.get("interval")), *(number(row.get(column)) for column in columns))
            for row in rows
        ],
    )


def _step(text: str, verdict: bool | None, analysis: str | None, *marks: Html | None, thrown_away: bool = False) -> Html:
    kind, words = VERDICT[verdict]
    shown = element("del" if thrown_away else "span", text, class_="text")
    return element(
        "details",
        element("summary", _badge(kind, words), *marks, shown),
        element("div", analysis or "(no analysis)", class_="analysis"),
        class_=f"step {kind}",
    )


def _outcome(correct: bool | None) -> Html:
    return _badge("good", "✓ right answer") if correct else _badge("bad", "✗ wrong answer")


def showcase_body(solutions: list[dict]) -> Html:
    return join(
        *(
            element(
                "article",
                element("div", solution["question"], class_="question"),
                element("p", _outcome(solution.get("correct"))),
                *(_shown_chunk(chunk) for chunk in solution["chunks"]),
            )
            for solution in solutions
        )
    )


def _shown_chunk(chunk: dict) -> Html:
    verdict, label = chunk.get("verdict"), chunk.get("label")
    mark = None
    if label is not None:
        differs = verdict is not label
        mark = element("span", f"exact: {LABEL[label]}", " ≠ verdict" if differs else None, class_=f"mark{' differs' * differs}")
    probability = element("span", f"P(Positive) {number(chunk.get('p_positive'))}", class_="mark")
    return _step(chunk["text"], verdict, chunk.get("analysis"), mark, probability)


def trace_body(trace: dict) -> Html:
    steps: list[Html] = []
    groups = itertools.groupby(trace.get("tries") or [], key=lambda entry: entry["position"])
    for place, (_, tries) in enumerate(groups, 1):
        steps.append(element("div", f"Chunk {place}", class_="turn"))
        for count, entry in enumerate(tries, 1):
            fate = "kept" if entry["kept"] else "thrown away"
            steps.append(
                _step(
                    entry["text"],
                    entry.get("verdict"),
                    entry.get("analysis"),
                    element("span", f"try {count}, {fate}", class_="mark"),
                    thrown_away=not entry["kept"],
                )
            )
    given = trace.get("given")
    answers = f" given: {'no answer' if given is None else given}, right: {trace.get('answer')}"
    return element(
        "article",
        element("div", trace["question"], class_="question"),
        element("p", _outcome(trace.get("correct")), answers),
        *steps,
    )


def run_body(run: dict) -> Html:
    stages = [
        (name, duration(stage.get("seconds")), number(stage.get("tokens")), number(stage.get("peak_memory_gb")))
        for name, stage in (run.get("stages") or {}).items()
    ]
    whole = {
        "all stages": duration(run.get("seconds")),
        "peak memory": f"{number(run.get('peak_memory_gb'))} GB",
        "hardware": _hardware(run.get("hardware") or {}),
    }
    recipe = element(
        "details",
        element("summary", "The recipe: every knob of this run"),
        element("pre", json.dumps(run.get("recipe") or {}, indent=2, ensure_ascii=False)),
    )
    versions = {name: str(version) for name, version in (run.get("versions") or {}).items()}
    return join(facts(whole), grid(("stage", "time", "tokens", "peak memory, GB"), stages), facts(versions), recipe)


SECTIONS = (
    Section(
        "claims",
        "claims.json",
        "Claims",
        "",
        "Each claim of the papers beside what this run measured, on its own model and data.",
        claims_body,
    ),
    Section(
        "segment",
        "segment/metrics.json",
        "Segment",
        "StepWiser §3.1",
        "The policy learns to cut its own solutions into chunks, each one complete logical step: fewer chunks, and the "
        "accuracy should not fall.",
        segment_body,
    ),
    Section(
        "annotate",
        "annotate/metrics.json",
        "Annotate",
        "StepWiser §3.2",
        "Completions sampled after every chunk estimate how often it still leads to the right answer; the rules turn these "
        "estimates into labels.",
        annotate_body,
    ),
    Section(
        "judge",
        "judge/metrics.json",
        "Train the judge",
        "StepWiser §3.3",
        "The judge writes an analysis, then a verdict, and is rewarded where the verdict equals the label (GRPO).",
        judge_body,
    ),
    Section(
        "evaluate",
        "evaluate/metrics.json",
        "Evaluate",
        "ProcessBench; StepWiser Table 5",
        "Each judge looks for the first wrong step of solutions; F1 is high only if it finds errors and also leaves right "
        "solutions alone.",
        evaluate_body,
    ),
    Section(
        "search",
        "search/metrics.json",
        "Search",
        "StepWiser §4.4, Table 7",
        "The judge guides the policy: a chunk judged Negative is thrown away and sampled again. Compare accuracies only "
        "beside the tokens that they cost.",
        search_body,
    ),
    Section(
        "solutions",
        "evaluate/showcase.json",
        "Solutions",
        "StepWiser §3.3",
        "Sampled solutions, chunk by chunk, with the judge's verdicts, and the exact label where it is known. Click a chunk "
        "to read the analysis.",
        showcase_body,
    ),
    Section(
        "trace",
        "search/trace.json",
        "One search",
        "StepWiser §4.4",
        "What chunk-reset search did on one problem: tries that were thrown away are struck through. Click a try to read the "
        "analysis.",
        trace_body,
    ),
    Section("run", "run.json", "Run facts", "", "What it took, and with which knobs.", run_body),
)
