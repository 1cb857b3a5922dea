"""RS-FT: what the base is asked, which replies are learned from, and what is trained."""

from __future__ import annotations

import dataclasses

import pytest

from minisw.judges import rejection_sampled
from minisw.judges.base import JudgeTrainer, seeds_from
from minisw.judges.elicited import elicited_replies
from minisw.judges.prompted import ElicitedJudge
from minisw.judges.rejection_sampled import REJECTION_SAMPLED, right_examples, sample_replies, train_rejection_sampled
from minisw.prompts import NEGATIVE, POSITIVE
from minisw.recipe import JudgeKnobs, Lora, Training

P, N = f"The step says 4. {POSITIVE}", f"The step says 4. {NEGATIVE}"
KNOBS = JudgeKnobs(format_samples=2, format_training=Training(lr=1e-3, epochs=2, batch=4), max_new_tokens=40)


def texts_of(lm, examples):
    return [(lm.decode(e.prompt), lm.decode(e.completion)) for e in examples]


def test_replies_with_a_right_verdict_are_taught_each_to_its_own_prompt(tiny_lm, context_of, steps, request_texts):
    replies = [[P, N], [N, ""], [P, N], ["4", P], [N, P]]
    examples = right_examples(context_of(tiny_lm), steps, replies)
    asked = [tiny_lm.decode(tiny_lm.chat(text)) for text in request_texts]
    assert sorted(texts_of(tiny_lm, examples)) == sorted([(asked[0], P), (asked[2], N), (asked[3], P), (asked[4], N)])
    assert all(e.completion[-1] == tiny_lm.tokenizer.eos_token_id for e in examples)


@pytest.mark.parametrize("bare", [POSITIVE, f"Verdict: {POSITIVE}", " ".join([POSITIVE] * 5), f"4. {POSITIVE}"])
def test_a_verdict_without_an_analysis_is_not_taught(bare, tiny_lm, context_of, steps):
    assert right_examples(context_of(tiny_lm), steps, [[bare], [""], [""], [bare], [""]]) == []
    assert len(right_examples(context_of(tiny_lm), steps, [[bare], [P], [""], [bare], [""]])) == 1


def test_the_rarer_verdict_is_repeated(tiny_lm, context_of, steps):
    replies = [[P] * 3, [P], [N], [P], [""]]
    said = [text for _, text in texts_of(tiny_lm, right_examples(context_of(tiny_lm), steps, replies))]
    assert said.count(P) == 5 and said.count(N) == 5
    assert said[:2] in ([P, N], [N, P])  # they alternate
    only = right_examples(context_of(tiny_lm), steps, [[P], [P], [""], [""], [""]])
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


# --- the embedded base, asked in three parts -------------------------------------------------------------------------------


def in_parts(text: str, k: int) -> str:
    """A base that knows its sums: of 12+1 it says 13, whatever the step says."""
    if "Write the next step with care." in text:
        number = {"Tom has 12": 13, "Ben has 24": 17}[text[text.index("has") - 4 : text.index("has") + 6]]
        number = 15 if "12+1=13." in text and "13+2" not in text else number
        return f"Tom has 12 apples.\nResult: {number + k}."
    if "Say the result" in text:
        return text.split("=")[1].split(".")[0] + "."
    left, right = text.split("Compare ")[1].split(".")[0].split(" and ")
    return f"{left[-1]}, same." if left == right else "different."


def test_three_answers_make_a_reply_each_about_its_own_step(new_lm, context_of, fake_sampler, steps):
    lm = new_lm("judge")
    sampler = fake_sampler(lm, in_parts)
    chosen = [steps[0], steps[1], steps[3]]
    chosen[1] = dataclasses.replace(chosen[1], chunk="13+2=16. ")
    with lm.using("judge"):
        replies = elicited_replies(context_of(lm, sampler), chosen, 2, seed=0)
    assert [[r[r.index("The step says") :] for r in group] for group in replies] == [
        [f"The step says 13.\n13 and 13: 3, same.\n{POSITIVE}", f"The step says 13.\n14 and 13: different.\n{NEGATIVE}"],
        [f"The step says 16.\n15 and 16: different.\n{NEGATIVE}", f"The step says 16.\n16 and 16: 6, same.\n{POSITIVE}"],
        [f"The step says 17.\n17 and 17: 7, same.\n{POSITIVE}", f"The step says 17.\n18 and 17: different.\n{NEGATIVE}"],
    ]
    careful, claims, comparisons = sampler.calls
    assert [c["adapter"] for c in sampler.calls] == [None] * 3 and len({c["seed"] for c in sampler.calls}) == 3
    assert careful["counts"] == [2] * 3 and claims["counts"] == [1] * 3 and comparisons["counts"] == [1] * 6
    assert "So far:\n(nothing)" in careful["prompts"][0] and "So far:\n12+1=13." in careful["prompts"][1]
    assert all("New step" not in p and "=16" not in p for p in careful["prompts"])  # it must not see what it checks


def test_answers_that_do_not_fit_together_make_no_reply(new_lm, context_of, fake_sampler, steps):
    lm = new_lm()
    said = {"care": ["Tom has 12 apples.", "Tom.", "Tom has 12 apples."], "Say": ["13."], "Compare": ["same.", "same.", "Tom."]}
    calls = iter(said["Compare"])

    def reply(text, k):
        return next(calls) if "Compare" in text else said["Say"][0] if "Say the" in text else said["care"][k]

    ((first, second, third),) = elicited_replies(context_of(lm, fake_sampler(lm, reply)), steps[:1], 3, seed=0)
    assert first.endswith(POSITIVE) and second == third == ""


def test_the_elicited_judge_is_greedy_and_reads_its_verdict(new_lm, context_of, fake_sampler, steps):
    lm = new_lm("judge")
    sampler = fake_sampler(lm, in_parts)
    judgments = ElicitedJudge(context_of(lm, sampler)).judge([steps[0], dataclasses.replace(steps[3], chunk="24-7=16. ")], 0)
    assert [j.verdict for j in judgments] == [True, False] and [j.p_positive for j in judgments] == [1.0, 0.0]
    assert all(c["sampling"].temperature == 0 and c["adapter"] is None for c in sampler.calls)
    assert all(j.tokens > 10 and j.analysis for j in judgments)


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
    trainer = JudgeTrainer(context_of(lm, sampler), steps, knobs=KNOBS, lora=Lora(4, 8), seed_of=seeds_from(1))
    metrics = train_rejection_sampled(trainer)
    asked = [lm.decode(lm.chat(text)) for text in request_texts]
    assert sampler.calls[0]["adapter"] is None and sampler.calls[0]["prompts"] == asked
    ((adapter, examples),) = calls
    assert adapter == REJECTION_SAMPLED and set(texts_of(lm, examples)) == {
        (asked[i], P if step.label else N) for i, step in enumerate(steps)
    }
    assert (metrics["labels"], metrics["replies"], metrics["right"]) == (5, 10, 5) and len(metrics["curve"]) == 2
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
