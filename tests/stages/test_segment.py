"""Stage 1 with a scripted model: who samples what, which solutions are taught, and what is measured."""

import dataclasses
import json
import shutil

import pytest
from fakes import CUT, EOS, FakeLM, FakeSampler, fake_run, fake_task, merging_tokenizer

from minisw.chunks import tag
from minisw.recipe import AnnotateKnobs, EvaluateKnobs, PolicyKnobs, ProblemKnobs, Recipe, SegmentKnobs, Training
from minisw.records import Problem, Solution, read_jsonl
from minisw.stages import segment
from minisw.training import policy_sft

TRAIN = [Problem(f"train-{i}", f"TRAIN{i}?", str(10 + i)) for i in range(4)]
TEST = [Problem(f"test-{i}", f"TEST{i}?", str(20 + i)) for i in range(3)]
TASK = fake_task({"train": TRAIN, "test": TEST})
RECIPE = Recipe(
    seed=3,
    problems=ProblemKnobs(train=3, test=3),
    policy=PolicyKnobs(temperature=0.6, max_text_tokens=60, max_chunks=4),
    annotate=AnnotateKnobs(problems=1),
    segment=SegmentKnobs(teacher="prompted", samples=3, keep=2, tries=2, training=Training(lr=1e-2, epochs=2, batch=2)),
    evaluate=EvaluateKnobs(resamples=50),
)


def answer(number: int) -> str:
    return f"\\boxed{{{number}}}"


def script(text: str, sample: int) -> str:
    """The base: all right on train 0; right, wrong, right on train 1; cut off after the answer, then right on train 2; right on
    test 0 and 1. The teacher: one chunk per line, then one chunk in all. The policy: right on test 1 only, cut off on test 2."""
    if "SEGMENT" in text:
        copy = text.split("SEGMENT ")[1].split("<reply>")[0]
        return tag([copy] if sample else copy.splitlines(keepends=True)).removeprefix("<chunk>")
    if "SOLVE-CHUNKED" in text:
        replies = [tag(["a", answer(0)]), tag(["a\n\nb\n\n", answer(21)]), tag(["a", answer(22)]) + CUT]
        return replies[int(text.split("TEST")[1][0])]
    which = text.split("SOLVE ")[1].split("?")[0]
    if which.startswith("TEST"):
        return f"sum\n{answer({'TEST0': 20, 'TEST1': 21, 'TEST2': 0}[which])}"
    right = f"way {sample}\n{answer(10 + int(which[-1]))}"
    if which == "TRAIN1" and sample == 1:
        return f"way {sample}\n{answer(10)}"  # the right answer of another problem
    if which == "TRAIN2" and sample == 0:
        return right + CUT
    return right


@pytest.fixture
def trained(monkeypatch) -> list:
    """Arguments of every SFT, which is not carried out."""
    calls = []

    def train_sft(lm, adapter, examples, knobs, micro_tokens, seed, checkpoint=None, on_epoch=None, progress=None):
        calls.append({"adapter": adapter, "examples": examples, "knobs": knobs, "seed": seed})
        return [{"loss": 2.0}, {"loss": 1.0}]

    monkeypatch.setattr(policy_sft, "train_sft", train_sft)
    return calls


def make_run(folder, recipe=RECIPE, answers=script, task=TASK, tokenizer=None):
    return fake_run(folder, recipe, task, FakeSampler(FakeLM(tokenizer=tokenizer), answers))


def test_base_and_policy_solve_their_splits_with_their_own_adapter(tmp_path, trained):
    run = make_run(tmp_path / "run")
    segment.run_stage(run)
    base_test, base_train, taught, policy_test = run.sampler.calls
    assert [call.adapter for call in run.sampler.calls] == [None, None, None, "policy"]
    assert base_test.texts == [f"<user>SOLVE {p.question}<reply>" for p in TEST] and base_test.counts == [1] * 3
    assert base_train.texts == [f"<user>SOLVE {p.question}<reply>" for p in TRAIN[:3]] and base_train.counts == [3] * 3
    assert policy_test.texts == [f"<user>SOLVE-CHUNKED {p.question}<reply>" for p in TEST] and policy_test.counts == [1] * 3
    assert [call.sampling.temperature for call in run.sampler.calls] == [0.6] * 4
    assert len({call.seed for call in run.sampler.calls}) == 4
    other = make_run(tmp_path / "other", dataclasses.replace(RECIPE, seed=4))
    segment.run_stage(other)
    assert all(a.seed != b.seed for a, b in zip(run.sampler.calls, other.sampler.calls, strict=True))
    assert trained[0]["seed"] != trained[1]["seed"]


def test_only_right_and_finished_training_solutions_are_taught(tmp_path, trained):
    run = make_run(tmp_path / "run")
    segment.run_stage(run)
    texts = [f"way 0\n{answer(10)}", f"way 1\n{answer(10)}"]  # keep 2 of 3
    texts += [f"way 0\n{answer(11)}", f"way 2\n{answer(11)}"]  # way 1 is wrong
    texts += [f"way 1\n{answer(12)}", f"way 2\n{answer(12)}"]  # way 0 is cut off
    assert run.sampler.calls[2].texts == [f"<user>SEGMENT {text}<reply><chunk>" for text in texts]
    assert run.sampler.calls[2].counts == [2] * 6
    taught = read_jsonl(run.folder / "segment" / "taught.jsonl", Solution)
    lines = [text.splitlines(keepends=True) for text in texts]
    assert [list(s.chunks) for s in taught] == [chunks for two in lines for chunks in (two, ["".join(two)])]
    assert [s.problem_id for s in taught] == [f"train-{i}" for i in range(3) for _ in range(4)]
    assert all(s.correct and s.finished and s.well_formed for s in taught)


def test_sft_teaches_prompt_chunks_and_end_token(tmp_path, trained):
    run = make_run(tmp_path / "run", tokenizer=merging_tokenizer())
    segment.run_stage(run)
    (call,) = trained
    assert call["adapter"] == "policy" and call["knobs"] == RECIPE.segment.training
    taught = read_jsonl(run.folder / "segment" / "taught.jsonl", Solution)
    assert len(call["examples"]) == len(taught) == 12
    for example, s in zip(call["examples"], taught, strict=True):
        assert run.lm.decode(example.prompt) == f"<user>SOLVE-CHUNKED {s.problem_id.upper().replace('-', '')}?<reply>"
        assert example.completion == [i for chunk in s.chunks for i in run.lm.encode(tag([chunk]))] + [EOS]
    assert any(len(run.lm.encode(tag(s.chunks))) + 1 < len(e.completion) for e, s in zip(call["examples"], taught, strict=True))


def test_metrics_compare_policy_and_base_on_the_test_problems(tmp_path, trained):
    run = make_run(tmp_path / "run")
    segment.run_stage(run)
    metrics = json.loads((run.folder / "segment" / "metrics.json").read_text())
    assert metrics["base"]["accuracy"] == pytest.approx(2 / 3) and metrics["base"]["cut_off"] == 0
    assert metrics["policy"]["accuracy"] == pytest.approx(1 / 3) and metrics["policy"]["cut_off"] == pytest.approx(1 / 3)
    assert metrics["policy"]["format_kept"] == pytest.approx(2 / 3)
    assert metrics["difference"] == pytest.approx(-1 / 3)
    low, high = metrics["difference_interval"]
    assert -1 <= low <= metrics["difference"] <= high <= 0
    # of the two solutions that keep the format: 2 chunks each; 1 and 3 parts between blank lines
    assert metrics["policy"]["chunks"] == 2 and metrics["policy"]["blank_line_chunks"] == 2 and metrics["ratio"] == 1
    assert metrics["base"]["blank_line_chunks"] == 1 and metrics["base"]["newline_chunks"] == 2
    assert (metrics["sampled"], metrics["right"], metrics["taught"], metrics["final_loss"]) == (9, 6, 12, 1.0)


def test_right_solutions_leave_out_what_was_cut_off_even_if_its_answer_is_right():
    def s(problem_id, correct, finished, text):
        return Solution(problem_id, (text,), "1", correct, True, 5, finished)

    solutions = [
        s("a", True, False, "cut off"),
        s("a", False, True, "wrong"),
        s("a", True, True, "first"),
        s("b", True, True, "of b"),
        s("a", True, True, "second"),
        s("a", True, True, "third"),
    ]
    assert [x.text for x in segment.right_solutions(solutions, 2)] == ["first", "second", "of b"]
    assert [x.text for x in segment.right_solutions(solutions, 1)] == ["first", "of b"]


def test_segmentations_with_more_chunks_than_the_policy_may_write_are_not_taught(tmp_path, trained):
    run = make_run(tmp_path / "run", dataclasses.replace(RECIPE, policy=dataclasses.replace(RECIPE.policy, max_chunks=1)))
    segment.run_stage(run)
    taught = read_jsonl(run.folder / "segment" / "taught.jsonl", Solution)
    assert len(taught) == 6 and all(len(s.chunks) == 1 for s in taught)


def test_nothing_to_teach_is_an_error_that_names_the_knobs(tmp_path, trained):
    run = make_run(tmp_path / "run", answers=lambda text, sample: "no idea")
    with pytest.raises(ValueError, match="--problems.train.*--segment.samples.*--segment.tries") as caught:
        segment.run_stage(run)
    assert "\n" not in str(caught.value) and not trained


def test_mistakes_are_counted_if_the_task_can_name_them(tmp_path, trained):
    task = dataclasses.replace(
        TASK,
        exact_labels=lambda problem, chunks: [True, problem.answer in chunks[-1]][: len(chunks)],
        mistake_kind=lambda problem, chunks, index: f"{problem.id} at {index}",
    )
    run = make_run(tmp_path / "run", task=task)
    segment.run_stage(run)
    metrics = json.loads((run.folder / "segment" / "metrics.json").read_text())
    assert metrics["mistakes"] == {"test-0 at 1": 1}


def test_finished_parts_are_not_made_again(tmp_path, trained):
    run = make_run(tmp_path / "run")
    segment.run_stage(run)
    copy = tmp_path / "copy"  # the first run holds the lock of its folder
    shutil.copytree(run.folder, copy)
    (copy / "segment" / "policy-test.jsonl").unlink()
    again = make_run(copy)
    segment.run_stage(again)
    assert [call.adapter for call in again.sampler.calls] == ["policy"] and len(trained) == 1
