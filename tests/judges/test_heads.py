"""Scalar heads: what they compute, which hidden states they read, and that they are kept with their adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from minisw.engine.heads import FILE, Head, load_head, save_head
from minisw.engine.model import LanguageModel, copy_adapter
from minisw.judges import heads
from minisw.judges.heads import judgments, new_head, scores, states_at, step_states
from minisw.prompts import ARITHMETIC
from minisw.recipe import Lora, Recipe
from minisw.records import LabelledStep
from minisw.runs import Run


def random_head(*widths: int, seed: int = 0) -> Head:
    """A head whose weights are all random, biases too."""
    head, generator = Head(*widths), torch.Generator().manual_seed(seed)
    for p in head.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    return head


def same(one: Head, two: Head) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def last_states(lm: LanguageModel, ids: list[int]) -> torch.Tensor:
    """The model's last hidden states of one row, [tokens, hidden], by transformers' own output."""
    with torch.no_grad():
        return lm.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]


# --- the head --------------------------------------------------------------------------------------------------------------


def test_one_width_is_a_linear_head():
    head, states = random_head(3), torch.randn(2, 4, 3)
    (layer,) = head.layers
    torch.testing.assert_close(head(states), states @ layer.weight[0] + layer.bias[0])
    assert head(states).shape == (2, 4) and head(states.bfloat16()).dtype == torch.float32


def test_two_widths_are_a_two_layer_network_with_relu():
    head, states = random_head(3, 5), torch.randn(7, 3)
    first, second = head.layers
    second.bias.data.fill_(-3.0)
    hidden = (states @ first.weight.T + first.bias).clamp(min=0)
    assert first.weight.shape == (5, 3) and (hidden == 0).any() and (hidden > 0).any()
    expected = hidden @ second.weight[0] + second.bias[0]
    torch.testing.assert_close(head(states), expected)
    assert (expected < 0).any()  # no ReLU behind the last layer


def test_a_new_head_fits_the_model_is_seeded_and_frozen(tiny_lm):
    one, same_seed, other = (new_head(tiny_lm, seed, 8) for seed in (3, 3, 4))
    assert [tuple(layer.weight.shape) for layer in one.layers] == [(8, 32), (1, 8)]
    assert [tuple(layer.weight.shape) for layer in new_head(tiny_lm, 3).layers] == [(1, 32)]
    assert same(one, same_seed) and not same(one, other)
    assert not any(p.requires_grad for p in one.parameters())


def test_scores_are_the_sigmoids_of_all_states_in_order():
    head, states = random_head(3), [torch.randn(2, 3), torch.randn(1, 3)]
    expected = [1 / (1 + (-head(state)).exp().item()) for own in states for state in own]
    assert scores(head, states) == pytest.approx(expected, abs=1e-6) and len(set(expected)) == 3
    assert scores(head, []) == []


def test_a_score_at_the_threshold_is_positive():
    made = judgments([0.4, 0.6, 0.8], 0.6, 7)
    assert [j.verdict for j in made] == [False, True, True] and [j.p_positive for j in made] == [0.4, 0.6, 0.8]
    assert [j.tokens for j in made] == [7, 7, 7]


# --- hidden states ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_tokens", [1, 40, 4096])
def test_states_are_those_that_the_output_head_reads(micro_tokens, new_lm, context_of, prompts):
    """Under the adapter that is asked for, whatever the batches; the active adapter is back afterwards."""
    lm = new_lm("other", "mine", noise=0.3)
    context = heads.JudgeContext(lm, None, ARITHMETIC, 40, micro_tokens)
    positions = [[len(row) - 1, 0] if i % 2 else [len(row) // 2] for i, row in enumerate(prompts)]
    for adapter in ("mine", None):
        found = states_at(context, adapter, prompts, positions)
        for row, places, states in zip(prompts, positions, found, strict=True):
            with lm.using(adapter), torch.no_grad():
                torch.testing.assert_close(states, last_states(lm, row)[places], atol=1e-4, rtol=1e-4)
                logits = lm.model(input_ids=torch.tensor([row])).logits[0, places]
                torch.testing.assert_close(lm.causal_lm.get_output_embeddings()(states), logits, atol=1e-3, rtol=1e-3)
    assert lm.active == "other"


def chunk_ends(lm: LanguageModel, step: LabelledStep) -> list[int]:
    """Token ids of the policy's prompt and all chunks up to the step, written out."""
    ids = lm.chat(f"{step.question}\nSolve step by step.")
    for chunk in (*step.history, step.chunk):
        ids = ids + lm.encode(f"<chunk>{chunk}</chunk>")
    return ids


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [2, 0, 1, 4, 3], [0, 2], [1, 1], [0, 3, 1, 4]])
def test_a_steps_state_is_the_policys_at_the_end_of_its_closing_tag(order, new_lm, context_of, steps):
    lm = new_lm("policy", "other", noise=0.3)
    some = [steps[i] for i in order]
    for adapter in ("policy", "other"):
        found = torch.cat(step_states(context_of(lm), adapter, some))
        assert len(found) == len(some)
        for step, state in zip(some, found, strict=True):
            with lm.using(adapter):
                torch.testing.assert_close(state, last_states(lm, chunk_ends(lm, step))[-1], atol=1e-4, rtol=1e-4)


def test_steps_that_continue_one_another_share_a_forward(monkeypatch, new_lm, context_of, steps):
    lm, seen = new_lm("policy"), []
    real = heads.states_at

    def spy(context, adapter, rows, positions):
        seen.append((adapter, rows, positions))
        return real(context, adapter, rows, positions)

    monkeypatch.setattr(heads, "states_at", spy)
    repeated = [*steps, steps[0]]
    assert [len(states) for states in step_states(context_of(lm), "policy", repeated)] == [3, 2, 1]
    [(adapter, rows, positions)] = seen
    assert adapter == "policy"
    assert rows == [chunk_ends(lm, steps[2]), chunk_ends(lm, steps[4]), chunk_ends(lm, steps[0])]
    assert positions[0] == [len(chunk_ends(lm, step)) - 1 for step in steps[:3]]
    assert lm.decode(rows[0][: positions[0][1] + 1]).endswith("13+2=15. </chunk>")


def test_no_steps_have_no_states(new_lm, context_of):
    assert step_states(context_of(new_lm("policy")), "policy", []) == []


# --- with an adapter -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [(32,), (32, 6)])
def test_a_head_is_saved_and_loaded_with_its_adapter(widths, new_lm, tmp_path):
    lm, folder = new_lm("judge", noise=0.3), tmp_path / "run" / "judge"
    lm.heads["judge"] = random_head(*widths)
    lm.save_adapter("judge", folder)
    assert {file.name for file in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors", FILE}
    again = new_lm("policy")
    again.load_adapter("again", folder)
    assert again.heads.keys() == {"again"} and same(again.heads["again"], lm.heads["judge"])
    loaded, saved = again.adapter_parameters("again"), lm.adapter_parameters("judge")
    assert [key.replace(".again.", ".judge.") for key in loaded] == list(saved)
    assert all(torch.equal(a, b) for a, b in zip(loaded.values(), saved.values(), strict=True))
    assert not any(p.requires_grad for p in loaded.values())


def test_a_run_saves_the_head_of_a_training_and_loads_it_in_the_next_process(new_lm, tmp_path):
    def trained(head: Head | None) -> LanguageModel:
        run = Run(Recipe(lora=Lora(4, 8)), tmp_path / "run", Console(quiet=True))
        run.__dict__["lm"] = new_lm()

        def fit(checkpoint, tick):
            run.lm.heads["judge"] = head
            return []

        run.train("judge", run.folder / "judges", fit, 1, "training")
        run.close()
        return run.lm

    head = random_head(32)
    assert trained(head).heads == {"judge": head}
    assert same(trained(None).heads["judge"], head)  # not trained again


def test_an_adapter_without_a_head_leaves_none_behind(new_lm, tmp_path):
    lm = new_lm("judge", "policy")
    lm.heads["judge"] = random_head(32)
    lm.save_adapter("judge", tmp_path / "saved")
    lm.save_adapter("policy", tmp_path / "saved")
    assert not (tmp_path / "saved" / FILE).exists()
    lm.load_adapter("again", tmp_path / "saved")
    assert lm.heads.keys() == {"judge"}


def test_a_heads_weights_are_among_its_adapters(new_lm):
    lm = new_lm("judge", "policy")
    without = lm.adapter_parameters("judge")
    lm.heads["judge"] = random_head(32, 6)
    with_head = lm.adapter_parameters("judge")
    new = {key: p for key, p in with_head.items() if key not in without}
    assert [tuple(p.shape) for p in new.values()] == [(6, 32), (6,), (1, 6), (1,)]
    assert all(".judge." in key for key in new) and with_head.keys() - new.keys() == without.keys()
    assert all(p is q for p, q in zip(new.values(), lm.heads["judge"].parameters(), strict=True))
    assert len(lm.adapter_parameters("policy")) == len(without)


def test_a_head_is_copied_and_dropped_with_its_adapter(new_lm):
    lm = new_lm("judge", "best", "policy", noise=0.3)
    lm.heads |= {"judge": random_head(32, 6), "best": random_head(32, 6, seed=1)}
    kept = lm.heads["best"]
    copy_adapter(lm, "judge", "best")
    assert lm.heads["best"] is kept and same(kept, lm.heads["judge"])  # in place: an optimizer or checkpoint may hold it
    lm.heads["judge"].layers[0].bias.data.fill_(9.0)
    assert not same(kept, lm.heads["judge"])
    copy_adapter(lm, "policy", "best")
    assert lm.heads["best"] is kept and "policy" not in lm.heads
    lm.drop_adapter("judge")
    assert lm.heads.keys() == {"best"}
    lm.new_adapter("judge", Lora(4, 8), 0)
    assert "judge" not in lm.heads
    for name in ("best", "policy", "judge"):
        lm.drop_adapter(name)
    assert lm.heads == {}


def spoil_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def spoil_names(path: Path) -> None:
    save_file({"weight": torch.zeros(1, 3), "bias": torch.zeros(1)}, path)


def spoil_shapes(path: Path) -> None:
    save_file({"layers.0.weight": torch.zeros(2, 3), "layers.0.bias": torch.zeros(2)}, path)


@pytest.mark.parametrize("spoil", [spoil_bytes, spoil_names, spoil_shapes])
def test_a_damaged_head_is_one_line_and_loads_no_adapter(spoil, new_lm, tmp_path):
    lm = new_lm("judge")
    lm.heads["judge"] = random_head(32)
    lm.save_adapter("judge", tmp_path / "judge")
    spoil(tmp_path / "judge" / FILE)
    with pytest.raises(ValueError, match="head.safetensors is damaged or holds no head: save the judge again") as caught:
        lm.load_adapter("again", tmp_path / "judge")
    assert "\n" not in str(caught.value) and lm.adapters == ["judge"] and "again" not in lm.heads


def test_a_folder_without_a_head_has_none(tmp_path):
    assert load_head(tmp_path) is None
    save_head(random_head(3), tmp_path)
    assert same(load_head(tmp_path), random_head(3)) and [file.name for file in tmp_path.iterdir()] == [FILE]
    save_head(None, tmp_path)
    assert load_head(tmp_path) is None
