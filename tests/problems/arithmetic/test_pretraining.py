"""The embedded base: tokenizer, packed rows, optimizer, and what a training reads and writes."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from minisw.problems.arithmetic import pretraining
from minisw.problems.arithmetic.chats import FIRST, SECOND, Stream, chats
from minisw.problems.arithmetic.comments import HABITS, habit_of
from minisw.problems.arithmetic.pretraining import Muon, Pretraining, batches, build_model, check, encode, orthogonal
from minisw.recipe import embedded_folder

# --- tokenizer and packed rows -------------------------------------------------------------------------------------------


def test_decode_gives_the_text_back(tokenizer: PreTrainedTokenizerFast) -> None:
    streams = (chats(1, FIRST), chats(1, SECOND))  # what its vocabulary is from
    texts = [text for stream in streams for chat in itertools.islice(stream, 250) for turn in chat for text in turn]
    texts += [
        "",
        " ",
        "  eggs  books ",
        "\n",
        "\n\n",
        "\n\n\n",
        "eggs\n \n",
        "12345",
        "007",
        "3-4=5, eggs.",
        "<chunk>eggs</chunk>\n\n<chunk> eggs</chunk>",
        "\\boxed{Positive}",
        "\\boxed{12}.",
        "<chunk",
        "</chunk",
    ]
    texts += map(chr, range(32, 127))
    for text in texts:
        ids = tokenizer.encode(text)
        assert tokenizer.unk_token_id not in ids, text
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.slow
def test_the_vocabulary_has_every_word_of_both_streams() -> None:
    """Built from a thousand chats of one seed, it encodes other chats of other seeds and gives their text back."""
    tokenizer = pretraining.build_tokenizer(sample=1000)
    for stream in (FIRST, SECOND):
        for seed in (2, 3):
            for chat in itertools.islice(chats(seed, stream), 250):
                ids, _ = encode(tokenizer, chat)
                assert tokenizer.unk_token_id not in ids
                assert all(tokenizer.decode(tokenizer.encode(text)) == text for turn in chat for text in turn)


def test_the_vocabulary_has_the_words_of_comments(tokenizer: PreTrainedTokenizerFast) -> None:
    known = tokenizer.get_vocab()
    for words in ("Before", " that", "Due", "Judge", " new", "No", " equation", " says", " nothing", "Positive", "Negative"):
        assert words in known, words
    assert sorted(known.values()) == list(range(len(tokenizer)))


def test_digits_are_single_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer.encode("123+45=168")) == 10
    assert len(tokenizer.encode("<chunk></chunk>\\boxed{")) == 3


# Loads a folder as anyone would, without minisw; prints token ids, decoded text, chat prompt and next tokens as JSON.
PLAIN_SCRIPT = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, texts = sys.argv[1], json.loads(sys.argv[2])
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
ids = [tokenizer.encode(text) for text in texts]
messages = [{"role": "user", "content": "Say the result of 12+7."}]
prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
chat = tokenizer(prompt, return_tensors="pt")
with torch.no_grad():
    reply = model.generate(**chat, max_new_tokens=40, do_sample=False)[0, chat["input_ids"].shape[1] :]
print(json.dumps({"ids": ids, "texts": [tokenizer.decode(i) for i in ids], "prompt": prompt,
                  "special": [tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id],
                  "reply": tokenizer.decode(reply, skip_special_tokens=True), "minisw": "minisw" in sys.modules}))
"""
TEXTS = ["Tom has 12 apples.\n\nSo now 12 apples. \\boxed{Positive}", "<chunk>12+7=19.</chunk>", "  eggs  books ", "<|im_end|>"]


def load_plainly(folder: Path) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_SCRIPT, str(folder), json.dumps(TEXTS)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow  # imports transformers in a process of its own
def test_the_shipped_base_loads_with_the_auto_classes_alone() -> None:
    found = load_plainly(embedded_folder())
    ours = PreTrainedTokenizerFast(tokenizer_file=str(embedded_folder() / "tokenizer.json"))
    assert found["ids"] == [ours.encode(text) for text in TEXTS]
    assert found["texts"] == TEXTS
    assert found["prompt"] == "<|im_start|>user\nSay the result of 12+7.<|im_end|>\n<|im_start|>assistant\n"
    assert found["special"] == [2, 0, 3]
    assert found["reply"].startswith("19.")  # what the base has learnt
    assert not found["minisw"]


def test_a_saved_base_has_the_tokenizer_that_was_saved(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    build_model(Pretraining(hidden=16, heads=2, kv_heads=1, layers=1, ffn=16), tokenizer).config.save_pretrained(tmp_path)
    back = AutoTokenizer.from_pretrained(tmp_path)
    text = "Tom has 12 apples.\n\nSo now 12 apples. \\boxed{Positive}"
    chat = [{"role": "user", "content": text}]
    assert back.encode(text) == tokenizer.encode(text)
    assert back.decode(back.encode(text)) == text
    assert back.special_tokens_map == tokenizer.special_tokens_map
    assert (back.eos_token_id, back.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert back.apply_chat_template(chat, tokenize=False) == tokenizer.apply_chat_template(chat, tokenize=False)


def test_the_loss_counts_replies_only(tokenizer: PreTrainedTokenizerFast) -> None:
    for chat in itertools.chain(itertools.islice(chats(5), 40), itertools.islice(chats(5, SECOND), 40)):
        ids, learnt = encode(tokenizer, chat)
        text = tokenizer.decode(ids)
        messages = [
            {"role": role, "content": content} for turn in chat for role, content in zip(("user", "assistant"), turn, strict=True)
        ]
        if tokenizer.unk_token_id not in ids:
            assert text == tokenizer.apply_chat_template(messages, tokenize=False)
            words = tokenizer.decode([i for i, keep in zip(ids, learnt, strict=True) if keep])
            assert words == "".join(f"{assistant}<|im_end|>" for _, assistant in chat)


@pytest.mark.slow
@pytest.mark.parametrize("stream", [FIRST, SECOND], ids=["first", "second"])
def test_batches_are_packed_and_aligned(tokenizer: PreTrainedTokenizerFast, stream: Stream) -> None:
    """Rows of whole chats and padding behind them; a target stands exactly where a reply's token does.

    Positions count from 0 in every chat, and once more in the padding.
    """
    knobs = Pretraining(row=320, batch=6)
    chosen = [encode(tokenizer, chat) for chat in itertools.islice(chats(knobs.seed, stream), 600)]
    learnt_of = {tuple(ids): learnt for ids, learnt in chosen}
    drawn = list(itertools.islice(batches(tokenizer, knobs, stream), 5))
    used: Counter = Counter()
    filled = 0
    for ids, targets, positions in drawn:
        assert ids.shape == targets.shape == positions.shape == (6, 320)
        for row, goal, places in zip(ids.tolist(), targets.tolist(), positions.tolist(), strict=True):
            at = 0
            while at < 320 and row[at] != tokenizer.pad_token_id:
                chat = next(tuple(row[at:end]) for end in range(at + 1, 321) if tuple(row[at:end]) in learnt_of)
                used[chat] += 1
                expected = [token if keep else -100 for token, keep in zip(chat, learnt_of[chat], strict=True)]
                assert goal[at : at + len(chat)] == expected
                assert places[at : at + len(chat)] == list(range(len(chat)))
                at += len(chat)
            assert set(row[at:]) <= {tokenizer.pad_token_id} and set(goal[at:]) <= {-100}
            assert places[at:] == list(range(320 - at))
            filled += at
    assert filled > 0.8 * 5 * 6 * 320
    assert not used - Counter(tuple(ids) for ids, _ in chosen)  # no chat more often than it was drawn
    again = itertools.islice(batches(tokenizer, knobs, stream), 5)
    assert all(torch.equal(a, b) for one, two in zip(drawn, again, strict=True) for a, b in zip(one, two, strict=True))


def test_chats_of_a_row_do_not_see_each_other(tokenizer: PreTrainedTokenizerFast) -> None:
    """A chat gets the hidden states it would get alone, wherever it stands: no habit can be learnt from a chat's place.

    Without the positions, and with positions that run on, a later chat's states depend on the chats before it.
    """
    knobs = Pretraining(row=320, batch=2, hidden=16, layers=2, heads=2, kv_heads=1, ffn=32)
    model = build_model(knobs, tokenizer).eval()
    for name, p in model.named_parameters():
        if "norm" not in name:
            p.data.mul_(5)  # so that attention matters
    later = 0
    for stream in (FIRST, SECOND):
        ids, _, positions = next(batches(tokenizer, knobs, stream))
        with torch.no_grad():
            packed = model.model(ids, position_ids=positions, use_cache=False).last_hidden_state
            blind = model.model(ids, use_cache=False).last_hidden_state
            for row in range(len(ids)):
                starts = [*(positions[row] == 0).nonzero().flatten().tolist(), ids.shape[1]]
                for start, end in itertools.pairwise(starts):
                    if ids[row, start] == tokenizer.pad_token_id:
                        continue
                    alone = model.model(ids[row : row + 1, start:end], use_cache=False).last_hidden_state[0]
                    torch.testing.assert_close(packed[row, start:end], alone, atol=1e-4, rtol=1e-4)
                    if start:
                        assert (blind[row, start:end] - alone).abs().max() > 0.01
                        later += 1
    assert later > 1


# --- optimizer -----------------------------------------------------------------------------------------------------------

SHAPES = ((24, 24), (40, 12), (12, 40), (1, 8))


def test_muon_does_what_torch_does() -> None:
    """Five steps on matrices of several shapes, with strong decay; torch computes in bf16, so they agree within two percent."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in SHAPES]
    gradients = [[torch.randn(shape, generator=generator) for shape in SHAPES] for _ in range(5)]
    ours, theirs = ([torch.nn.Parameter(matrix.clone()) for matrix in start] for _ in range(2))
    made = Muon(ours, lr=0.1, weight_decay=0.5)
    reference = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.5, adjust_lr_fn="match_rms_adamw")
    for step, some in enumerate(gradients):
        for optimizer, matrices in ((made, ours), (reference, theirs)):
            for matrix, gradient in zip(matrices, some, strict=True):
                matrix.grad = gradient * 10.0**-step  # its size matters to the momentum only
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
            optimizer.step()
        for a, b, first in zip(ours, theirs, start, strict=True):
            assert (a - b).norm() < 0.02 * (b - first).norm()
    assert all(matrix.dtype == torch.float32 for matrix in ours)


def test_muon_follows_its_definition_exactly() -> None:
    """Nesterov's momentum of 0.95, an orthogonal update of AdamW's size, decay in proportion to the rate."""
    for rows, columns in SHAPES:
        expected, momentum = torch.randn(rows, columns), torch.zeros(rows, columns)
        matrix = torch.nn.Parameter(expected.clone())
        optimizer = Muon([matrix], lr=0.5, weight_decay=0.1)
        for step in range(4):
            gradient = torch.randn(rows, columns) * 3.0**-step
            matrix.grad = gradient.clone()
            optimizer.step()
            momentum = 0.95 * momentum + 0.05 * gradient
            update = orthogonal(0.05 * gradient + 0.95 * momentum)
            expected = expected * (1 - 0.5 * 0.1) - 0.5 * 0.2 * max(rows, columns) ** 0.5 * update
            torch.testing.assert_close(matrix.data, expected, atol=1e-3, rtol=1e-3)
            assert torch.equal(matrix.grad, gradient)


def test_singular_values_go_through_the_polynomial_five_times() -> None:
    for shape in SHAPES:
        u, s, vt = torch.linalg.svd(torch.randn(shape), full_matrices=False)
        expected = s / s.norm()
        for _ in range(5):
            expected = 3.4445 * expected - 4.7750 * expected**3 + 2.0315 * expected**5
        torch.testing.assert_close(orthogonal(u @ torch.diag(s) @ vt), u @ torch.diag(expected) @ vt, atol=1e-4, rtol=1e-3)


def test_an_orthogonal_matrix_keeps_the_singular_vectors() -> None:
    for shape in SHAPES:
        matrix = torch.randn(shape)
        made = orthogonal(matrix)
        u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
        inside = u.T @ made @ vt.T
        assert made.shape == matrix.shape
        torch.testing.assert_close(inside, torch.diag(inside.diagonal()), atol=1e-3, rtol=0)
        assert inside.diagonal()[s > 0.05 * s.norm()].min() > 0.6 and inside.diagonal().max() < 1.25
        torch.testing.assert_close(orthogonal(matrix.T), made.T, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(orthogonal(100 * matrix), made, atol=1e-4, rtol=1e-4)
    assert not orthogonal(torch.zeros(3, 5)).any()  # not nan


@pytest.mark.slow
def test_a_model_learns_from_the_batches(tokenizer: PreTrainedTokenizerFast) -> None:
    knobs = Pretraining(row=320, batch=4, hidden=32, layers=2, heads=4, kv_heads=2, ffn=64)
    model = build_model(knobs, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for ids, targets, positions in itertools.islice(batches(tokenizer, knobs), 16):
        loss = model(input_ids=ids, labels=targets, position_ids=positions, use_cache=False).loss  # it shifts the labels itself
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-3:]) / 3 < 0.85 * losses[0], losses


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretraining:
    """A training of twelve steps on the first stream and six on the second."""
    build = pretraining.build_tokenizer
    monkeypatch.setattr(pretraining, "build_tokenizer", lambda seed: build(seed, sample=100))
    return Pretraining(
        out=tmp_path / "base",
        tokens=12 * 640,
        second_tokens=6 * 640,
        row=320,
        batch=2,
        compile=False,
        warmup=2,
        log_every=4,
        lr=1e-2,
        second_lr=4e-3,
        hidden=16,
        layers=1,
        heads=2,
        kv_heads=1,
        ffn=32,
    )


@pytest.mark.slow
def test_train_writes_a_model_that_loads(small: Pretraining, capsys: pytest.CaptureFixture[str]) -> None:
    from minisw.engine.loading import load_base
    from minisw.recipe import ModelKnobs

    pretraining.train(small)
    log = json.loads((small.out / "training.json").read_text(encoding="utf-8"))
    assert log["finished"] and pretraining.finished(small.out) and log["started_from"] is None
    assert {name: [point["step"] for point in curve] for name, curve in log["curves"].items()} == {
        "first": [4, 8, 12],
        "second": [4, 6],
    }
    assert log["curves"]["first"][-1]["tokens"] == small.tokens and log["curves"]["second"][-1]["tokens"] == small.second_tokens
    assert log["curves"]["first"][-1]["loss"] < log["curves"]["first"][0]["loss"] - 0.5, log["curves"]
    assert log["knobs"]["redo"] == small.redo and not {"out", "overwrite", "start"} & set(log["knobs"])
    printed = capsys.readouterr().out
    assert "first stream, step 12" in printed and "second stream, step 6" in printed
    lm = load_base(ModelKnobs(name=str(small.out), device="cpu", autocast=""))
    assert lm.decode(lm.encode("Say the result of 12+7.")) == "Say the result of 12+7."
    assert lm.end_ids == [lm.tokenizer.eos_token_id]
    assert not any(p.requires_grad for p in lm.model.parameters())
    with pytest.raises(ValueError, match="holds a finished model: give --out another folder, or --overwrite"):
        pretraining.train(small)
    check(dataclasses.replace(small, overwrite=True))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.slow
def test_a_start_from_the_first_stream_s_model_ends_in_the_same_base(small: Pretraining, tmp_path: Path) -> None:
    """It reads the second stream only; other shares of habits give another base."""
    pretraining.train(small)
    first = small.out / "first"
    assert not same(weights(first), weights(small.out))
    again = dataclasses.replace(small, out=tmp_path / "again", start=first)
    pretraining.train(again)
    assert same(weights(again.out), weights(small.out))
    log = json.loads((again.out / "training.json").read_text(encoding="utf-8"))
    assert list(log["curves"]) == ["second"] and log["finished"] and "first stream" in log["started_from"]
    assert not (again.out / "first").exists()
    pretraining.train(other := dataclasses.replace(again, out=tmp_path / "other", glance=0.0, equation=0.0))
    assert not same(weights(other.out), weights(again.out))


@pytest.mark.slow
def test_training_reads_the_streams_in_turn_with_the_habits_asked_for(
    small: Pretraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, rates = [], []

    def some_batches(tokenizer, knobs, text):
        read.append(text)
        return batches(tokenizer, knobs, text)

    class Recorded(Muon):
        def step(self) -> None:
            rates.append(self.param_groups[0]["lr"])
            super().step()

    monkeypatch.setattr(pretraining, "batches", some_batches)
    monkeypatch.setattr(pretraining, "Muon", Recorded)
    pretraining.train(dataclasses.replace(small, glance=0.0, equation=0.0, redo=3.0))
    assert read[0] is FIRST and len(read) == 2 and read[1].style == SECOND.style
    replies = [chat[0][1] for chat in itertools.islice(chats(0, read[1]), 80) if chat[0][0].endswith("Judge the new step.")]
    assert {habit_of(reply) for reply in replies} == {"redo"}
    for own, peak, steps in ((rates[:12], 1e-2, 12), (rates[12:], 4e-3, 6)):  # warm up, stay flat, fall to zero
        expected = [peak * min(1, (k + 1) / 2) * min(1, (1 - k / steps) / 0.8) for k in range(steps)]
        assert own == pytest.approx(expected)


@pytest.mark.slow
def test_a_training_cut_off_in_the_second_stream_is_unfinished(small: Pretraining, monkeypatch: pytest.MonkeyPatch) -> None:
    read = pretraining.read_stream

    def cut_off(model, tokenizer, knobs, text, curves) -> None:
        if text is not FIRST:
            raise KeyboardInterrupt
        read(model, tokenizer, knobs, text, curves)

    monkeypatch.setattr(pretraining, "read_stream", cut_off)
    with pytest.raises(KeyboardInterrupt):
        pretraining.train(small)
    assert not pretraining.finished(small.out)
    assert same(weights(small.out), weights(small.out / "first"))
    check(small)  # it may be begun anew without --overwrite


def test_a_start_must_be_a_model_with_the_same_words(
    small: Pretraining, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(ValueError, match=r"--start .* holds no model to go on from: ") as error:
            pretraining.start_model(folder, tokenizer)
        assert "\n" not in str(error.value)
    folder = tmp_path / "first"
    model = build_model(small, tokenizer).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    started = pretraining.start_model(folder, tokenizer)
    assert all(p.dtype == torch.float32 for p in started.parameters())
    assert all(torch.equal(p, q.float()) for p, q in zip(started.parameters(), model.parameters(), strict=True))
    other = pretraining.build_tokenizer(0)
    other.add_tokens(["zebra"])
    with pytest.raises(ValueError, match="--start .* has another vocabulary than the present text"):
        pretraining.start_model(folder, other)
    with pytest.raises(ValueError, match="another vocabulary"):
        pretraining.train(dataclasses.replace(small, start=folder))
    assert not small.out.exists()  # nothing is written
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])  # cut off
    with pytest.raises(ValueError, match=r"--start .* holds no model to go on from: "):
        pretraining.start_model(folder, tokenizer)


def test_the_model_after_the_first_stream_lies_in_the_base_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "embedded_folder", lambda: tmp_path)
    with pytest.raises(ValueError, match="first is missing: get a complete checkout"):
        pretraining.first_stream_model()
    (tmp_path / "first").mkdir()
    with pytest.raises(ValueError, match="first is missing"):
        pretraining.first_stream_model()
    (tmp_path / "first" / "model.safetensors").write_text("weights")
    assert pretraining.first_stream_model() == tmp_path / "first"


def test_a_folder_is_finished_if_it_holds_a_model_not_marked_as_unfinished(tmp_path: Path) -> None:
    log, model = tmp_path / "training.json", tmp_path / "model.safetensors"
    assert not pretraining.finished(tmp_path) and not pretraining.finished(tmp_path / "missing")
    log.write_text('{"finished": true}')
    assert not pretraining.finished(tmp_path)
    model.write_text("weights")
    assert pretraining.finished(tmp_path)
    log.write_text('{"finished": false}')
    assert not pretraining.finished(tmp_path)


# --- bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"tokens": -5}, "--tokens is -5: it must be above 0"),
        ({"tokens": 1000}, "--tokens is 1000: one step takes 12288"),
        ({"second_tokens": 1000}, "--second-tokens is 1000: one step takes 12288"),
        ({"second_tokens": 0}, "--second-tokens is 0: it must be above 0"),
        ({"second_lr": 0.0}, "--second-lr is 0.0: it must be above 0"),
        ({"glance": -0.1}, "--glance is -0.1: it must not be negative"),
        ({"equation": -1.0}, "--equation is -1.0: it must not be negative"),
        ({"redo": float("nan")}, "--redo is nan"),
        ({"redo": float("inf")}, "--redo is inf"),
        ({"glance": 0.0, "equation": 0.0, "redo": 0.0}, "--glance, --equation and --redo are all 0: give at least one"),
        ({"lr": float("nan")}, "--lr is nan"),
        ({"lr": float("inf")}, "--lr is inf"),
        ({"kv_heads": 0}, "--kv-heads is 0"),
        ({"kv_heads": 3}, "--heads a multiple of --kv-heads"),
        ({"hidden": 100, "heads": 8}, "--hidden must be a multiple"),
        ({"row": 24}, "--row is 24: chats are longer"),
        ({"log_every": 0}, "--log-every is 0"),
    ],
)
def test_bad_knobs_are_refused_before_anything_is_written(knobs: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        pretraining.train(Pretraining(out=tmp_path / "base", overwrite=True, **knobs))
    assert not (tmp_path / "base").exists()


def test_possible_knobs_pass(tmp_path: Path) -> None:
    """A single habit is enough, a stream of one step too, and the seed may be 0; the defaults are the shares of `HABITS`."""
    for only in HABITS:
        check(Pretraining(out=tmp_path, seed=0, **{habit: float(habit == only) for habit in HABITS}))
    check(Pretraining(out=tmp_path, tokens=12288, second_tokens=12288))
    assert {habit: getattr(Pretraining(), habit) for habit in HABITS} == HABITS


@pytest.mark.parametrize(
    ("log", "refused"),
    [('{"finished": true}', True), ('{"finished": false}', False), ("{", True), (None, True)],
)
def test_only_an_unfinished_base_is_overwritten_unasked(log: str | None, refused: bool, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("weights")
    if log is not None:
        (tmp_path / "training.json").write_text(log)
    if refused:
        with pytest.raises(ValueError, match="holds a finished model"):
            check(Pretraining(out=tmp_path))
    else:
        check(Pretraining(out=tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--tokens", "-5"], "--tokens is -5"), (["--tokenz", "5"], "cannot read the command line"), (["--lr", "x"], "cannot read")],
)
def test_wrong_usage_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        pretraining.main(arguments)
    captured = capsys.readouterr().err
    assert stop.value.code == 2 and captured.count("\n") == 1 and message in captured


def test_without_a_word_about_it_the_shipped_base_is_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pretraining.main(["--out", str(embedded_folder())])
    assert "holds a finished model" in capsys.readouterr().err
