"""A trained judge to use: loaded by folder, by peft, merged; the command line."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from minisw import judge as judge_module
from minisw import load_judge
from minisw.engine.loading import load_base
from minisw.judges import saved
from minisw.judges.discriminative import DiscriminativeJudge
from minisw.judges.generative import GenerativeJudge
from minisw.presets import PRESETS
from minisw.prompts import BOX, NEGATIVE, POSITIVE
from minisw.recipe import Lora, ModelKnobs, Recipe
from minisw.records import LabelledStep

RECIPE = Recipe(
    model=ModelKnobs(sampling_dtype="", autocast="", slots=4),
    judge=Recipe().judge.__class__(max_new_tokens=12),
    lora=Lora(4, 8),
)
PROBLEM, STEPS = "Tom has 3 pens and buys 4. How many has he?", ["3+4=7. So now 7 pens.", "The answer is \\boxed{7}."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An adapter on the embedded base, with some noise in it, saved as a run saves it."""
    path = tmp_path_factory.mktemp("judge") / "judge"
    lm = load_base(RECIPE.model)
    lm.new_adapter("judge", RECIPE.lora, 0)
    generator = torch.Generator().manual_seed(0)
    for name, p in lm.adapter_parameters("judge").items():
        if "lora_B" in name:
            p.data = 0.2 * torch.randn(p.shape, generator=generator)
    lm.save_adapter("judge", path)
    saved.write_card(path, RECIPE, "GRPO")
    return path


def verdicts(judgments):
    return [(j.verdict, j.analysis) for j in judgments]


@pytest.mark.slow
def test_adapter_peft_and_merged_model_judge_alike(folder, tmp_path):
    expected = verdicts(load_judge(folder).judge(PROBLEM, STEPS))
    assert len(expected) == 2 and len({analysis for _, analysis in expected}) == 2
    base = load_judge(folder)
    base.adapter = None
    assert verdicts(base.judge(PROBLEM, STEPS)) != expected  # else the adapter would not matter
    saved.merge(folder, tmp_path / "merged")
    assert verdicts(load_judge(tmp_path / "merged").judge(PROBLEM, STEPS)) == expected

    # as someone without minisw would: greedy, by transformers' own generation
    judge = GenerativeJudge(load_judge(folder).context, "judge")
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(RECIPE.model.folder(), dtype="float32"), folder)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="float32")
    texts = [step + "\n\n" for step in STEPS]
    for model in (peft, plain):
        for at, (_, analysis) in enumerate(expected):
            ids = torch.tensor([judge.prompt(LabelledStep("", PROBLEM, tuple(texts[:at]), texts[at], True))])
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
            assert judge.context.lm.decode(out[0, ids.shape[1] :].tolist()) == analysis


def test_a_merge_that_would_lose_something_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="4-bit base cannot be merged"):
        saved.merge(folder, tmp_path / "merged", four_bit=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is not empty: give --merge a new folder"):
        saved.merge(folder, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def loaded(new_lm, context_of, fake_sampler):
    """A generative judge on the tiny model with a scripted sampler: one vote in three is Positive."""
    lm = new_lm("judge", noise=0.5)
    sampler = fake_sampler(lm, lambda text, k: f"The step says 7. {[NEGATIVE, POSITIVE, NEGATIVE][k % 3]}")
    return saved.LoadedJudge(context_of(lm, sampler), "judge", "judge", saved.Facts(RECIPE.model, "arithmetic", 40))


def test_steps_are_judged_given_those_before_them_and_votes_are_an_argument(loaded):
    lm, calls = loaded.context.lm, loaded.context.sampler.calls
    one = loaded.judge(PROBLEM, STEPS)
    several = loaded.judge(PROBLEM, STEPS, votes=3, temperature=0.7, seed=4)
    again = loaded.judge(PROBLEM, STEPS)
    assert one == again  # nothing is left of the call in between
    assert [c["sampling"].temperature for c in calls] == [0, 0.7, 0] and [c["counts"] for c in calls] == [[1, 1], [3, 3], [1, 1]]
    assert {c["adapter"] for c in calls} == {"judge"} and calls[1]["seed"] == 4
    request = f"{PROBLEM}\n\nSo far:\n{STEPS[0]}\n\nNew step:\n{STEPS[1]}\n\nJudge the new step."
    assert calls[0]["prompts"][1] == lm.decode(lm.chat(request)) and "(nothing)" in calls[0]["prompts"][0]
    assert [j.verdict for j in several] == [False, False] and several[0].votes == (False, True, False)
    assert all(0 < j.p_positive < 1 for j in one + several)  # measured at the verdict token, not counted
    assert loaded.judge(PROBLEM, []) == []


@pytest.mark.parametrize(
    ("problem", "steps", "votes", "message"),
    [
        (" ", ["x"], 1, "the problem or a step is empty"),
        (PROBLEM, ["", "x"], 1, "the problem or a step is empty"),
        (PROBLEM, ["x"], 0, "0 votes are too few"),
        ("Tom has 12 apples. " * 90, ["4+1=5."], 1, "step 1 .* the model's context is 512 tokens; shorten"),
        (PROBLEM, ["4+1=5."] * 70, 1, "step .* the model's context is 512 tokens; shorten"),
    ],
)
def test_what_cannot_be_judged_is_one_line(problem, steps, votes, message, loaded):
    with pytest.raises(ValueError, match=message) as caught:
        loaded.judge(problem, steps, votes)
    assert "\n" not in str(caught.value) and not loaded.context.sampler.calls


def test_the_context_has_room_for_the_reply_too(loaded):
    item = LabelledStep("", PROBLEM, (), STEPS[0] + "\n\n", True)
    length = len(GenerativeJudge(loaded.context, "judge").prompt(item))
    loaded.context.lm.model.get_base_model().config.max_position_embeddings = length + 40
    loaded.judge(PROBLEM, STEPS[:1])
    loaded.context.lm.model.get_base_model().config.max_position_embeddings = length + 39
    with pytest.raises(ValueError, match=f"{length} tokens, and a reply may take 40"):
        loaded.judge(PROBLEM, STEPS[:1])


def test_the_card_says_what_it_is(folder, tmp_path):
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: peft\n") and "minisw judge: GRPO" in card
    assert "preset tiny and changed settings, seed 0" in card and "base_model" not in card
    assert "8 completions from behind each step, rule abs_q" in card and "writes an analysis" in card
    facts = json.loads((folder / saved.FACTS).read_text(encoding="utf-8"))
    assert facts["prompts"] == "arithmetic" and facts["max_new_tokens"] == 12 and facts["model"]["name"] == "embedded"
    assert "device" not in facts["model"] and facts["threshold"] is None
    assert facts["analysis"] is True and facts["request"] == "classify"


def test_a_card_says_what_was_trained_on_what(tmp_path):
    recipe = PRESETS["smoke"]
    metrics = {"training": "SFT on + and -", "labels": 16, "validation_labels": 9, "threshold": 0.375}
    saved.write_card(tmp_path, dataclasses.replace(recipe, seed=4), "discriminative", metrics, "discriminative")
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "with preset smoke, seed 4;" in card and "base_model: Qwen/Qwen2.5-0.5B-Instruct\n" in card
    assert "16 distinct steps, 9 more for validation, from rollouts (4 completions" in card
    assert "P(+) is at least 0.375" in card and "Training: SFT on + and -." in card and "writes an analysis" not in card
    elsewhere = dataclasses.replace(recipe, annotate=dataclasses.replace(recipe.annotate, source="prm800k"))
    saved.write_card(tmp_path, elsewhere, "StepWiser", {"labels": 16})
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "Labels: 16 distinct steps, from prm800k." in card and "Training:" not in card and "rollouts" not in card
    assert saved.read_facts(tmp_path).model == dataclasses.replace(recipe.model, device="auto")


@pytest.mark.parametrize("request_", ["classify", "judge"])
@pytest.mark.parametrize("analysis", [True, False])
def test_the_facts_say_how_a_judge_was_asked(request_, analysis, tmp_path):
    recipe = dataclasses.replace(RECIPE, judge=dataclasses.replace(RECIPE.judge, analysis=analysis))
    saved.write_card(tmp_path, recipe, "discriminative", {"threshold": 0.25, "prompt": request_}, "discriminative")
    facts = saved.read_facts(tmp_path)
    assert (facts.request, facts.analysis, facts.threshold, facts.kind) == (request_, analysis, 0.25, "discriminative")
    values = json.loads((tmp_path / saved.FACTS).read_text(encoding="utf-8"))
    del values["request"], values["analysis"], values["kind"]  # as written before there was a choice
    (tmp_path / saved.FACTS).write_text(json.dumps(values), encoding="utf-8")
    facts = saved.read_facts(tmp_path)
    assert (facts.request, facts.analysis, facts.kind) == ("classify", True, "discriminative")
    values["threshold"] = None
    (tmp_path / saved.FACTS).write_text(json.dumps(values), encoding="utf-8")
    assert saved.read_facts(tmp_path).kind == "generative"
    (tmp_path / saved.FACTS).write_text(json.dumps(values | {"kind": "referee"}), encoding="utf-8")
    with pytest.raises(ValueError, match="is damaged"):
        saved.read_facts(tmp_path)


def test_a_loaded_classifier_answers_its_own_request(new_lm, context_of):
    lm = new_lm("judge", noise=0.5)
    found = {}
    for request_ in ("classify", "judge"):
        facts = saved.Facts(RECIPE.model, "arithmetic", 40, threshold=0.5, request=request_, kind="discriminative")
        found[request_] = saved.LoadedJudge(context_of(lm), "judge", "judge", facts).judge(PROBLEM, STEPS)
        items = [LabelledStep("", PROBLEM, tuple(s + "\n\n" for s in STEPS[:i]), STEPS[i] + "\n\n", True) for i in (0, 1)]
        assert found[request_] == DiscriminativeJudge(context_of(lm), "judge", 0.5, request_).judge(items)
    assert found["classify"] != found["judge"]


def test_a_judge_that_gives_no_analysis_is_loaded_as_one(tmp_path):
    lm = load_base(RECIPE.model)
    lm.new_adapter("judge", RECIPE.lora, 0)
    lm.save_adapter("judge", tmp_path)
    recipe = dataclasses.replace(RECIPE, judge=dataclasses.replace(RECIPE.judge, analysis=False))
    saved.write_card(tmp_path, recipe, "GRPO", {"prompt": "judge"})
    judge = load_judge(tmp_path)
    assert judge.context.analysis is False and judge.facts.request == "judge"
    assert all(j.analysis.startswith(BOX) for j in judge.judge(PROBLEM, STEPS))


@pytest.mark.slow
def test_a_saved_classifier_judges_as_a_classifier(tmp_path):
    lm = load_base(RECIPE.model)
    lm.new_adapter("discriminative", RECIPE.lora, 0)
    lm.save_adapter("discriminative", tmp_path / "discriminative")
    saved.write_card(tmp_path / "discriminative", RECIPE, "discriminative", {"threshold": 0.0}, "discriminative")
    judge = load_judge(tmp_path / "discriminative")
    judgments = judge.judge(PROBLEM, STEPS)
    assert [j.verdict for j in judgments] == [True, True] and all(0 < j.p_positive < 1 and j.tokens == 1 for j in judgments)
    judge.facts = dataclasses.replace(judge.facts, threshold=1.0)
    assert [j.verdict for j in judge.judge(PROBLEM, STEPS)] == [False, False]
    with pytest.raises(ValueError, match="is a classifier"):
        judge.judge(PROBLEM, STEPS, votes=3)


def test_a_judge_from_elsewhere_is_asked_in_english_on_the_base_that_it_names(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}), encoding="utf-8")
    facts = saved.read_facts(tmp_path)
    assert facts.model.name == "some/base" and facts.prompts == "english" and facts.threshold is None


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["minisw.judge", *map(str, arguments)])
    judge_module.main()


@pytest.mark.slow
def test_command_line(folder, tmp_path, monkeypatch, capsys):
    path = tmp_path / "problem.json"
    path.write_text(json.dumps({"problem": PROBLEM, "steps": STEPS}))
    run(monkeypatch, "--adapter", folder, path)
    shown = capsys.readouterr().out
    assert "1. 3+4=7." in shown and "2. The answer" in shown and shown.count("P(Positive)") == 2
    path.write_text(json.dumps([{"problem": PROBLEM, "steps": STEPS}] * 2))
    run(monkeypatch, "--adapter", folder, "--json", path)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 1, 2] and {"verdict", "p_positive", "analysis"} <= lines[0].keys()


def test_the_command_line_says_which_base_is_merged(folder, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(judge_module, "merge", lambda *where, **changes: asked.append(changes))
    run(monkeypatch, "--adapter", folder, "--merge", tmp_path / "merged", "--no-four-bit", "--model", "elsewhere")
    run(monkeypatch, "--adapter", folder, "--merge", tmp_path / "merged")
    assert asked == [{"name": "elsewhere", "four_bit": False}, {}]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("no adapter", "no such folder"),
        ("empty folder", "no judge in"),
        ("damaged facts", "minisw.json is damaged"),
        ("unknown prompts", "minisw.json is damaged"),
        ("unknown setting", "minisw.json is damaged"),
        ("no base", "names no base"),
        ("no file", "cannot read"),
        ("not json", "is not JSON"),
        ("another thing", "must hold"),
        ("empty list", "must hold"),
        ("deep list", "is not JSON"),
        ("too long", "the model's context is 2048 tokens"),
        ("no problem", "give a JSON file"),
        ("no adapter option", "the following arguments are required: --adapter"),
        ("unknown option", "unrecognized arguments: --vote"),
        ("votes in words", "argument --votes: invalid int value: 'many'"),
        ("no votes", "0 votes are too few"),
    ],
)
def test_one_line_says_what_is_wrong(spoil, message, folder, tmp_path, monkeypatch, capsys):
    adapter, path = folder, tmp_path / "problem.json"
    files = {
        "empty folder": {},
        "damaged facts": {saved.FACTS: "{"},
        "unknown prompts": {saved.FACTS: '{"model": {}, "prompts": "latin"}'},
        "unknown setting": {saved.FACTS: '{"model": {"depth": 3}}'},
        "no base": {"adapter_config.json": "{}"},
    }
    if spoil == "no adapter":
        adapter = tmp_path / "none"
    if spoil in files:
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        for name, text in files[spoil].items():
            (adapter / name).write_text(text)
    content = {"not json": "{", "another thing": '{"problem": 3}', "empty list": "[]", "deep list": "[" * 200_000}
    long = {"problem": "Tom has 3 pens. " * 2000, "steps": STEPS}
    path.write_text(content.get(spoil) or json.dumps(long if spoil == "too long" else {"problem": PROBLEM, "steps": STEPS}))
    given = {
        "no problem": ["--adapter", adapter],
        "no file": ["--adapter", adapter, tmp_path / "none.json"],
        "no adapter option": [path],
        "unknown option": ["--adapter", adapter, "--vote", path],
        "votes in words": ["--adapter", adapter, "--votes", "many", path],
        "no votes": ["--adapter", adapter, "--votes", "0", path],
    }
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *given.get(spoil, ["--adapter", adapter, path]))
    captured = capsys.readouterr()
    line = captured.err.split("\n")[-2]
    assert stopped.value.code == 2 and line.startswith("minisw: ") and message in line and captured.out == ""
    assert "Loading weights" in captured.err or captured.err.count("\n") == 1  # the loader may show its own progress
