"""A trained judge to use: loaded by folder, by peft, merged; the command line."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from minisw import judge as judge_module
from minisw import load_judge
from minisw.engine.loading import load_base
from minisw.judges import saved
from minisw.recipe import Lora, ModelKnobs, Recipe

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
    saved.write_card(path, RECIPE, "judge: GRPO")
    return path


def verdicts(judgments):
    return [(j.verdict, j.analysis) for j in judgments]


def test_adapter_peft_and_merged_model_judge_alike(folder, tmp_path):
    expected = verdicts(load_judge(folder).judge(PROBLEM, STEPS))
    assert len(expected) == 2 and len({analysis for _, analysis in expected}) == 2
    base = load_judge(folder)
    base._judge.adapter = None
    assert verdicts(base.judge(PROBLEM, STEPS)) != expected  # else the adapter would not matter
    saved.merge(folder, tmp_path / "merged")
    assert verdicts(load_judge(tmp_path / "merged").judge(PROBLEM, STEPS)) == expected

    # as someone without minisw would: greedy, by transformers' own generation
    judge = load_judge(folder)._judge
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(RECIPE.model.folder(), dtype="float32"), folder)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="float32")
    for model in (peft, plain):
        for at, (_, analysis) in enumerate(expected):
            from minisw.records import LabelledStep

            steps = [s + "\n\n" for s in STEPS]
            ids = torch.tensor([judge.prompt(LabelledStep("", PROBLEM, tuple(steps[:at]), steps[at], True))])
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
            assert judge.lm.decode(out[0, ids.shape[1] :].tolist()) == analysis


def test_probability_is_between_0_and_1_and_votes_are_counted(folder):
    judge = load_judge(folder)
    for j in judge.judge(PROBLEM, STEPS, votes=3):
        assert 0 <= j.p_positive <= 1 and 0 <= j.vote <= 1
    assert judge.judge(PROBLEM, []) == []
    with pytest.raises(ValueError, match="the problem or a step is empty"):
        judge.judge(PROBLEM, ["", "x"])


def test_the_card_says_what_it_is(folder):
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: peft\n") and "minisw: judge: GRPO" in card and "seed 0" in card
    facts = json.loads((folder / saved.FACTS).read_text(encoding="utf-8"))
    assert facts["prompts"] == "arithmetic" and facts["max_new_tokens"] == 12 and facts["model"]["name"] == "embedded"


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["minisw.judge", *map(str, arguments)])
    judge_module.main()


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
        ("no file", "cannot read"),
        ("not json", "is not JSON"),
        ("another thing", "must hold"),
        ("no problem", "give a JSON file"),
    ],
)
def test_one_line_says_what_is_wrong(spoil, message, folder, tmp_path, monkeypatch, capsys):
    adapter, path = folder, tmp_path / "problem.json"
    path.write_text(json.dumps({"problem": PROBLEM, "steps": STEPS}))
    if spoil in ("no adapter", "empty folder", "damaged facts"):
        adapter = tmp_path / "adapter"
        if spoil != "no adapter":
            adapter.mkdir()
        if spoil == "damaged facts":
            (adapter / saved.FACTS).write_text("{")
    path.write_text({"not json": "{", "another thing": '{"problem": 3}'}.get(spoil, path.read_text()))
    arguments = ["--adapter", adapter] + ([] if spoil == "no problem" else [tmp_path / "none" if spoil == "no file" else path])
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *arguments)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and message in said and said.count("\n") == 1
