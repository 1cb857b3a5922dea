"""RS-FT: what the base is asked, which replies are learned from, and what is trained."""

from __future__ import annotations

import dataclasses

import pytest

from minisw.judges import rejection_sampled
from minisw.judges.base import JudgeTrainer, seeds_from
from minisw.judges.rejection_sampled import (
    REJECTION_SAMPLED,
    distinct,
    right_examples,
    sample_replies,
    train_rejection_sampled,
)
from minisw.prompts import BOX, NEGATIVE, POSITIVE
from minisw.recipe import JudgeKnobs, Lora, Training

P, N = f"The step says 4. {POSITIVE}", f"The step says 4. {NEGATIVE}"
KNOBS = JudgeKnobs(rs_samples=2, rs_keep=2, rs_training=Training(lr=1e-3, epochs=2, batch=4), max_new_tokens=40)


def texts_of(lm, examples):
    return [(lm.decode(e.prompt), lm.decode(e.completion)) for e in examples]


def test_replies_with_a_right_verdict_are_taught_each_to_its_own_prompt(tiny_lm, context_of, steps, request_texts):
    replies = [[P, N], [N, ""], [P, N], ["4", P], [N, P]]
    examples = right_examples(context_of(tiny_lm), steps, replies, 4)
    asked = [tiny_lm.decode(tiny_lm.chat(text)) for text in request_texts]
    assert sorted(texts_of(tiny_lm, examples)) == sorted([(asked[0], P), (asked[2], N), (asked[3], P), (asked[4], N)])
    assert all(e.completion[-1] == tiny_lm.tokenizer.eos_token_id for e in examples)


@pytest.mark.parametrize("bare", [POSITIVE, f"Verdict: {POSITIVE}", " ".join([POSITIVE] * 5), f"4. {POSITIVE}"])
def test_a_verdict_without_an_analysis_is_not_taught(bare, tiny_lm, context_of, steps):
    assert right_examples(context_of(tiny_lm), steps, [[bare], [""], [""], [bare], [""]], 4) == []
    assert len(right_examples(context_of(tiny_lm), steps, [[bare], [P], [""], [bare], [""]], 4)) == 1


def test_the_rarer_verdict_is_repeated(tiny_lm, context_of, steps):
    replies = [[P] * 3, [P], [N], [P], [""]]
    said = [text for _, text in texts_of(tiny_lm, right_examples(context_of(tiny_lm), steps, replies, 4))]
    assert said.count(P) == 5 and said.count(N) == 5
    assert said[:2] in ([P, N], [N, P])  # they alternate
    only = right_examples(context_of(tiny_lm), steps, [[P], [P], [""], [""], [""]], 4)
    assert len(only) == 2  # one verdict alone stays as it is


def test_a_base_that_ends_without_a_verdict_is_asked_for_it(bpe_lm, context_of, fake_sampler, steps):
    """A finished reply without a verdict gets the start of a verdict line; one that was cut off, or has a verdict, stays as
    it is."""
    first = [f"It holds. {NEGATIVE}", "Good.\nVerdict: Positive", "Bad. ", "cut of…"]
    lm = bpe_lm([], 257)
    lm.new_adapter("judge", Lora(4, 8), 0)

    def reply(text, k):
        return first[k] if not text.endswith("\\boxed{") else "Positive}" if "Good." in text else "Negative}"

    sampler = fake_sampler(lm, reply)
    with lm.using("judge"):
        replies = sample_replies(context_of(lm, sampler), steps[:2], 4, seed=0)
    ends = [f"Good.\n\nVerdict: {POSITIVE}", f"Bad.\n\nVerdict: {NEGATIVE}"]
    assert replies == [[first[0], *ends, "cut of"]] * 2
    analysis, verdict = sampler.calls
    assert analysis["adapter"] is None and verdict["adapter"] is None  # the bare base, whatever is active outside
    assert analysis["counts"] == [4, 4] and verdict["counts"] == [1] * 4
    assert verdict["sampling"].stop == "}" and analysis["sampling"].temperature == 1.0
    assert analysis["sampling"].max_new_tokens == 40 and analysis["seed"] != verdict["seed"]
    expected = [p + end.removesuffix("Positive}").removesuffix("Negative}") for p in analysis["prompts"] for end in ends]
    assert verdict["prompts"] == expected


@pytest.mark.parametrize(("keep", "expected"), [(1, 2), (2, 3), (3, 4), (9, 4)])
def test_at_most_the_first_right_replies_to_a_step_are_kept(keep, expected, tiny_lm, context_of, steps):
    said = [f"The step says {n}. {POSITIVE}" for n in range(4)]
    replies = [[N, *said[:3]], [said[3]], ["", P], [""], [P]]  # only the first two are Positive; nothing right on the others
    examples = right_examples(context_of(tiny_lm), steps, replies, keep)
    assert [tiny_lm.decode(e.completion) for e in examples] == [*said[: min(keep, 3)], said[3]] and len(examples) == expected


def test_without_an_analysis_the_end_of_a_bare_verdict_is_learned(new_lm, context_of, fake_sampler, steps):
    """The box is part of the prompt; no verdict is asked for separately."""
    lm = new_lm()
    sampler = fake_sampler(lm, lambda text, k: ["Positive}", "Negative}", "4"][k])
    context = context_of(lm, sampler, analysis=False)
    replies = sample_replies(context, steps, 3, seed=0)
    assert replies == [["Positive}", "Negative}", "4"]] * 5
    assert all(not call["prompts"] for call in sampler.calls[1:])
    examples = right_examples(context, steps, replies, 4)
    assert all(lm.decode(e.prompt).rstrip().endswith(BOX) for e in examples)
    assert [lm.decode(e.completion) for e in examples] == ["Positive}", "Negative}"] * 3  # three + and two −, one repeated
    trainer = JudgeTrainer(context, steps, knobs=dataclasses.replace(KNOBS, rs_samples=3), lora=Lora(4, 8))
    metrics = train_rejection_sampled(trainer)
    assert (metrics["replies"], metrics["right"]) == (15, 5)


def test_a_repeated_label_is_sampled_once(steps):
    assert distinct([*steps[:2], steps[0], *steps[2:], steps[1]]) == steps
    assert distinct([]) == [] and distinct(steps[::-1]) == steps[::-1]


# --- training --------------------------------------------------------------------------------------------------------------


def spy(monkeypatch, module, name):
    """Record adapter and examples of each call of `module.name`, and call it."""
    real, calls = getattr(module, name), []

    def wrapped(lm, adapter, examples, *rest, **named):
        calls.append((adapter, examples))
        return real(lm, adapter, examples, *rest, **named)

    monkeypatch.setattr(module, name, wrapped)
    return calls


def test_training_uses_the_right_replies_of_the_bare_base(monkeypatch, new_lm, context_of, fake_sampler, steps, request_texts):
    lm = new_lm("stepwiser")
    sampler = fake_sampler(lm, lambda text, k: [P, N][k])
    calls = spy(monkeypatch, rejection_sampled, "train_sft")
    trainer = JudgeTrainer(context_of(lm, sampler), steps * 3, knobs=KNOBS, lora=Lora(4, 8), seed_of=seeds_from(1))
    metrics = train_rejection_sampled(trainer)
    asked = [lm.decode(lm.chat(text)) for text in request_texts]
    assert sampler.calls[0]["adapter"] is None and sampler.calls[0]["prompts"] == asked
    ((adapter, examples),) = calls
    assert adapter == REJECTION_SAMPLED and set(texts_of(lm, examples)) == {
        (asked[i], P if step.label else N) for i, step in enumerate(steps)
    }
    assert (metrics["labels"], metrics["replies"], metrics["right"]) == (5, 10, 5)  # the labels of all passes once
    assert sampler.calls[0]["counts"] == [2] * 5 and len(metrics["curve"]) == 2
    assert any(p.abs().max() > 0 for key, p in lm.adapter_parameters(REJECTION_SAMPLED).items() if "lora_B" in key)


def test_without_a_right_reply_it_warns_and_stays_untrained(new_lm, context_of, fake_sampler, steps):
    lm, warnings = new_lm(), []
    context = context_of(lm, fake_sampler(lm, lambda text, k: "4"))
    trainer = JudgeTrainer(context, steps, knobs=KNOBS, lora=Lora(4, 8), warn=warnings.append)
    metrics = train_rejection_sampled(trainer)
    assert metrics["right"] == 0 and metrics["curve"] == [] and len(warnings) == 1
    assert REJECTION_SAMPLED in lm.adapters


def test_replies_are_saved_before_training_and_read_after_a_kill(monkeypatch, new_lm, context_of, fake_sampler, steps, tmp_path):
    lm = new_lm()
    sampler = fake_sampler(lm, lambda text, k: [P, N][k])

    def train_adapter(name, fit, total, what):
        lm.new_adapter(name, Lora(4, 8), 0)
        try:
            return fit(tmp_path / f"{name}.checkpoint", lambda n, metrics=None: None)
        except KeyboardInterrupt:
            lm.drop_adapter(name)
            raise

    trainer = JudgeTrainer(context_of(lm, sampler), steps, knobs=KNOBS, train_adapter=train_adapter)
    with monkeypatch.context() as patch:
        patch.setattr(rejection_sampled, "train_sft", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_rejection_sampled(trainer)
    before = len(sampler.calls)
    metrics = train_rejection_sampled(trainer)
    assert len(sampler.calls) == before and metrics["right"] == 5 and metrics["curve"]
