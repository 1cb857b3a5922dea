"""Ablations (StepWiser §4.3): GRPO of the judge with one setting changed at a time."""

from __future__ import annotations

from minisw.judges.stepwiser import STEPWISER
from minisw.recipe import Recipe
from minisw.study.base import OWN, Arm, Change, Contrast, Study, with_knobs

MOST_BRANCHES = 16


def _group(size: int) -> Change:
    """Another group size with as many replies in a step."""
    return lambda recipe: with_knobs("judge", group=size, prompts=recipe.judge.prompts * recipe.judge.group // size)(recipe)


def _blank_lines(recipe: Recipe) -> Recipe:
    """Steps are cut at blank lines; a solution has more of them than chunks."""
    recipe = with_knobs("segment", teacher="blank_lines")(recipe)
    return with_knobs("policy", max_chunks=4 * recipe.policy.max_chunks)(recipe)


def _claim(name: str, claim: str, a: str, b: str, source: str, paper: float | None = None) -> Contrast:
    """A contrast of StepWiser's judge in two arms."""
    return Contrast(name, claim, f"{a}/{STEPWISER}", f"{b}/{STEPWISER}", f"StepWiser {source}", paper)


ABLATIONS = Study(
    "ablations",
    "What GRPO of the judge needs",
    (
        Arm("base", "as in the recipe"),
        Arm("unbalanced", "labels not balanced", with_knobs("judge", balanced=False)),
        Arm("no_analysis", "verdict without an analysis", with_knobs("judge", analysis=False)),
        Arm("blank_lines", "steps cut at blank lines", _blank_lines, labels=OWN),
        Arm("updates", "4 updates a step", with_knobs("judge", updates=4)),
        Arm("no_clip_higher", "4 updates a step, no clip-higher", with_knobs("judge", updates=4, clip_high=0.2)),
        Arm("kl", "KL term of weight 0.02", with_knobs("judge", kl=0.02)),
        Arm("rel_effective", "labels by rel_effective", with_knobs("annotate", rule="rel_effective")),
        Arm("rel_ratio", "labels by rel_ratio", with_knobs("annotate", rule="rel_ratio")),
        *(Arm(f"m{m}", f"M = {m} rollouts", with_knobs("annotate", branches=m)) for m in (1, 4, MOST_BRANCHES)),
        *(Arm(f"group{size}", f"groups of {size}", _group(size)) for size in (4, 16)),
    ),
    (
        _claim("balancing-helps", "balanced labels help", "base", "unbalanced", "§4.3, 7B, Rel-Ratio: 60.5 − 47.9", 0.126),
        _claim("clip-higher-helps", "clip-higher helps with 4 updates a step", "updates", "no_clip_higher", "§3.3"),
        _claim("analysis-helps", "an analysis before the verdict helps", "base", "no_analysis", "1.5B: 36.2 − 34.3", 0.019),
        _claim("chunks-help-under-rl", "chunks help under RL", "base", "blank_lines", "1.5B, Abs-Q: 36.1 − 32.4", 0.037),
    ),
    labels={"": with_knobs("annotate", branches=MOST_BRANCHES)},
)
