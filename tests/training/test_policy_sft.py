"""What SFT of a policy is given: examples, adapter, numbers, and where it saves and reports."""

from pathlib import Path

import pytest
from fakes import EOS, PROMPTS, FakeLM, FakeSampler

from minisw.chunks import tag
from minisw.policy import Policy
from minisw.recipe import PolicyKnobs, Training
from minisw.records import Solution
from minisw.training import policy_sft

QUESTIONS = {"a": "A?", "b": "B?"}
SOLUTIONS = [Solution("b", ("x", "y"), "1", True), Solution("a", ("z",), "1", True), Solution("b", ("x",), "1", True)]


def make(monkeypatch, solutions, training):
    calls = []
    monkeypatch.setattr(policy_sft, "train_sft", lambda *args: calls.append(args) or [{"loss": 1.0}])
    lm = FakeLM("other", "new")
    policy = Policy(lm, FakeSampler(lm, lambda text, sample: ""), PROMPTS, PolicyKnobs(), "new")
    fit, steps = policy_sft.policy_sft(policy, QUESTIONS, solutions, training, 77, 5)
    return lm, fit, steps, calls


def test_the_policy_learns_its_chunks_in_reply_to_its_request(monkeypatch):
    training = Training(lr=1e-2, epochs=3, batch=2)
    lm, fit, _, calls = make(monkeypatch, SOLUTIONS, training)
    assert not calls  # nothing is trained before `fit`
    assert fit(Path("here"), print) == [{"loss": 1.0}]
    ((model, adapter, examples, knobs, micro_tokens, seed, monitor),) = calls
    assert (model, adapter, knobs, micro_tokens, seed) == (lm, "new", training, 77, 5)
    assert (monitor.checkpoint, monitor.progress) == (Path("here"), print)
    assert [lm.decode(e.prompt) for e in examples] == [f"<user>SOLVE-CHUNKED {q}?<reply>" for q in "BAB"]
    assert [e.completion for e in examples] == [[*lm.encode(tag(s.chunks)), EOS] for s in SOLUTIONS]


@pytest.mark.parametrize(("count", "batch", "steps"), [(3, 2, 4), (3, 1, 12), (3, 3, 4), (2, 8, 4), (0, 2, 0)])
def test_steps_are_the_full_batches_of_all_epochs(monkeypatch, count, batch, steps):
    assert make(monkeypatch, SOLUTIONS[:count], Training(epochs=4, batch=batch))[2] == steps
