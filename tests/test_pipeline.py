"""Which stages a recipe has, and what each needs."""

from __future__ import annotations

import contextlib
import io

import pytest
from rich.console import Console

from minisw import pipeline
from minisw.presets import PRESETS

ALL = ("segment", "annotate", "judges", "evaluate", "search", "report")
GIVEN = ("annotate", "judges", "evaluate", "report")


class FakeRun:
    """Notes the stages that run; `needed` says which have not finished."""

    def __init__(self, preset: str):
        self.recipe, self.done, self.console = PRESETS[preset], set(), Console(file=io.StringIO())

    def finished(self, name: str) -> bool:
        return name in self.done

    @contextlib.contextmanager
    def stage(self, name: str):
        yield name not in self.done
        self.done.add(name)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    functions = {name: lambda run, name=name: names.append(name) for name in pipeline.STAGE_FUNCTIONS}
    monkeypatch.setattr(pipeline, "STAGE_FUNCTIONS", functions)
    return names


@pytest.mark.parametrize(("preset", "stages"), [("tiny", ALL), ("rung-2", ALL), ("rung-1", GIVEN)])
def test_stages_run_in_order_and_each_once(ran: list[str], preset: str, stages: tuple[str, ...]) -> None:
    run = FakeRun(preset)
    assert pipeline.stages_of(run.recipe) == stages
    for name in [*stages, *stages]:
        pipeline.run_stage(run, name)
    assert tuple(ran) == stages
    assert f"{len(stages)}/{len(stages)} report" in run.console.file.getvalue()


@pytest.mark.parametrize(("preset", "stages"), [("tiny", ALL), ("rung-1", GIVEN)])
def test_a_stage_waits_for_those_before_it(ran: list[str], preset: str, stages: tuple[str, ...]) -> None:
    for earlier, name in zip(stages, stages[1:-1], strict=False):
        run = FakeRun(preset)
        run.done = set(stages[: stages.index(earlier)])
        with pytest.raises(ValueError, match=f"stage {name} needs the results of {earlier}: run --stage {earlier} first"):
            pipeline.run_stage(run, name)
        run.done.add(earlier)
        pipeline.run_stage(run, name)
    pipeline.run_stage(FakeRun(preset), "report")  # shows what there is


def test_a_stage_that_the_recipe_has_not_is_refused(ran: list[str]) -> None:
    for preset, name in (("rung-1", "segment"), ("rung-1", "search"), ("tiny", "select"), ("tiny", "nothing")):
        with pytest.raises(ValueError, match=f"this recipe has no stage {name}: choose from "):
            pipeline.run_stage(FakeRun(preset), name)
    assert ran == []
