"""The sections of the HTML page: which file each one reads, what it explains, and how the file becomes HTML."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from minisw.report import columns
from minisw.report.charts import bar_chart, line_chart
from minisw.report.claims import FAILS, HOLDS, OPEN, UNTESTED
from minisw.report.columns import claim_cells, pick
from minisw.report.html import Html, duration, element, facts, grid, join, legend, number, table
from minisw.report.steps import badge, solutions_body, trace_body

OUTCOME = {  # outcome: (class in HTML, sign, colour in the terminal)
    HOLDS: ("good", "✓", "green"),
    FAILS: ("bad", "✗", "red"),
    OPEN: ("none", "~", "yellow"),
    UNTESTED: ("none", "–", "dim"),
}

CURVES = (  # (metric of a training step, title, what it means, whether the axis starts at 0)
    ("reward", "Reward", "Share of sampled analyses that are rewarded; on balanced labels guessing gives about 0.5.", False),
    (
        "completions/mean_length",
        "Length of an analysis",
        "Mean tokens of an analysis. A fall towards zero means that the judge stops reasoning.",
        True,
    ),
    ("entropy", "Entropy", "Mean entropy of the next token, in nats. Near zero all samples of a group agree.", True),
    (
        "frac_reward_zero_std",
        "Groups without a gradient",
        "Share of groups whose rewards are all equal: their advantages are zero, so they teach nothing.",
        True,
    ),
)


@dataclass(frozen=True)
class Section:
    """One section: the file that it reads, an introduction, and the function from the file's value to HTML."""

    id: str
    file: str
    title: str
    paper: str
    introduction: str
    body: Callable[..., Html]


def hardware(facts: dict) -> str:
    """`AMD EPYC, 2 cores, no GPU, 23.5 GB memory`."""
    return ", ".join(
        (
            str(facts.get("cpu") or "unknown CPU"),
            f"{number(facts.get('cores'))} cores",
            str(facts.get("gpu") or "no GPU"),
            f"{number(facts.get('memory_gb'))} GB memory",
        )
    )


def claims_body(claims: list[dict]) -> Html:
    shown = pick(columns.CLAIM, "claim", "source", "paper", "measured", "baseline", "outcome")
    rows = []
    for claim in claims:
        kind, sign, _ = OUTCOME[claim["outcome"]]
        cells = claim_cells(claim)
        rows.append([*(cells[column.key] for column in shown[:-1]), badge(kind, f"{sign} {claim['outcome']}")])
    return element("div", grid([column.title for column in shown], rows), legend(shown), class_="claims")


def segment_body(metrics: dict) -> Html:
    rows = [{"name": name, **metrics[name]} for name in ("base", "policy") if metrics.get(name)]
    rest = {
        "chunks over parts split at blank lines (ratio)": metrics.get("ratio"),
        "accuracy, policy minus base": metrics.get("difference"),
        "solutions sampled for SFT": metrics.get("sampled"),
        "of these right": metrics.get("right"),
        "segmented by the teacher and taught": metrics.get("taught"),
        "loss of the last SFT step": metrics.get("final_loss"),
    }
    mistakes = _mistakes(metrics, "Solutions of the policy by the kind of their first mistake.")
    return join(table(columns.SEGMENT, rows), facts(_known(rest)), mistakes)


def annotate_body(metrics: dict) -> Html:
    agreement = metrics.get("agreement") or []

    def by_rule(column: str) -> dict[str, list]:
        rules = dict.fromkeys(row["rule"] for row in agreement)
        return {rule: [(row["m"], row.get(column)) for row in agreement if row["rule"] == rule] for rule in rules}

    plain = "Share of Monte-Carlo labels that equal the exact one, by the completions sampled at a boundary (M)."
    balanced = "The mean over right and wrong steps; a rule that calls everything positive gets 0.5."
    charts = element(
        "div",
        line_chart("Agreement with the exact labels", by_rule("agreement"), "M", plain, even=True),
        line_chart("Balanced agreement", by_rule("balanced_agreement"), "M", balanced, even=True),
        class_="charts",
    )
    q = metrics.get("q") or {}
    rest = {
        "solutions drawn": metrics.get("drawn"),
        "accuracy of these": metrics.get("drawn_accuracy"),
        "cut off at the token budget": metrics.get("drawn_cut_off"),
        "solutions annotated": metrics.get("solutions"),
        "their steps": metrics.get("steps"),
        "steps drawn that are exactly right (share)": metrics.get("exact_positive"),
        "mean Q of the prompt": q.get("start"),
        "mean Q before the last chunk": q.get("before_last"),
        "mean change of Q over a positive chunk": q.get("change_positive"),
        "mean change of Q over a negative chunk": q.get("change_negative"),
    }
    mistakes = _mistakes(metrics, "Drawn solutions by the kind of their first mistake.")
    labels = join(table(columns.RULE, metrics.get("rules") or []), table(columns.AGREEMENT, agreement))
    return join(labels, charts, facts(_known(rest)), mistakes)


def judges_body(metrics: dict) -> Html:
    """`metrics` maps an adapter to what its training measured."""
    grpo = {name: entry["curve"] for name, entry in metrics.items() if any("reward" in row for row in entry.get("curve") or [])}
    sft = {name: entry["curve"] for name, entry in metrics.items() if entry.get("curve") and name not in grpo}

    def chart(curves: dict, metric: str, title: str, meaning: str, zero: bool) -> Html:
        points = {name: [(row.get("step"), row.get(metric)) for row in rows] for name, rows in curves.items()}
        return line_chart(title, points, "step", meaning, zero=zero)

    charts = [chart(grpo, *curve) for curve in CURVES]
    charts += [_habits_chart(name, curve) for name, curve in grpo.items()]
    charts.append(chart(sft, "loss", "SFT loss", "Mean negative log-likelihood of the taught replies, a token.", True))
    adapters = [{"name": name, **entry} for name, entry in metrics.items()]
    sweeps = [
        join(element("h3", f"{name}: knobs tried on validation labels"), table(columns.SWEEP, entry["sweep"]))
        for name, entry in metrics.items()
        if entry.get("sweep")
    ]
    return join(element("div", *charts, class_="charts"), table(columns.TRAINING, adapters), *sweeps)


def _habits_chart(name: str, curve: list[dict]) -> Html:
    """The shares of the habits of judging over one GRPO; "" for a task without named habits."""
    keys = [key for key in curve[0] if key.startswith("habits/")]
    shares = {key.removeprefix("habits/"): [(row.get("step"), row.get(key)) for row in curve] for key in keys}
    meaning = "Share of sampled replies by their habit, told from their words. The reward decides which habit grows."
    return line_chart(f"Habits of {name}", shares, "step", meaning, zero=True)


def _pass_charts(passes: dict[str, list[dict]]) -> Html:
    """pass@k of the judges in `passes`, of whole solutions and of steps."""
    solutions = "Does GRPO widen or sharpen? Share of solutions that at least one of k judgments gets exactly right."
    steps = "The same for single steps, right and wrong ones with equal weight. Guessing gives 1 − 1/2ᵏ."
    charts = [
        line_chart(
            f"pass@k, {of}", {name: [(row["k"], row[of]) for row in rows] for name, rows in passes.items()}, "k", text, even=True
        )
        for of, text in (("solutions", solutions), ("steps", steps))
    ]
    return element("div", *charts, class_="charts")


def evaluate_body(metrics: dict) -> Html:
    rows = metrics.get("rows") or []
    parts = list(rows[0].get("by_part") or {}) if rows else []
    chart = bar_chart(
        "First-error F1",
        [(row["name"], row.get("f1"), row.get("interval")) for row in rows],
        "Bar: harmonic mean of the accuracies with and without an error. Whisker: 95% interval over questions.",
    )
    items = f"{number(metrics.get('items'))} solutions, {number(metrics.get('with_error'))} of them with an error."
    wanted = columns.JUDGE if parts else [column for column in columns.JUDGE if column.key != "f1_pooled"]
    by_part = [
        join(element("h3", f"{part} only"), table(columns.PART, [{"name": row["name"], **row["by_part"][part]} for row in rows]))
        for part in parts
    ]
    names = {row["id"]: row["name"] for row in rows if "id" in row}
    differences = [
        {"name": " minus ".join(names.get(part, part) for part in key.split("-")), **value}
        for key, value in (metrics.get("differences") or {}).items()
    ]
    note = element("p", metrics["note"]) if metrics.get("note") else None
    passes = metrics.get("pass") or {}
    sampled = [
        {"name": " minus ".join(names.get(part, part) for part in key.split("-")) + ", one sample", **value}
        for key, value in (metrics.get("differences_sampled") or {}).items()
    ]
    return join(
        element("p", items),
        note,
        chart,
        table(wanted, rows),
        *by_part,
        _differences(differences + sampled),
        _pass_charts({names.get(name, name): rows for name, rows in passes.items()}) if passes else None,
    )


def search_body(metrics: dict) -> Html:
    rows, hard = metrics.get("rows") or [], metrics.get("hard") or {}
    chart = bar_chart(
        "Accuracy",
        [(row["method"], row.get("accuracy"), row.get("interval")) for row in rows],
        "Bar: share of problems with the right answer. Whisker: 95% interval.",
    )
    others = (("plain sampling", "difference"), ("random rejection", "random_difference"), ("majority", "majority_difference"))
    differences = [{"name": f"chunk-reset minus {name}", **metrics[key]} for name, key in others if metrics.get(key)]
    harder = join(element("h3", "Longer, harder problems"), table(columns.SEARCH, hard["rows"])) if hard.get("rows") else None
    rate = facts(_known({"share of tries that the judge rejects": metrics.get("rejection_rate")}))
    return join(chart, table(columns.SEARCH, rows), rate, _differences(differences), harder)


def run_body(run: dict) -> Html:
    stages = [{"name": name, "time": duration(s.get("seconds")), **s} for name, s in (run.get("stages") or {}).items()]
    whole = {
        "all stages": duration(run.get("seconds")),
        "peak memory": f"{number(run.get('peak_memory_gb'))} GB",
        **({"peak GPU memory": f"{number(run['peak_gpu_memory_gb'])} GB"} if run.get("peak_gpu_memory_gb") else {}),
        "hardware": hardware(run.get("hardware") or {}),
    }
    recipe = element(
        "details",
        element("summary", "The recipe: every knob of this run"),
        element("pre", json.dumps(run.get("recipe") or {}, indent=2, ensure_ascii=False)),
    )
    versions = {name: str(version) for name, version in (run.get("versions") or {}).items()}
    return join(facts(whole), table(columns.STAGE, stages), facts(versions), recipe)


def _differences(rows: list[dict]) -> Html | None:
    return join(element("h3", "Paired differences"), table(columns.DIFFERENCE, rows)) if rows else None


def _mistakes(metrics: dict, meaning: str) -> Html:
    rows = [(kind, number_of_them, None) for kind, number_of_them in (metrics.get("mistakes") or {}).items()]
    return bar_chart("First mistakes by kind", rows, meaning)


def _known(values: dict) -> dict:
    return {name: value for name, value in values.items() if value is not None}


SECTIONS = (
    Section(
        "claims",
        "claims.json",
        "Claims",
        "",
        "Each claim of the papers beside what this run measured, with its own model and data.",
        claims_body,
    ),
    Section(
        "segment",
        "segment/metrics.json",
        "Segment",
        "StepWiser §3.1",
        "The policy learns to cut its solutions into chunks, each one a complete logical step. There should be fewer chunks "
        "than with a split at blank lines, and the accuracy should stay.",
        segment_body,
    ),
    Section(
        "annotate",
        "annotate/metrics.json",
        "Annotate",
        "StepWiser §3.2",
        "Completions sampled after every chunk estimate how often it still leads to the right answer. A rule turns these "
        "estimates into labels.",
        annotate_body,
    ),
    Section(
        "judges",
        "judges/metrics.json",
        "Train the judges",
        "StepWiser §3.3",
        "All judges learn from the same labels. The classifier learns + or −, RS-FT imitates the base's own right analyses, "
        "and StepWiser's judge is rewarded if the verdict after its analysis equals the label (GRPO).",
        judges_body,
    ),
    Section(
        "evaluate",
        "evaluate/metrics.json",
        "Evaluate",
        "ProcessBench; StepWiser Table 5",
        "Each judge looks for the first wrong step of every solution. F1 is high only for a judge that finds errors and "
        "also accepts right solutions.",
        evaluate_body,
    ),
    Section(
        "search",
        "search/metrics.json",
        "Search",
        "StepWiser §4.4, Table 7",
        "The judge guides the policy: a chunk judged Negative is discarded and sampled again. Compare accuracies together "
        "with the tokens that they cost.",
        search_body,
    ),
    Section(
        "solutions",
        "evaluate/showcase.json",
        "Solutions",
        "StepWiser §3.3",
        "Sampled solutions, chunk by chunk, with the verdicts of StepWiser's judge and the label where it is known. Click a "
        "chunk to read the analysis.",
        solutions_body,
    ),
    Section(
        "trace",
        "search/trace.json",
        "One search",
        "StepWiser §4.4",
        "Chunk-reset on one problem: discarded tries are struck through. Click a try to read the analysis.",
        trace_body,
    ),
    Section("run", "run.json", "The run", "", "Time, memory, versions and knobs.", run_body),
)
