"""What a reasoning judge is made of (GenPRM §4.3): an analysis, checks in code, both or neither; and how much votes help.

All parts but "analysis" alone are cut out of the same sampled replies; labels and filter are the same.
"""

from __future__ import annotations

from minisw.judges.genprm import GENPRM
from minisw.judges.thinkprm import THINKPRM
from minisw.study.base import Arm, Contrast, Study, with_knobs

SOURCE = "GenPRM, 7B, Maj@8: both 80.5, analysis 78.8, code 69.6, neither 60.0"


def _claim(name: str, claim: str, a: str, b: str, paper: float) -> Contrast:
    """A contrast of two judges of the only arm."""
    return Contrast(name, claim, f"base/{a}", f"base/{b}", SOURCE, paper, ("f1", "f1_sampled", "f1_majority"))


COMPONENTS = Study(
    "components",
    "What GenPRM's judge is made of",
    (Arm("base", "as in the recipe", with_knobs("judge", rs_samples=16)),),
    (
        _claim("analysis-and-code", "an analysis with code beats an analysis alone", GENPRM, f"{GENPRM}_analysis", 0.017),
        _claim("analysis-beats-code", "an analysis alone beats code alone", f"{GENPRM}_analysis", f"{GENPRM}_code", 0.092),
        _claim("code-beats-neither", "code alone beats the verdict alone", f"{GENPRM}_code", f"{GENPRM}_neither", 0.096),
    ),
    judges=(GENPRM, f"{GENPRM}_analysis", f"{GENPRM}_code", f"{GENPRM}_neither", THINKPRM),
)
