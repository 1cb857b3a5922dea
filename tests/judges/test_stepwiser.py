"""GRPO of the judge: where it starts, what it is asked, what it is paid; and the row with a tenth of the labels."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from minisw.judges.base import JudgeTrainer, seeds_from
from minisw.judges.rejection_sampled import REJECTION_SAMPLED
from minisw.judges.stepwiser import STEPWISER, train_judge, train_stepwiser, with_a_tenth
from minisw.prompts import NEGATIVE, POSITIVE
from minisw.recipe import JudgeKnobs, Lora, Training
from minisw.records import LabelledStep

P, N = f"The step says 4. {POSITIVE}", f"The step says 4. {NEGATIVE}"
KNOBS = JudgeKnobs(
    format_samples=2, format_training=Training(lr=1e-2, epochs=2, batch=2), steps=3, prompts=4, group=4, lr=1e-2, temperature=1.1,
    max_new_tokens=40,
)  # fmt: skip


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], name_a: str, name_b: str) -> bool:
    return all(torch.equal(value, b[key.replace(f".{name_a}.", f".{name_b}.")]) for key, value in a.items())


@pytest.fixture
def trained(new_lm, context_of, fake_sampler, steps):
    """A judge trained by RS-FT and GRPO on a scripted sampler: two replies in four are right, or three, or one, by the prompt."""
    lm = new_lm()
    patterns = {s.chunk.strip(): [P, N, N, N] if i % 2 else [P, P, P, N] for i, s in enumerate(steps)}

    def reply(text, k):
        return patterns[text.split("New step:\n")[1].split("\n")[0]][k % 4 if k < 4 else 0]

    sampler = fake_sampler(lm, reply)
    trainer = JudgeTrainer(context_of(lm, sampler), steps, knobs=KNOBS, lora=Lora(4, 8), seed_of=seeds_from(1))
    return trainer, train_judge(trainer), sampler


def test_grpo_starts_from_the_rs_ft_adapter_and_samples_with_its_own(trained):
    trainer, metrics, sampler = trained
    lm = trainer.context.lm
    calls = [c for c in sampler.calls if c["counts"][:1] == [KNOBS.group]]
    assert [c["adapter"] for c in calls] == [STEPWISER] * 3 and list(metrics) == [REJECTION_SAMPLED, STEPWISER]
    start = {key: p.detach() for key, p in lm.adapter_parameters(REJECTION_SAMPLED).items()}
    assert any(p.abs().max() > 0 for key, p in start.items() if "lora_B" in key)
    assert same(calls[0]["weights"], start, STEPWISER, REJECTION_SAMPLED)
    assert not same(calls[1]["weights"], start, STEPWISER, REJECTION_SAMPLED)  # it has learned, and RS-FT's own is untouched
    assert all(c["sampling"].temperature == 1.1 and c["sampling"].max_new_tokens == 40 for c in calls)


def test_each_reply_is_paid_by_the_label_of_its_own_step(trained, steps, request_texts):
    trainer, metrics, sampler = trained
    lm = trainer.context.lm
    label = {lm.decode(lm.chat(text)): step.label for text, step in zip(request_texts, steps, strict=True)}
    calls = [c for c in sampler.calls if c["counts"][:1] == [KNOBS.group]]
    assert len(metrics[STEPWISER]["curve"]) == 3 and metrics[STEPWISER]["labels"] == 5
    for call, row in zip(calls, metrics[STEPWISER]["curve"], strict=True):
        assert set(call["prompts"]) <= label.keys() and len(call["prompts"]) == 4
        paid = [(POSITIVE in sampler.reply(p, k)) == label[p] for p in call["prompts"] for k in range(4)]
        assert row["reward"] == pytest.approx(sum(paid) / 16) and 0 < row["reward"] < 1
    assert len({row["reward"] for row in metrics[STEPWISER]["curve"]}) > 1


def test_a_reply_without_an_analysis_is_not_paid(new_lm, context_of, fake_sampler, steps):
    lm = new_lm(REJECTION_SAMPLED)
    sampler = fake_sampler(lm, lambda text, k: [POSITIVE, NEGATIVE, P, N][k])
    trainer = JudgeTrainer(context_of(lm, sampler), steps, knobs=dataclasses.replace(KNOBS, steps=1), lora=Lora(4, 8))
    assert train_stepwiser(trainer)["curve"][0]["reward"] == pytest.approx(1 / 4)


@pytest.mark.slow
def test_grpo_makes_the_paid_reply_more_likely(new_lm, context_of, fake_sampler, steps):
    """An inverted reward or advantage would make it less likely."""
    from minisw.judges.generative import GenerativeJudge, p_positive

    lm = new_lm(REJECTION_SAMPLED)
    context = context_of(lm, fake_sampler(lm, lambda text, k: [P, N][k % 2]))
    trainer = JudgeTrainer(context, steps[:3:2], knobs=dataclasses.replace(KNOBS, steps=6), lora=Lora(4, 8))
    train_stepwiser(trainer)
    judge = GenerativeJudge(context, STEPWISER)
    prompts = [judge.prompt(s) for s in trainer.steps]
    before, after = (p_positive(context, name, prompts, [P, P]) for name in (REJECTION_SAMPLED, STEPWISER))
    assert [s.label for s in trainer.steps] == [True, False]
    assert after[0] > before[0] + 0.05 and after[1] < before[1] - 0.05


def test_without_rs_ft_it_says_what_is_missing(new_lm, context_of, steps):
    with pytest.raises(ValueError, match="'rejection_sampled', which is not loaded"):
        train_stepwiser(JudgeTrainer(context_of(new_lm()), steps))


def many(count: int, passes: int) -> list[LabelledStep]:
    """`count` distinct labels, Positive and Negative in turn, repeated in passes."""
    return [LabelledStep("p", "?", (), str(i), i % 2 == 0) for i in range(count)] * passes


@pytest.mark.parametrize(("count", "passes", "expected"), [(40, 1, 4), (60, 3, 6), (100, 2, 10), (115, 1, 10), (8, 2, 4)])
def test_a_tenth_has_a_tenth_of_the_distinct_labels_balanced(count, passes, expected, tiny_lm, context_of):
    tenth = with_a_tenth(JudgeTrainer(context_of(tiny_lm), many(count, passes))).steps
    assert len(tenth) == len(set(tenth)) == expected and sum(s.label for s in tenth) == expected / 2


def test_a_tenth_trains_as_long_by_rs_ft_and_as_many_passes_by_grpo(tiny_lm, context_of):
    knobs = JudgeKnobs(format_training=Training(epochs=2, batch=4), steps=100)
    trainer = with_a_tenth(JudgeTrainer(context_of(tiny_lm), many(200, 2), knobs=knobs))
    assert len(trainer.steps) == 20
    assert trainer.knobs.format_training == Training(epochs=40, batch=4)  # 2 × 400 examples = 40 × 20
    assert trainer.knobs.steps == 5
    short = with_a_tenth(JudgeTrainer(context_of(tiny_lm), many(200, 2), knobs=dataclasses.replace(knobs, steps=10)))
    assert short.knobs.steps == 3


def test_a_step_of_grpo_asks_no_prompt_twice_where_there_are_few(new_lm, context_of, fake_sampler, steps):
    lm = new_lm(REJECTION_SAMPLED)
    sampler = fake_sampler(lm, lambda text, k: P)
    knobs = dataclasses.replace(KNOBS, steps=1, prompts=32)
    train_stepwiser(JudgeTrainer(context_of(lm, sampler), steps, knobs=knobs, lora=Lora(4, 8), warn=lambda text: None))
    assert len(set(sampler.calls[-1]["prompts"])) == len(sampler.calls[-1]["prompts"]) == 5
