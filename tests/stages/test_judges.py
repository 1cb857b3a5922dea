"""The judges stage, run whole on a tiny model with a scripted sampler: who is asked what, and what is learned from."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from rich.console import Console

from minisw.judges import discriminative, rejection_sampled, stepwiser
from minisw.judges.discriminative import DiscriminativeJudge
from minisw.judges.saved import read_facts
from minisw.prompts import NEGATIVE, POSITIVE
from minisw.recipe import ClassifierKnobs, JudgeKnobs, Lora, ModelKnobs, Recipe, Training
from minisw.records import AnnotatedSolution, write_json, write_jsonl
from minisw.runs import Run
from minisw.stages import evaluate, judges

ADAPTERS = ["discriminative", "rejection_sampled", "stepwiser", "stepwiser_from_rs", "stepwiser_tenth"]
GRPO = ADAPTERS[2:]
PASSES = 2
RECIPE = Recipe(
    lora=Lora(4, 8),
    model=ModelKnobs(autocast="", sampling_dtype="", micro_tokens=4096),
    classifier=ClassifierKnobs(("classify",), lrs=(1e-2,), max_lrs=1, max_epochs=2, patience=2, batch=8),
    judge=JudgeKnobs(
        labels=40, passes=PASSES, rs_samples=4, rs_keep=2, rs_training=Training(1e-2, 1, 8), steps=2, prompts=4, group=4, lr=1e-2,
        max_new_tokens=60, judges=tuple(ADAPTERS),
    ),
)  # fmt: skip
PROBLEMS = 60  # of which each gives 1 negative and 1 or 2 positive labels, so that balancing has something to drop


def question(i: int) -> str:
    return f"Tom has {i + 10} apples."


def annotated(first: int, count: int) -> list[AnnotatedSolution]:
    """Solutions that go wrong in their second chunk, or in their third for every other problem; then there is one chunk more."""
    solutions = []
    for i in range(first, first + count):
        good = 1 + i % 2
        chunks = tuple(f"{i + 10}+{n}={i + 10 + n}. " for n in range(1, good + 3))
        q = (0.5, *[0.5] * good, *[0.0] * 2)
        solutions.append(AnnotatedSolution(f"p{i}", chunks, False, q))
    return solutions


def requests_of(solutions, words: str = "Judge the new step.") -> dict[str, bool]:
    """What a judge is asked about each labelled chunk, written out, with the label: up to the first chunk with Q = 0."""
    requests = {}
    for s in solutions:
        for i, chunk in enumerate(s.chunks):
            so_far = "".join(s.chunks[:i]).strip() or "(nothing)"
            text = f"{question(int(s.problem_id[1:]))}\n\nSo far:\n{so_far}\n\nNew step:\n{chunk.strip()}\n\n{words}"
            requests[text] = s.q[i + 1] > 0
            if s.q[i + 1] == 0:
                break
    return requests


TRAIN, VALIDATION = annotated(0, PROBLEMS), annotated(100, 6)


def base_reply(text: str, k: int) -> str:
    """The sampler's script: a judge is right in three replies of four, or in one."""
    number = int("".join(c for c in text.split("has ")[1].split(" apples")[0]))
    right = k < 3 if number % 2 else k == 0
    return f"The step says 4. {POSITIVE if right else NEGATIVE}"


def new_run(folder, lm, sampler, seed: int = 0, recipe: Recipe = RECIPE) -> Run:
    """A run whose annotate stage is finished, on a tiny model and a scripted sampler."""
    run = Run(dataclasses.replace(recipe, seed=seed), folder, Console(quiet=True))
    run.__dict__.update(lm=lm, sampler=sampler)
    (folder / "annotate").mkdir(exist_ok=True)
    write_jsonl(folder / "annotate" / "train.jsonl", TRAIN)
    write_jsonl(folder / "annotate" / "validation.jsonl", VALIDATION)
    questions = {s.problem_id: question(int(s.problem_id[1:])) for s in TRAIN + VALIDATION}
    write_json(folder / "annotate" / "questions.json", questions)
    return run


@dataclasses.dataclass
class Finished:
    """The finished stage and all that was seen of it."""

    run: Run
    metrics: dict
    calls: list[dict]  # of the sampler
    sft: dict[str, list[tuple[str, str]]]  # adapter → (request, reply) of every example


@pytest.fixture(scope="module")
def finished(tmp_path_factory, new_lm, fake_sampler) -> Finished:
    lm = new_lm()
    sampler = fake_sampler(lm, base_reply)
    run = new_run(tmp_path_factory.mktemp("run"), lm, sampler)
    sft: dict[str, list] = {}

    def spy(real):
        def train(lm, adapter, examples, *rest, **named):
            sft[adapter] = [(lm.decode(e.prompt), lm.decode(e.completion)) for e in examples]
            return real(lm, adapter, examples, *rest, **named)

        return train

    with pytest.MonkeyPatch.context() as patch:
        for module in (discriminative, rejection_sampled):
            patch.setattr(module, "train_sft", spy(module.train_sft))
        judges.run_stage(run)
    metrics = json.loads((run.folder / "judges" / "metrics.json").read_text(encoding="utf-8"))
    return Finished(run, metrics, sampler.calls, sft)


def decoded(finished: Finished, requests: dict[str, bool]) -> dict[str, bool]:
    lm = finished.run.lm
    return {lm.decode(lm.chat(text)): label for text, label in requests.items()}


def grpo_calls(finished: Finished, adapter: str) -> list[dict]:
    return [call for call in finished.calls if call["adapter"] == adapter]


def test_it_writes_every_adapter_its_card_its_curve_and_the_metrics(finished):
    folder = finished.run.folder / "judges"
    assert list(finished.metrics) == ADAPTERS
    for name in ADAPTERS:
        assert (folder / name / "adapter_model.safetensors").is_file() and (folder / f"{name}-curve.json").is_file()
        card = (folder / name / "README.md").read_text(encoding="utf-8")
        assert f"{finished.metrics[name]['labels']} distinct steps" in card and finished.metrics[name]["training"] in card
        assert (read_facts(folder / name).threshold is not None) == (name == "discriminative")
    assert not list(folder.glob("*.checkpoint")) and set(finished.run.lm.adapters) == set(ADAPTERS)


def test_labels_are_balanced_once_and_all_trainings_share_them(finished):
    everything = decoded(finished, requests_of(TRAIN, "Is the new step right?"))
    signs = finished.sft["trial"]
    assert len(signs) == 40 * PASSES and all(everything[request] is (sign == "+") for request, sign in signs)
    assert [sign for _, sign in signs] == ["+", "-"] * (len(signs) // 2)
    assert sum(everything.values()) > len(everything) / 2  # so there was something to balance
    used = {request.replace("Is the new step right?", "Judge the new step.") for request, _ in signs}
    assert finished.metrics["discriminative"]["labels"] == len(used)
    assert finished.metrics["stepwiser"]["labels"] == finished.metrics["rejection_sampled"]["labels"] == len(used)
    taught = {request for request, _ in finished.sft["rejection_sampled"]}
    asked = {p for name in GRPO for call in grpo_calls(finished, name) for p in call["prompts"]}
    assert taught <= used and asked <= used


def test_the_classifier_is_measured_on_validation_and_its_threshold_is_of_the_best_state(finished):
    metrics, run = finished.metrics["discriminative"], finished.run
    assert metrics["validation_labels"] == len(requests_of(VALIDATION))
    validation = decoded(finished, requests_of(VALIDATION, "Is the new step right?"))
    assert not validation.keys() & {request for request, _ in finished.sft["trial"]}
    assert metrics["threshold"] == metrics["best"]["threshold"] and metrics["best"] in metrics["sweep"]
    assert [(row["lr"], row["epochs"]) for row in metrics["sweep"]] == [(1e-2, 1), (1e-2, 2)]  # as the recipe says
    assert metrics["best"]["auc"] == max(row["auc"] for row in metrics["sweep"])
    again = discriminative.validation_metrics(run.judge_context, "discriminative", judges.judge_trainer(run).validation)
    assert again == {key: metrics["best"][key] for key in again}


def test_rs_ft_learns_the_right_replies_of_the_bare_base(finished):
    label = decoded(finished, requests_of(TRAIN))
    calls = [call for call in finished.calls if call["adapter"] is None]
    assert {call["adapter"] for call in finished.calls} == {None, *GRPO}
    assert [len(call["prompts"]) for call in calls] == [finished.metrics["rejection_sampled"]["labels"], 0]
    assert len(set(calls[0]["prompts"])) == len(calls[0]["prompts"])  # a label of several passes is sampled once
    assert set(calls[0]["counts"]) == {RECIPE.judge.rs_samples}
    examples = finished.sft["rejection_sampled"]
    assert examples and all((POSITIVE in reply) is label[request] and "The step says" in reply for request, reply in examples)
    assert sum(POSITIVE in reply for _, reply in examples) == len(examples) / 2
    metrics = finished.metrics["rejection_sampled"]
    assert 0 < metrics["right"] < metrics["replies"] == 4 * metrics["labels"]


def test_grpo_starts_as_named_and_is_paid_by_the_label_of_the_step_that_was_asked(finished):
    label, lm = decoded(finished, requests_of(TRAIN)), finished.run.lm
    for name in GRPO:
        calls, curve = grpo_calls(finished, name), finished.metrics[name]["curve"]
        assert len(calls) == len(curve) == (1 if name == "stepwiser_tenth" else 2)  # few labels take two thirds of the steps
        begin = {k.replace(".rejection_sampled.", f".{name}."): p for k, p in lm.adapter_parameters("rejection_sampled").items()}
        assert any(p.abs().max() > 0 for key, p in begin.items() if "lora_B" in key)
        if name == "stepwiser_from_rs":
            assert all(torch.equal(p, begin[key]) for key, p in calls[0]["weights"].items())
        else:
            assert not any(p.any() for key, p in calls[0]["weights"].items() if "lora_B" in key)
        for call, row in zip(calls, curve, strict=True):
            assert call["counts"] == [RECIPE.judge.group] * 4 and call["sampling"].temperature == RECIPE.judge.temperature
            paid = [(POSITIVE in base_reply(p, k)) is label[p] for p in call["prompts"] for k in range(4)]
            assert row["reward"] == pytest.approx(sum(paid) / len(paid)) and sum(paid) not in (0, 16)
            assert {"habits/glance", "habits/redo", "habits/equation", "habits/other"} <= row.keys()


def test_the_tenth_sees_a_tenth(finished):
    all_labels, tenth = finished.metrics["stepwiser"]["labels"], finished.metrics["stepwiser_tenth"]["labels"]
    assert tenth == max(8, all_labels // 20 * 2) < all_labels / 2
    asked = {p for call in grpo_calls(finished, "stepwiser_tenth") for p in call["prompts"]}
    assert len(asked) <= tenth


def test_a_second_run_of_the_stage_trains_nothing_and_writes_the_same(finished, new_lm, fake_sampler, monkeypatch):
    run, lm = finished.run, new_lm()
    sampler = fake_sampler(lm, base_reply)
    before = {name: run.lm.adapter_parameters(name) for name in ADAPTERS}
    monkeypatch.setitem(run.__dict__, "lm", lm)
    monkeypatch.setitem(run.__dict__, "sampler", sampler)
    monkeypatch.delitem(run.__dict__, "judge_context")
    judges.run_stage(run)
    metrics = json.loads((run.folder / "judges" / "metrics.json").read_text(encoding="utf-8"))
    assert not sampler.calls and metrics == finished.metrics
    for name in ADAPTERS:
        assert all(torch.equal(p, before[name][key]) for key, p in lm.adapter_parameters(name).items())


def test_evaluation_builds_every_judge_with_its_adapter_and_the_measured_threshold(finished):
    built = evaluate.load_judges(finished.run, finished.metrics)
    assert isinstance(built["discriminative"], DiscriminativeJudge)
    assert built["discriminative"].threshold == finished.metrics["discriminative"]["threshold"]
    assert built["untrained"].adapter is None
    assert built["discriminative"].request == finished.metrics["discriminative"]["prompt"] == "classify"
    assert all(built[name].adapter == name for name in ADAPTERS)
    assert list(built) == ["always_positive", "untrained", *ADAPTERS]


@pytest.mark.parametrize("count", [12, 10_000])
def test_unbalanced_labels_are_drawn_at_random_and_once(count, tmp_path, new_lm, fake_sampler):
    knobs = dataclasses.replace(RECIPE.judge, balanced=False, labels=count)
    lm, drawn = new_lm(), []
    for seed in (0, 0, 1):
        run = new_run(tmp_path / str(len(drawn)), lm, None, seed, dataclasses.replace(RECIPE, judge=knobs))
        drawn.append(judges.judge_trainer(run).steps)
    everything = requests_of(TRAIN)
    assert drawn[0] == drawn[1] != drawn[2]
    for steps in drawn:
        assert len(steps) == len(set(steps)) == min(count, len(everything))
    if count > len(everything):
        assert sum(s.label for s in drawn[0]) == sum(everything.values())  # all of them, with their own share of positives


def test_the_context_says_whether_judges_analyse(tmp_path, new_lm, fake_sampler):
    for analysis in (True, False):
        knobs = dataclasses.replace(RECIPE.judge, analysis=analysis)
        run = new_run(tmp_path / str(analysis), new_lm(), None, recipe=dataclasses.replace(RECIPE, judge=knobs))
        assert judges.judge_trainer(run).context.analysis is analysis


@pytest.mark.slow
def test_another_seed_balances_and_samples_otherwise(tmp_path, new_lm, fake_sampler, monkeypatch):
    seen = []
    for seed in (0, 1):
        lm = new_lm()
        sampler = fake_sampler(lm, base_reply)
        trainer = judges.judge_trainer(new_run(tmp_path / str(seed), lm, sampler, seed))
        rejection_sampled.train_rejection_sampled(dataclasses.replace(trainer, steps=trainer.steps[:8]))
        stepwiser.train_stepwiser(dataclasses.replace(trainer, steps=trainer.steps[:8]))
        seen.append((trainer.steps, [call["seed"] for call in sampler.calls]))
    assert seen[0][0] != seen[1][0] and not set(seen[0][1]) & set(seen[1][1])
    assert all(len(set(seeds)) == len(seeds) for _, seeds in seen)


def test_too_few_labels_are_one_line(tmp_path, new_lm, fake_sampler):
    lm = new_lm()
    run = new_run(tmp_path / "r", lm, fake_sampler(lm, base_reply))
    write_jsonl(run.folder / "annotate" / "train.jsonl", TRAIN[:1])
    with pytest.raises(ValueError, match="2 balanced training labels .* annotate more problems") as caught:
        judges.run_stage(run)
    assert "\n" not in str(caught.value)
