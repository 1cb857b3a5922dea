"""Studies: arms that are measured and compared over several seeds.

    python -m minisw.reproduce --study ablations           what GRPO of the judge needs             study/ablations.py
    python -m minisw.reproduce --study habits              what it makes of a rare habit            study/habits.py
    python -m minisw.reproduce --study components          analysis, code, both or neither          study/components.py
    python -m minisw.reproduce --study data-efficiency     F1 against labels and against compute    study/data_efficiency.py
    python -m minisw.reproduce --study ladder              a real chat model on five tasks          study/ladder.py
    python -m minisw.reproduce --study selection           data selection and dense rewards         study/selection.py
    python -m minisw.reproduce --study search              search at equal compute                  study/search.py

The first four train judges that differ in one setting (study/base.py). "ladder" is one run for each preset. The last two measure
whole runs (study/whole_runs.py).
"""

from minisw.study.ablations import ABLATIONS
from minisw.study.base import Study, run_study
from minisw.study.components import COMPONENTS
from minisw.study.data_efficiency import DATA_EFFICIENCY
from minisw.study.habits import HABITS
from minisw.study.ladder import LadderStudy
from minisw.study.search import SEARCH
from minisw.study.selection import SELECTION
from minisw.study.whole_runs import RunStudy

__all__ = ["STUDIES", "LadderStudy", "RunStudy", "Study", "run_study"]

STUDIES: dict[str, Study | LadderStudy | RunStudy] = {
    study.name: study for study in (ABLATIONS, HABITS, COMPONENTS, DATA_EFFICIENCY, LadderStudy(), SELECTION, SEARCH)
}
