"""Assignment 3: tensors and gradients between grader and worker, and what its functions may be instead of ours."""

import contextlib
import json

import pytest
import torch

from minisw.course import grade, mutants, skeleton
from minisw.course.assignments import all_assignments
from minisw.course.relations import expect, failures, same, value_and_gradient
from minisw.verify.remote import Failure, Worker
from minisw.verify.sandbox import missing_layers

A3 = all_assignments()["a3"]
RELATIONS = A3.load("relations").RELATIONS
NAMES = [function.name for function in A3.functions]
MUTANTS = {(m.function, m.name): m for m in A3.load("mutants").MUTANTS}

# Written as a student might: loops and other formulas.
SOLUTION = '''
import torch

def group_advantages(rewards):
    out = torch.zeros_like(rewards)
    for i, row in enumerate(rewards):
        if len(set(row.tolist())) > 1:
            out[i] = (row - row.mean()) / (row.std(correction=0) + 1e-4)
    return out

def right_padded(rows, prompt_lengths, pad):
    longest = max(len(row) for row in rows)
    place = torch.arange(longest)
    target = [(place >= start) & (place < len(row)) for row, start in zip(rows, prompt_lengths)]
    return torch.tensor([row + [pad] * (longest - len(row)) for row in rows]), torch.stack(target)

def gather_states(hidden, ids, target):
    row, place = target.nonzero(as_tuple=True)
    return hidden[row, place - 1], ids[row, place]

def target_logprobs(states, targets, head, temperature=TEMPERATURE, block=1 << 26):
    weight = head.weight
    size = max(block // len(weight), 1)
    logps, entropies = [], []
    for state, target in zip(states.split(size), targets.split(size)):
        logits = state @ weight.T / temperature
        norm = logits.logsumexp(1)
        logps.append(logits[torch.arange(len(target)), target] - norm)
        entropies.append(norm - (logits.softmax(1) * logits).sum(1))
    return torch.cat(logps), torch.cat(entropies)

def clipped_loss(logprobs, old_logprobs, advantages, num_tokens, clip_low, clip_high):
    a = advantages.detach()
    ratio = torch.exp(logprobs - old_logprobs.detach())
    bounded = torch.where(a > 0, ratio.clamp(max=1 + clip_high), ratio.clamp(min=1 - clip_low))
    return -(bounded * a).sum() / num_tokens

def kl_k3(logprobs, ref_logprobs):
    d = ref_logprobs.detach() - logprobs
    return torch.expm1(d) - d

def backward_in_micro_batches(batches, logprobs):
    count = sum(target.sum().item() for _, target, _ in batches)
    losses = []
    for ids, target, advantages in batches:
        weights = advantages[:, None].expand(target.shape)[target]
        loss = (weights * logprobs(ids, target)).sum() * (-1 / count)
        loss.backward()
        losses.append(loss.item())
    return sum(losses)
'''


def solution(variant: str = "") -> str:
    return SOLUTION.replace("TEMPERATURE", str(*A3.settings(variant).values()))


# --- in this process -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["", "2027"])
def test_a_solution_of_another_kind_holds_in_every_relation(variant):
    names: dict = {}
    exec(solution(variant), names)
    for name in NAMES:
        right = mutants.function_of(A3, name, variant=variant)
        assert failures(RELATIONS[name], names[name], right, f"7/{name}") == {}, name


@pytest.mark.parametrize(
    "value",
    [
        *("0", "None", "[]", "True", "args[0]", "0.0", "[0] * len(args[0])", "[1] * len(args[0])", "(args[0], args[1])"),
        *("zeros(args)", "ones(args)", "(zeros(args), zeros(args))", "torch.tensor(0.0)", "torch.tensor(float('nan'))"),
        "sum(t.sum() for t in args if isinstance(t, torch.Tensor))",
    ],
)
def test_null_submissions_fail_every_anchor(value):
    for name in NAMES:
        names = {"torch": torch}
        exec(
            "def like(args, n):\n    return torch.full_like(args[0], n) if isinstance(args[0], torch.Tensor) else n\n"
            "def zeros(args): return like(args, 0)\ndef ones(args): return like(args, 1)\n"
            f"def f(*args):\n    return {value}\n",
            names,
        )
        failed = failures(RELATIONS[name], names["f"], mutants.function_of(A3, name), f"1/{name}")
        assert len(failed) == len(RELATIONS[name]), name


@pytest.mark.parametrize("name", NAMES)
def test_a_right_shape_full_of_zeros_or_ones_fails_the_anchor(name):
    right = mutants.function_of(A3, name)

    def filled(value, number):
        if isinstance(value, tuple):
            return tuple(filled(item, number) for item in value)
        return torch.full_like(value, number) if isinstance(value, torch.Tensor) else float(number)

    for number in (0, 1):
        failed = failures(RELATIONS[name], lambda *args, n=number: filled(right(*args), n), right, f"1/{name}")
        assert RELATIONS[name][0].__name__ in failed


def test_the_package_and_its_helpers_are_cut():
    modules = skeleton.visible_modules(A3, A3.settings("2027"))
    packages = {"minisw", "minisw.engine", "minisw.training"}
    assert set(modules) == packages | {"minisw.engine.batches", "minisw.engine.logprobs", "minisw.training.losses"}
    for name, text in modules.items():
        assert "_TargetLogprobs" not in text and "transformers" not in text, name
        assert text.count("raise NotImplementedError") == sum(f.module == name for f in A3.functions)
    assert f"temperature: float = {A3.settings('2027')['minisw.engine.logprobs.target_logprobs.temperature']}" in (
        modules["minisw.engine.logprobs"]
    )
    whole = skeleton.visible_modules(A3, A3.settings(""), whole=True)
    assert "class _TargetLogprobs" in whole["minisw.engine.logprobs"] and "NotImplemented" not in "".join(whole.values())


def test_counterexamples_are_small_enough_to_be_submitted_and_need_no_gradient():
    for mutant in MUTANTS.values():
        if mutant.counterexample is not None:
            assert grade._bad_example(json.loads(json.dumps(mutant.counterexample))) == "", mutant
    assert sum(mutant.counterexample is not None for mutant in MUTANTS.values()) >= 30
    assert all(m.counterexample is None for m in MUTANTS.values() if "detached" in m.name or "gradient" in m.name)


def test_lists_become_tensors_where_the_function_asks_for_them():
    rewards, old, advantages, count, *bounds = mutants.arguments(
        mutants.function_of(A3, "clipped_loss"), [[0.5], [True], [1], 10, 0.2, 0.3]
    )
    assert rewards.equal(torch.tensor([0.5])) and old.dtype == torch.bool and advantages.dtype == torch.int64
    assert (count, *bounds) == (10, 0.2, 0.3)
    rows = [[[1, 2], [3]], [1, 1], 0]
    assert mutants.arguments(mutants.function_of(A3, "right_padded"), rows) == tuple(rows)
    assert mutants.arguments(mutants.function_of(A3, "kl_k3"), [0.5]) == (0.5,)
    with pytest.raises(ValueError):
        mutants.arguments(mutants.function_of(A3, "kl_k3"), [[[1], [2, 3]]])


def test_a_helper_of_the_function_can_hold_the_mistake():
    text = mutants.source_with(A3, "target_logprobs", MUTANTS["target_logprobs", "entropy's sign"])
    assert "entropies.append(logp.mul_(p)" in text and "def gather_states" not in text
    with pytest.raises(mutants.StaleMutant, match="is 0 times in gather_states"):
        mutants.source_with(A3, "gather_states", mutants.Mutant("m", "gather_states", "logp.mul_(p)", ""))


@pytest.mark.parametrize("variant", ["", "2027", "2028"])
def test_bugs_stand_alone_and_their_counterexamples_show_them(variant):
    names: dict = {}
    exec(mutants.bugs_file(A3, variant), names)
    bugs = mutants.bugs(A3, variant)
    assert len(bugs) == A3.bugs
    for name, mutant in bugs.items():
        right = mutants.function_of(A3, mutant.function, variant=variant)
        values = mutants.arguments(right, json.loads(json.dumps(mutant.counterexample)))
        assert not same(right(*values), names[name](*values)), mutant


class FakeWorker:
    """Notes what it is asked for."""

    def __init__(self):
        self.asked = []

    def load(self, source):
        pass

    def end(self):
        pass

    def call(self, name, args, kwargs, seconds):
        self.asked.append((name, args, None, seconds))

    def gradient(self, name, args, position, seconds):
        self.asked.append((name, args, position, seconds))
        return "value", [["gradient", 1]]


def test_a_gradient_is_asked_of_the_worker_within_the_limit_of_the_reference(monkeypatch):
    clock, worker, seen = iter([0.0, 0.5, 1.0, 1.1, 2.0, 2.0]), FakeWorker(), []
    monkeypatch.setattr(grade.time, "perf_counter", lambda: next(clock))
    layer = torch.nn.Linear(1, 1)

    def relation(call, reference, rng):
        assert value_and_gradient(call, 1, 3, layer) == ("value", [["gradient", 1]])
        call(4)
        value_and_gradient(call, 0, print)

    assert grade.run_part(worker, "", "f", lambda *args: seen.append(args), [relation], "0") == {}
    assert worker.asked == [("f", (3, layer), 1, 10.0), ("f", (4,), None, 5.0), ("f", (print,), 0, 30.0)]
    assert seen == [(3, layer), (4,)]  # a layer is no function of the grader


# --- comparing and differentiating -----------------------------------------------------------------------------------------


def test_tensors_are_the_same_in_shape_kind_and_number():
    one = torch.tensor([1.0, 2.0])
    assert same(one, one.double()) and same(one, one + 5e-5) and same([one], (one,))
    assert same(torch.tensor([1]), torch.tensor([1], dtype=torch.int32)) and same(torch.tensor([-1e-6]), torch.tensor([0.0]))
    assert same(torch.tensor([float("inf")]), torch.tensor([float("inf")]))
    different = [one + 1e-3, one[:1], one[None], one.long(), one.bool(), [1.0, 2.0], 1.0, None, one * float("nan"), one / 0]
    assert not any(same(one, other) or same(other, one) for other in different)
    assert not same(torch.tensor([1]), torch.tensor([True])) and not same(torch.tensor([0.0]), torch.tensor([1e-4]))
    nan = torch.tensor(float("nan"))
    assert not same(nan, nan) and not same(torch.tensor([1000.0]), torch.tensor([1000.5]))
    with pytest.raises(AssertionError, match=r"^x: expected \[1.0, 2.0\], got \[2.0, 4.0\]$"):
        expect(one * 2, one, "x")
    with pytest.raises(AssertionError, match="got tensor"):
        expect(torch.zeros(100), one, "x")


def test_elements_of_a_value_are_told_apart_and_constants_have_no_gradient():
    x, y = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([5.0, 5.0, 5.0])
    value, ((gradient, calls),) = value_and_gradient(lambda a, b: (a * b, a), 0, x, y)
    assert value[0].tolist() == [5, 10, 15] and gradient.tolist() == [5, 10, 15] and calls == 1
    assert value_and_gradient(lambda a, b: a * b.detach(), 1, x, y)[1] == [[None, 0]]
    assert value_and_gradient(lambda a, b: 0, 1, x, y) == (0, [[None, 0]])
    ((gradient, _),) = value_and_gradient(lambda a, b: (a * b).sum(), 1, x, y)[1]
    assert gradient.equal(x) and not x.requires_grad and not y.requires_grad


def test_what_a_function_among_the_arguments_returned_is_differentiated():
    def function(scale, f):
        first = f(1)
        (scale * first).backward()
        second, third = f(2), f(3)
        (second * 3 + third).backward()
        return 7.0

    value, found = value_and_gradient(function, 1, 2, lambda n: torch.tensor(float(n)))
    assert value == 7.0 and [[g.item(), calls] for g, calls in found] == [[2, 1], [3, 3], [1, 3]]


# --- in the worker ---------------------------------------------------------------------------------------------------------

needs_worker = [
    pytest.mark.slow,  # the worker imports torch
    pytest.mark.skipif(bool(missing_layers()), reason=f"this machine cannot contain a submission: {missing_layers()}"),
]


class TestWorker:
    pytestmark = needs_worker

    @pytest.fixture(scope="class")
    def worker(self):
        with contextlib.closing(Worker(skeleton.visible_modules(A3, A3.settings("")), [])) as worker:
            yield worker

    def part(self, worker, source: str, name: str) -> dict:
        return grade.run_part(worker, source, name, mutants.function_of(A3, name), RELATIONS[name], f"3/{name}")

    def test_a_solution_of_another_kind_has_all_points(self, worker):
        assert {name: self.part(worker, solution(), name) for name in NAMES} == dict.fromkeys(NAMES, {})

    @pytest.mark.parametrize("mutant", ["all logits at once", "detached", "temperature not in the gradient"])
    def test_memory_and_gradients_are_those_of_the_worker(self, worker, mutant):
        mutant = MUTANTS["target_logprobs", mutant]
        failed = self.part(worker, mutants.source_with(A3, "target_logprobs", mutant), "target_logprobs")
        wanted = ("target_logprobs_in_bounded_memory", "memory") if mutant.large else ("target_logprobs_gradient", "wrong")
        assert {name: status for name, (status, _) in failed.items()} == dict([wanted])
        if mutant.large:
            assert "can't allocate memory" in failed["target_logprobs_in_bounded_memory"][1]

    def test_micro_batches_call_back(self, worker):
        mutant = MUTANTS["backward_in_micro_batches", "one backward at the end"]
        source = mutants.source_with(A3, "backward_in_micro_batches", mutant)
        failed = self.part(worker, source, "backward_in_micro_batches")
        assert list(failed) == ["backward_in_micro_batches_one_at_a_time"]
        assert "expected [1, 2, 3, 4, 5, 6], got [6, 6, 6, 6, 6, 6]" in failed["backward_in_micro_batches_one_at_a_time"][1]

    @pytest.mark.parametrize(
        "body,status",
        {  # each that ends the process costs an import of torch; more of them: tests/verify/test_remote.py
            "torch.full_like(logprobs, float('nan'))": "wrong",
            "logprobs[None]": "wrong",
            "setattr(torch, 'allclose', lambda *a: True) or setattr(torch.Tensor, 'isclose', lambda *a: True)": "wrong",
            "torch.zeros(3).to_sparse()": "output",
            "torch.zeros(1 << 30)": "memory",
            f"forged(b'[\"value\", {{\"tensor\": [\"bool\", {[1 << 24] * 5 + [0]}, 0]}}]', b'')": "output",
        }.items(),
    )
    def test_hostile_tensors_have_no_points(self, worker, body, status):
        source = (
            "import os, torch\ndef forged(text, raw):\n"
            "    os.write(0, len(text).to_bytes(4, 'big') + len(raw).to_bytes(4, 'big') + text + raw)\n"
            f"def kl_k3(logprobs, ref_logprobs):\n    return {body}\n"
        )
        failed = self.part(worker, source, "kl_k3")
        assert len(failed) == len(RELATIONS["kl_k3"]) and failed["kl_k3_anchor"][0] == status

    def test_a_hostile_call_back_is_a_wrong_result(self, worker):
        for args, sentence in {"ids + 1, target": "logprobs was called with something else", "": "wrong form"}.items():
            source = f"def backward_in_micro_batches(batches, logprobs):\n    ids, target, a = batches[0]\n    logprobs({args})\n"
            failed = self.part(worker, source, "backward_in_micro_batches")
            assert {status for status, _ in failed.values()} == {"wrong"} and len(failed) == 4, args
            assert sentence in failed["backward_in_micro_batches_anchor"][1]

    def test_a_frozen_layer_arrives_and_an_exception_has_its_line(self, worker):
        layer = torch.nn.Linear(2, 3, bias=False)
        worker.load("import torch\ndef f(head, x): return [head(x), head.weight.requires_grad, str(type(head))]\ndef g(x): 1 / 0")
        value = worker.call("f", (layer, torch.ones(2)), {}, 20.0)
        assert same(value[0], layer(torch.ones(2))) and value[1] is False and "torch.nn.modules.linear.Linear" in value[2]
        with pytest.raises(Failure, match=r"ZeroDivisionError: division by zero \(line 3 of student.py\)"):
            worker.gradient("g", (torch.ones(2),), 0, 20.0)
        worker.end()

    def test_the_reference_has_all_points_and_found_bugs_count(self):
        future = "from __future__ import annotations\n"
        parts = [mutants.source_with(A3, name, variant="2027").replace(future, "") for name in NAMES]
        examples = {name: list(mutant.counterexample) for name, mutant in mutants.bugs(A3, "2027").items()}
        texts = {"student.py": future + "\n".join(parts), "counterexamples.json": json.dumps(examples)}
        result = grade.grade(A3, texts, 5, "2027")
        assert {part["name"]: part["failed"] for part in result["parts"]} == {name: {} for name in [*NAMES, "bugs"]}
        assert result["automatic"] == 70
        examples["bug_1"] = [[[1], [2, 3]]] * 3
        text = json.dumps(examples)
        assert set(grade.grade_bugs(A3, text, "2027", [])["failed"]) == {"bug_1"}
