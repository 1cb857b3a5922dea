"""Checks in a judge's reply: which code is run, what is spliced in, and how replies go on behind it."""

from __future__ import annotations

import pytest
from fakes import ASK, EOS, PROMPTS, REPLY, FakeLM, FakeSampler

from minisw.engine.requests import Completion, Request
from minisw.judges import code_checks
from minisw.judges.base import JudgeContext, seeds_from
from minisw.judges.code_checks import MAX_CHECKS, MAX_OUTPUT, code_only, encode_reply, last_check, outputs, sample_with_checks
from minisw.prompts import BOX, NEGATIVE, POSITIVE
from minisw.verdicts import parse_verdict
from minisw.verify.sandbox import Output, SandboxMissing

# --- the text of a reply -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("print(652//2)\nOutput:", "print(652//2)"),
        ("Due: half of them.\nprint(652//2)\nOutput:", "print(652//2)"),
        ("print(1)\nOutput: 1\nprint(2)\nOutput:", "print(2)"),
        ("  `print(1)`\n\n**Output:", "print(1)"),
        ("```python\na = 2\nprint(a)\n```\nOutput:", "a = 2\nprint(a)"),
        ("```\nprint(1)\n```\nSo it is.\n```py\nprint(2)\n```\n\n# Output:", "print(2)"),
        ("```python\nprint(1)\n```\nOutput: 1\nprint(3)\nOutput:", "print(3)"),
        ("Output: 1\nOutput:", ""),
        ("The Output:", "The"),
        ("Output:", ""),
    ],
)
def test_the_code_of_a_check_is_the_line_or_block_above_its_output(text, code):
    assert last_check(text) == code


def test_without_its_sentences_a_reply_has_checks_and_the_last_verdict():
    line, block = "print(2+3)\nOutput: 5\n", "```python\na = 1\nprint(a)\n```\nOutput: 1\n"
    assert code_only(f"Due: 5.\n{line}So {NEGATIVE}? No.\n{block}Fine. {POSITIVE} Yes.") == f"{line}{block}{POSITIVE}"
    assert code_only(f"{POSITIVE} {NEGATIVE}") == NEGATIVE
    assert code_only("print(2+3)\nOutput: 5\nSo it is.") == "print(2+3)\nOutput: 5"
    assert code_only("The step says 5.") == ""


def test_the_tokens_of_outputs_are_known():
    lm = FakeLM()
    reply = f"print(2+3)\nOutput: 5\nThen.\nprint(9)\nOutput: 99\n{POSITIVE}"
    ids, given = encode_reply(lm, reply)
    assert ids == lm.encode(reply)
    assert lm.decode([ids[i] for i in given]) == " 5\n 99\n" and list(given) == sorted(given)
    assert ids[given[0] - 1] == ord(":") and ids[given[2] + 1] == ord("T")
    assert encode_reply(lm, "The step says 5.") == (lm.encode("The step says 5."), ())


def test_no_token_holds_a_part_of_an_output_and_a_part_of_the_models_text(bpe_lm):
    lm = bpe_lm(["put: 5\nThe"] * 50, 290)
    reply = f"print(2+3)\nOutput: 5\nThe step says 5.\n{POSITIVE}"
    ids, given = encode_reply(lm, reply)
    assert ids != lm.encode(reply) and lm.decode(ids) == reply  # encoded whole, some token spans both
    assert lm.decode([ids[i] for i in given]) == " 5\n"


# --- outputs -------------------------------------------------------------------------------------------------------------


class Runner:
    """Stands in for `run_checks`: looks the outputs up, and records every call."""

    def __init__(self, **texts: str):
        self.calls: list[list[str]] = []
        self.results = {"bad": Output("1\n", False, "check failed: not valid Python")} | {
            code: Output(text, True, "") for code, text in texts.items()
        }

    def __call__(self, codes):
        self.calls.append(list(codes))
        return [self.results[code] for code in codes]


def test_outputs_keep_the_order_and_equal_checks_are_run_once():
    run = Runner(a="1\n", b="2\n")
    assert outputs(["b", "a", "b", "bad", "a"], run) == ["2", "1", "2", "check failed: not valid Python", "1"]
    assert run.calls == [["b", "a", "bad"]]
    assert outputs([], run) == [] and len(run.calls) == 1  # nothing is run for nothing


def test_an_output_is_one_short_line():
    run = Runner(lines="1\n2\n\n 3\t4\n", nothing="", blank=" \n", long="7" * 500)
    assert outputs(["lines", "nothing", "blank"], run) == ["1 2 3 4", "(nothing)", "(nothing)"]
    assert outputs(["long"], run) == ["7" * MAX_OUTPUT] and MAX_OUTPUT == 100
    run.results["bad"] = Output("", False, "check failed: " + "x" * 500)
    assert outputs(["bad"], run) == ["check failed: " + "x" * (MAX_OUTPUT - 14)]


@pytest.mark.parametrize("printed", [POSITIVE, f"\\bo{BOX}xed{{Positive}}"])
def test_an_output_is_never_read_as_a_verdict(printed):
    (line,) = outputs(["cheat"], Runner(cheat=printed))
    assert "Positive" in line and parse_verdict(f"print(1)\nOutput: {line}\n") is None


def test_a_machine_without_a_sandbox_is_named_in_one_line():
    def run(codes):
        raise SandboxMissing("this machine cannot contain the code of a model; it lacks: seccomp")

    with pytest.raises(ValueError, match="^a judge that checks with code is impossible here: .* lacks: seccomp$"):
        outputs(["a"], run)


def test_all_processes_go_on_with_the_outputs_of_the_first(monkeypatch):
    first = [Output("4", True, "")]
    monkeypatch.setattr(code_checks.distributed, "broadcast", lambda value: first)
    assert outputs(["a"], Runner(a="5")) == ["4"]


# --- sampling ------------------------------------------------------------------------------------------------------------


class StoppingSampler(FakeSampler):
    """Stops at the stop text and at the limit, as the real ones do. Its last token may hold `more` characters behind the stop."""

    more = 0

    def _completion(self, text: str, sample: int) -> Completion:
        reply, sampling = self.script(text, sample), self.calls[-1].sampling
        end = reply.find(sampling.stop) + len(sampling.stop) + self.more if sampling.stop in reply else None
        ids = self.lm.encode(reply[:end]) + ([] if end else [EOS])
        return Completion(ids[: sampling.max_new_tokens], len(ids) <= sampling.max_new_tokens)


# What the model writes by itself, up to each output: prompt → replies → parts.
OWN = {
    "one": [["a\nOutput:", "So 1.\nb\nOutput:", POSITIVE], [f"At once. {NEGATIVE}"]],
    "two": [["b\nOutput:", NEGATIVE], ["bad\nOutput:", f"Hm. {POSITIVE}"]],
}


def written(text: str, sample: int) -> str:
    """The rest of a reply, with an output that the model makes up where it is not stopped."""
    prompt, begun = text.removeprefix(ASK).split(REPLY)
    parts = next(p for k, p in enumerate(OWN[prompt]) if begun.startswith(p[0]) or (not begun and k == sample))
    part = parts[begun.count("Output:")]
    return part + " 666\nMade up." if part.endswith("Output:") else part


@pytest.fixture
def context():
    lm = FakeLM("judge")
    return JudgeContext(lm, StoppingSampler(lm, written), PROMPTS, 80, 1000)


def sampled(context, run, temperature=0.7, progress=None, seed=5):
    requests = [Request(context.lm.chat(prompt), 2) for prompt in OWN]
    with context.lm.using("judge"):
        return sample_with_checks(context, requests, temperature, seed, run, progress)


@pytest.mark.parametrize("more", [0, 2])
def test_replies_go_on_behind_the_real_outputs(context, more):
    context.sampler.more = more
    run = Runner(a="1\n", b="22\n")
    groups = sampled(context, run)
    texts = [
        [f"a\nOutput: 1\nSo 1.\nb\nOutput: 22\n{POSITIVE}", f"At once. {NEGATIVE}"],
        [f"b\nOutput: 22\n{NEGATIVE}", f"bad\nOutput: check failed: not valid Python\nHm. {POSITIVE}"],
    ]
    assert [[reply.text for reply in group] for group in groups] == texts
    assert all(reply.finished for group in groups for reply in group)
    assert run.calls == [["a", "b", "bad"], ["b"]]  # one call for all checks of a round
    own = [[sum(len(part) + more * part.endswith(":") for part in parts) + 1 for parts in OWN[p]] for p in OWN]  # and EOS
    assert [[reply.tokens for reply in group] for group in groups] == own
    first, second, third = context.sampler.calls
    assert first.counts == [2, 2] and second.counts == [1, 1, 1] and third.counts == [1]
    heads = [f"{ASK}{p}{REPLY}" for p in ("one", "two", "two")]
    begun = ["a\nOutput: 1\n", "b\nOutput: 22\n", "bad\nOutput: check failed: not valid Python\n"]
    assert second.texts == [head + text for head, text in zip(heads, begun, strict=True)]
    assert third.texts == [heads[0] + "a\nOutput: 1\nSo 1.\nb\nOutput: 22\n"]
    assert {call.adapter for call in context.sampler.calls} == {"judge"}


def test_every_round_samples_alike_with_a_seed_of_its_own(context):
    sampled(context, Runner(a="1", b="2"), temperature=0.3, seed=9)
    calls = context.sampler.calls
    assert [call.seed for call in calls] == [seeds_from(9)(f"round-{n}") for n in range(3)]
    assert {(call.sampling.temperature, call.sampling.stop) for call in calls} == {(0.3, "Output:")}
    # a round samples as many tokens as its shortest reply has left of 80
    begun = ["b\nOutput: 2\n", "a\nOutput: 1\nSo 1.\nb\nOutput: 2\n"]
    assert [call.sampling.max_new_tokens for call in calls] == [80, 80 - len(begun[0]), 80 - len(begun[1])]


def test_progress_counts_every_reply_once_when_it_is_complete(context):
    done: list[int] = []
    counts = []
    run = Runner(a="1", b="2")
    generate = context.sampler.generate
    context.sampler.generate = lambda *args: counts.append(sum(done)) or generate(*args)
    sampled(context, run, progress=done.append)
    assert counts == [0, 1, 3] and done == [1] * 4


def test_a_reply_has_one_limit_with_its_outputs():
    lm = FakeLM()
    script = {"": "a\nOutput:", "a\nOutput: 1234\n": "abcdefghijkl"}
    sampler = StoppingSampler(lm, lambda text, k: script[text.split(REPLY)[1]])
    run = Runner(a="1234")

    def reply(limit):
        return sample_with_checks(JudgeContext(lm, sampler, PROMPTS, limit, 1000), [Request(lm.chat("p"))], 0.0, 0, run)[0][0]

    begun = "a\nOutput: 1234\n"  # 15 tokens, 9 of them sampled
    cut = reply(20)
    assert (cut.text, cut.tokens, cut.finished) == (begun + "abcde", 14, False)
    whole = reply(28)  # 12 characters and the end token
    assert (whole.text, whole.tokens, whole.finished) == (begun + "abcdefghijkl", 22, True)
    assert reply(27).finished is False
    assert (reply(16).text, reply(16).tokens) == (begun + "a", 10)
    calls = len(sampler.calls)
    full = reply(15)  # no room behind the output
    assert (full.text, full.tokens, full.finished) == (begun, 9, False) and len(sampler.calls) == calls + 1
    assert reply(9).text == begun  # an output may pass the limit
    assert reply(8).text == "a\nOutput" and reply(8).finished is False


def test_a_reply_with_less_room_than_others_is_cut_at_its_own_limit():
    lm = FakeLM()
    script = {"": ["a\nOutput:", "b\nOutput:"], "a\nOutput: 1\n": ["x" * 40], f"b\nOutput: {'2' * 20}\n": ["y" * 40]}
    sampler = StoppingSampler(lm, lambda text, k: script[text.split(REPLY)[1]][k])
    context = JudgeContext(lm, sampler, PROMPTS, 40, 1000)
    first, second = sample_with_checks(context, [Request(lm.chat("p"), 2)], 1.0, 0, Runner(a="1", b="2" * 20))[0]
    assert (len(first.text), first.tokens) == (40, 9 + 28) and (len(second.text), second.tokens) == (40, 9 + 9)
    assert not first.finished and not second.finished


def test_a_reply_that_always_checks_is_ended():
    lm = FakeLM()
    sampler = StoppingSampler(lm, lambda text, k: "a\nOutput:")
    run = Runner(a="1")
    ((reply,),) = sample_with_checks(JudgeContext(lm, sampler, PROMPTS, 1000, 1000), [Request(lm.chat("p"))], 1.0, 0, run)
    assert len(run.calls) == MAX_CHECKS == 8 and not reply.finished
    assert reply.text == "a\nOutput: 1\n" * 8 + "a\nOutput:" and reply.tokens == 9 * 9


def test_nothing_to_reply_to(context):
    assert sample_with_checks(context, [], 1.0, 0, Runner()) == []
