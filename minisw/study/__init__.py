"""Studies: judges that differ in one setting, trained and measured with several seeds.

    python -m minisw.reproduce --study ablations           what GRPO of the judge needs             study/ablations.py
    python -m minisw.reproduce --study habits              what it makes of a rare habit            study/habits.py
    python -m minisw.reproduce --study components          analysis, code, both or neither          study/components.py
    python -m minisw.reproduce --study data-efficiency     F1 against labels and against compute    study/data_efficiency.py
"""

from minisw.study.ablations import ABLATIONS
from minisw.study.base import Study, run_study
from minisw.study.components import COMPONENTS
from minisw.study.data_efficiency import DATA_EFFICIENCY
from minisw.study.habits import HABITS

__all__ = ["STUDIES", "Study", "run_study"]

STUDIES = {study.name: study for study in (ABLATIONS, HABITS, COMPONENTS, DATA_EFFICIENCY)}
