"""Markdown tables of studies (minisw/study/): every figure is a mean over seeds, the unit of a contrast is the seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from minisw.evaluate.stats import mean
from minisw.report import columns
from minisw.report.claims import ClaimSpec, decide, read_json
from minisw.report.columns import Column, pick
from minisw.report.markdown import grouped, markdown, render

# --- columns of tables that only Markdown has --------------------------------------------------------------------------

PARETO = (
    Column("split", "problems"),
    Column("arm", "method"),
    Column("multiple", "budget", lambda value: f"{value:g}×", "Tokens a problem, as a multiple of one plain sample's."),
    Column("accuracy", "accuracy", columns.share, "Share of problems with the right final answer."),
    Column("difference", "over majority", columns.difference, "Accuracy minus that of a vote of at least equal cost."),
    *pick(columns.SEARCH, "policy_tokens", "judge_tokens", "rejected_tokens", "tokens"),
    Column("policy_prompt_tokens", "policy prompt", columns.count, "Mean prompt tokens of the policy for a problem."),
    Column("judge_prompt_tokens", "judge prompt", columns.count, "Mean prompt tokens of the judge for a problem."),
    Column("flops", "FLOPs", columns.rough, "2 a parameter and token, sampled or read."),
)

SEARCH_JUDGE = (
    Column("name", "judge"),
    Column("f1", "F1", columns.share, "First-error F1, greedy.", "f1_interval"),
    Column("accuracy", "accuracy", columns.share, "Share of problems that chunk-reset with this judge solves.", "interval"),
    *pick(columns.SEARCH, "policy_tokens", "judge_tokens", "tokens"),
)

SELECTION = (
    Column("name", "chosen"),
    Column("round", "round"),
    Column("greedy", "accuracy, greedy", columns.share, "Share of test problems that the policy solves.", "greedy_interval"),
    Column("sampled", "sampled", columns.share, "Mean accuracy of sampled solutions of the test problems.", "sampled_interval"),
    Column("right", "right", columns.share, "Share of the chosen solutions with the right answer."),
    Column("lucky", "lucky", columns.share, "Share of them with the right answer and a wrong chunk."),
    Column("as_outcome", "as at random", columns.share, "Share of them that the choice at random made too."),
    Column("tokens", "tokens", columns.count, "Mean tokens of a chosen solution."),
)

DENSE = (
    Column("name", "rewarded by GRPO"),
    Column("steps", "steps", columns.count, "GRPO steps."),
    *pick(SELECTION, "greedy", "sampled"),
)

HACKING = (
    Column("name", "rewarded by GRPO"),
    Column("when", "steps"),
    Column("policy/outcome", "right", columns.share, "Share of right solutions."),
    Column("policy/process", "judge's score", columns.share, "Mean P(Positive) of the chunks; without chunks 0."),
    Column("policy/process_wrong", "of wrong ones", columns.share, "The same of wrong ones: it rises if the judge is fooled."),
    Column("completions/mean_length", "tokens", columns.count, "Mean length of a solution."),
    Column("policy/chunks", "chunks", columns.one_digit, "Mean chunks of a solution that keeps the format."),
    Column("policy/empty_chunks", "empty", columns.share, "Share of chunks with fewer than three words."),
    Column("policy/repeated_chunks", "repeated", columns.share, "Share of chunks that repeat one of their solution."),
    Column("policy/judge_tokens", "judge's tokens", columns.count, "Mean tokens that the judge samples for a solution."),
)

LADDER = (
    Column("rung", "rung"),
    Column("seed", "seed"),
    Column("name", "judge"),
    *pick(columns.JUDGE, "f1", "f1_sampled", "balanced_accuracy", "unparseable", "tokens_per_step"),
    Column("first_reward", "first reward", columns.share, "Mean reward of the replies in the first step of GRPO."),
    Column("last_reward", "last", columns.share, "The same in the last step."),
    Column("trend", "gain per step", columns.difference, "Least-squares slope of the reward over steps.", "trend_interval"),
)

# --- judges -------------------------------------------------------------------------------------------------------------

FIGURES = {  # how the figures of contrasts are called; those that are sampled make no claim of their own
    "f1": "F1, greedy",
    "f1_sampled": "F1, sampled",
    "greedy": "accuracy, greedy",
    "sampled": "accuracy, sampled",
    "accuracy": "accuracy",
    "spearman": "rank correlation",
}
SPLITS = {"test": "test problems", "hard": "harder problems"}  # that tables show


def is_claim(contrast: dict) -> bool:
    """Whether a contrast stands among the claims: sampled figures only accompany the greedy ones."""
    return contrast["figure"] not in ("f1_sampled", "sampled")


def study_table(folders: Sequence[Path]) -> str:
    """The arms of a study (minisw/study/) as means over seeds; "" for a study without judges of its own."""
    rows = read_study(folders).get("rows", [])
    wanted = [column for column in columns.STUDY if column.key != "judge" or len({row["judge"] for row in rows}) > 1]
    return render(wanted, grouped(rows, "arm", "judge")) if rows else ""


def contrasts_table(folders: Sequence[Path]) -> str:
    """The contrasts of a study: a claim about two arms, decided on the t interval over seeds."""
    rows = []
    for contrast in read_study(folders)["contrasts"]:
        spec = ClaimSpec(contrast["id"], contrast["claim"], contrast["source"], contrast["paper"], contrast["b"], "")
        rows.append(
            [
                f"`{contrast['id']}`",
                FIGURES[contrast["figure"]],
                columns.difference(contrast["paper"]),
                columns.difference(contrast["measured"]),
                columns.bounds(contrast["interval"], columns.difference),
                " ".join(columns.difference(value) for value in contrast["each"]),
                decide(spec, contrast["measured"], contrast["interval"]),
            ]
        )
    return markdown(["claim", "figure", "paper", "mean", "95%, other seeds", "each seed", "outcome"], rows) if rows else ""


def read_study(folders: Sequence[Path]) -> dict:
    """The results of a study in the first folder. Raises ValueError if there are none."""
    found = read_json(folders[0] / "results.json")
    if not found:
        raise ValueError(f"{folders[0]} holds no results of a study: run python -m minisw.reproduce --study ablations first")
    return found


# --- search at equal compute ---------------------------------------------------------------------------------------------


def pareto_table(folders: Sequence[Path]) -> str:
    """Accuracy of every search method at every budget, with the tokens spent; then every judge at one budget."""
    found, tables = read_study(folders), []
    for split, title in SPLITS.items():
        rows = [row for row in found.get("pareto", []) if row["split"] == split]
        multiples = sorted({row["multiple"] for row in rows})
        lines = [[own[0]["arm"].replace("_", " "), *_cells(own, multiples)] for own in grouped(rows, "arm")]
        if rows:
            tables.append(markdown([f"method, {title}", *(f"{multiple}×" for multiple in multiples)], lines))
    judges = found.get("judges", [])
    return "\n".join([*tables, *([render(SEARCH_JUDGE, grouped(judges, "id"))] if judges else [])])


def _cells(rows: Sequence[dict], multiples: Sequence[int]) -> list[str]:
    """`0.42 (812)`: the accuracy of one method and the tokens that it spent, at every budget."""
    cells = []
    for multiple in multiples:
        own = [row for row in rows if row["multiple"] == multiple]
        accuracy, tokens = (mean([row[key] for row in own]) for key in ("accuracy", "tokens"))
        cells.append(f"{columns.share(accuracy)} ({columns.count(tokens)})" if own else columns.NONE)
    return cells


def costs_table(folders: Sequence[Path]) -> str:
    """The whole account of every search method at every budget, a row each."""
    rows = [row for row in read_study(folders).get("pareto", []) if row["split"] in SPLITS]
    return render(PARETO, grouped(rows, "split", "arm", "multiple")) if rows else ""


# --- data selection and dense rewards ------------------------------------------------------------------------------------


def selection_table(folders: Sequence[Path]) -> str:
    """What policies are taught by what each method chose; then GRPO of the policy, and whether its reward was gamed."""
    found = read_study(folders)
    wanted = (
        (SELECTION, grouped(found.get("selection", []), "round", "id")),
        (DENSE, grouped(found.get("dense", []), "id")),
        (HACKING, grouped(found.get("hacking", []), "id", "when")),
    )
    return "\n".join(render(shown, rows) for shown, rows in wanted if rows)


# --- the ladder ----------------------------------------------------------------------------------------------------------


def ladder_table(folders: Sequence[Path]) -> str:
    """Every judge of every rung and seed; then what each run claims about the judges."""
    found = read_study(folders)
    rows = [
        [
            f"{row['rung']}, seed {row['seed']}",
            f"`{row['id']}`",
            columns.difference(row["measured"]),
            columns.bounds(row["interval"], columns.difference),
            row["outcome"],
        ]
        for row in found.get("claims", [])
        if row["id"].startswith(("grpo-", "judge-"))
    ]
    if not found.get("ladder"):
        return ""
    claims = markdown(["run", "claim", "measured", "95%, other problems", "outcome"], rows)
    return "\n".join([render(LADDER, [[row] for row in found["ladder"]]), *([claims] if rows else [])])


STUDY_TABLES: dict[str, Callable[[Sequence[Path]], str]] = {
    "study": study_table,
    "contrasts": contrasts_table,
    "pareto": pareto_table,
    "costs": costs_table,
    "selection": selection_table,
    "ladder": ladder_table,
}
