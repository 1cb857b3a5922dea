"""The embedded base: long-hand skills, chats without verdicts on steps, tokenizer, packed rows, and what is written."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from minisw.problems.arithmetic import chats as chats_module
from minisw.problems.arithmetic import pretraining, rules, stories
from minisw.problems.arithmetic.chats import Chat, careful_step, chats, compare, longhand, near_miss, random_calculation
from minisw.problems.arithmetic.pretraining import Pretraining, batches, build_model, check, encode
from minisw.recipe import embedded_folder

VERDICT = re.compile("positive|negative", re.I)


@pytest.fixture(scope="module")
def stream() -> list[Chat]:
    with pytest.MonkeyPatch.context() as patch:  # stories of every length within these few
        patch.setattr(chats_module, "GROWTH", ((300, (1, 2)), (600, (1, 2, 3, 4)), (None, (1, 2, 3, 4, 5, 6))))
        return list(itertools.islice(chats(5), 3000))


def solve(left: int, operator: str, right: int) -> int:
    return {"+": left + right, "-": left - right, "*": left * right, "/": left // right if right else 0}[operator]


def calculations() -> list[tuple[int, str, int]]:
    rng = random.Random(0)
    drawn = [random_calculation(rng) for _ in range(1500)]
    # and what the stories ask: both factors of any size, a divisor with two digits
    drawn += [(rng.randint(3, 99), "*", rng.randint(3, 99)) for _ in range(200)]
    drawn += [(q * k, "/", k) for q, k in ((rng.randint(3, 99), rng.randint(3, 12)) for _ in range(200))]
    return drawn + [(999, "+", 1), (100, "-", 1), (1000, "-", 999), (7, "-", 7), (5, "+", 995), (12, "*", 12), (60, "*", 12)]


# --- skills --------------------------------------------------------------------------------------------------------------


def test_longhand_gives_the_result() -> None:
    for left, operator, right in calculations():
        text, result = longhand(left, operator, right)
        assert result == solve(left, operator, right), text
        assert text.endswith(f", {result}.")
        head = re.match(r"(\d+)([-+*/])(\d+): ", text)
        assert head and head[2] == operator
        given = (int(head[1]), int(head[3]))
        assert given == (left, right) or (operator == "*" and given == (right, left))


def test_longhand_columns_are_true_and_make_the_result() -> None:
    for left, operator, right in calculations():
        text, result = longhand(left, operator, right)
        columns = text.split(": ")[1].split(", ")[:-1]
        assert columns
        for column in columns:
            stated, expression = column.split("=")[::-1] if operator != "/" else column.split("=")
            assert re.fullmatch(r"[-+*\d]+", expression) and eval(expression) == int(stated), text
        if operator == "/":  # the quotient's digits from the left; the last column leaves the remainder
            assert int("".join(column.split("=")[1].split("*")[0] for column in columns)) == result
            assert int(columns[-1].rsplit("+", 1)[1]) == left % right
        else:  # the result's digits from the right; the first column stands in full at the left end
            values = [int(column.split("=")[1]) for column in columns]
            digits = [value % 10 for value in values[:-1]] + [values[-1]]
            assert sum(digit * 10**place for place, digit in enumerate(digits)) == result, text


def test_compare() -> None:
    assert compare(42, 47) == "4=4, 2#7, different"
    assert compare(42, 42) == "4=4, 2=2, same"
    assert compare(42, 421) == "4=4, 2=2, end#1, different"
    assert compare(7, 70) == "7=7, end#0, different"
    assert compare(100, 99) == "1#9, different"
    rng = random.Random(1)
    for _ in range(500):
        left, right = rng.randint(0, 999), rng.randint(0, 999)
        assert compare(left, left).endswith(", same")
        assert compare(left, right).endswith(", same" if left == right else ", different")


def test_near_miss_is_never_the_value() -> None:
    rng = random.Random(2)
    for value in [*range(3, 1000)] * 10:
        wrong = near_miss(rng, value)
        assert wrong != value and wrong > 0
    close = sum(abs(near_miss(rng, 512) - 512) in (1, 2, 10, 20, 100, 200) for _ in range(1000))
    assert close > 500  # most are slips of one digit


def test_random_calculation_stays_in_range() -> None:
    rng = random.Random(3)
    drawn = [random_calculation(rng) for _ in range(2000)]
    assert {operator for _, operator, _ in drawn} == set("+-*/")
    for left, operator, right in drawn:
        assert 3 <= solve(left, operator, right) <= 999
        assert operator != "/" or left % right == 0


def test_careful_step_is_the_next_one() -> None:
    rng = random.Random(4)
    for _ in range(300):
        story = stories.make_story(rng, rng.randint(1, 6), stories.TOP)
        for done, fact in enumerate(story.facts):
            text = careful_step(story, done)
            assert text.endswith(f"\nResult: {story.values[done]}.")
            assert f"Due: {fact.told}\n" in text
            assert text.startswith(f"Last: {story.facts[done - 1].told}\n" if done else "Last: nothing.\n")
            worked = re.findall(r"^(\d+)([-+*/])(\d+): .* (\d+)\.$", text, re.M)
            assert len(worked) == len(fact.equations)
            assert all(solve(int(a), op, int(b)) == int(c) for a, op, b, c in worked)
            assert int(worked[-1][3]) == story.values[done]
        text = careful_step(story, len(story.facts))
        assert "Due: the answer.\n" in text and text.endswith(f"Result: {story.values[-1]}.")


# --- the stream ----------------------------------------------------------------------------------------------------------


def test_no_verdict_on_a_step(stream: list[Chat]) -> None:
    verdicts = 0
    for chat in stream:
        for user, assistant in chat:
            assert not VERDICT.search(user), user
            if VERDICT.search(assistant):
                verdicts += 1
                assert re.fullmatch(r"Check \d+[-+*/]\d+=\d+\.", user), user
        if any(VERDICT.search(assistant) for _, assistant in chat):
            assert not any("how many" in user.lower() for user, _ in chat), chat
    assert verdicts > 100


def test_checks_of_equations_are_right(stream: list[Chat]) -> None:
    seen = set()
    for user, assistant in itertools.chain.from_iterable(stream):
        if check := re.fullmatch(r"Check (\d+)([-+*/])(\d+)=(\d+)\.", user):
            holds = solve(int(check[1]), check[2], int(check[3])) == int(check[4])
            assert assistant.endswith("\\boxed{Positive}" if holds else "\\boxed{Negative}")
            seen.add(holds)
    assert seen == {True, False}


def test_stream_avoids_the_splits_and_solves_right(stream: list[Chat]) -> None:
    solved = 0
    for chat in stream:
        user, assistant = chat[0]
        if user.endswith("\nSolve step by step."):
            solved += 1
            question = user.removesuffix("\nSolve step by step.")
            assert stories.split_of(question) == "pretraining"
            results = rules.step_results(assistant)
            values = tuple(value for what, value in results if what == "step")
            labels = rules.exact_labels(stories.Problem("p", question, "", values), rules.teacher_chunks(assistant))
            assert all(labels) and results[-1] == ("answer", values[-1])
        elif user.endswith("\n\nWrite the next step with care."):
            assert stories.split_of(user.split("\n\nSo far:\n")[0]) == "pretraining"
    assert solved > 0.3 * len(stream)


def test_stream_is_seeded(stream: list[Chat]) -> None:
    assert list(itertools.islice(chats(5), 50)) == list(itertools.islice(chats(5), 50)) == stream[:50]
    assert list(itertools.islice(chats(6), 50)) != stream[:50]


# --- tokenizer and packed rows -------------------------------------------------------------------------------------------


def test_decode_gives_the_text_back(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [text for chat in itertools.islice(chats(1), 250) for turn in chat for text in turn]  # what its vocabulary is from
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
messages = [{"role": "user", "content": "Work out 12+7."}]
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
    assert found["prompt"] == "<|im_start|>user\nWork out 12+7.<|im_end|>\n<|im_start|>assistant\n"
    assert found["special"] == [2, 0, 3]
    assert found["reply"].startswith("12+7: 2+7+0=9, 1+0+0=1, 19.")  # what the base has learnt
    assert not found["minisw"]


@pytest.mark.slow
def test_the_shipped_base_computes_what_its_training_made() -> None:
    """It was trained as Qwen2, which has no bias on o_proj; the bias that Llama adds is zero."""
    from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

    llama = AutoModelForCausalLM.from_pretrained(embedded_folder())
    c = llama.config
    shape = {key: getattr(c, key) for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    shape |= {key: getattr(c, key) for key in ("num_attention_heads", "num_key_value_heads", "max_position_embeddings")}
    qwen = Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True))
    added = {key: value for key, value in llama.state_dict().items() if key.endswith("o_proj.bias")}
    assert len(added) == c.num_hidden_layers and all(not value.any() for value in added.values())
    assert any(value.any() for key, value in llama.state_dict().items() if key.endswith("q_proj.bias"))
    qwen.load_state_dict({key: value for key, value in llama.state_dict().items() if key not in added})
    ids = torch.randint(4, c.vocab_size, (2, 50))
    with torch.no_grad():
        torch.testing.assert_close(llama(ids).logits, qwen(ids).logits)


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


def test_the_loss_counts_replies_only(tokenizer: PreTrainedTokenizerFast, stream: list[Chat]) -> None:
    for chat in stream[:40]:
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
def test_batches_are_packed_and_aligned(tokenizer: PreTrainedTokenizerFast) -> None:
    """Rows of whole chats and padding behind them; a target stands exactly where a reply's token does."""
    knobs = Pretraining(row=320, batch=6)
    chosen = [encode(tokenizer, chat) for chat in itertools.islice(chats(knobs.seed), 600)]
    learnt_of = {tuple(ids): learnt for ids, learnt in chosen}
    drawn = list(itertools.islice(batches(tokenizer, knobs), 5))
    used: Counter = Counter()
    filled = 0
    for ids, targets in drawn:
        assert ids.shape == targets.shape == (6, 320)
        for row, goal in zip(ids.tolist(), targets.tolist(), strict=True):
            at = 0
            while at < 320 and row[at] != tokenizer.pad_token_id:
                chat = next(tuple(row[at:end]) for end in range(at + 1, 321) if tuple(row[at:end]) in learnt_of)
                used[chat] += 1
                expected = [token if keep else -100 for token, keep in zip(chat, learnt_of[chat], strict=True)]
                assert goal[at : at + len(chat)] == expected
                at += len(chat)
            assert set(row[at:]) <= {tokenizer.pad_token_id} and set(goal[at:]) <= {-100}
            filled += at
    assert filled > 0.85 * 5 * 6 * 320
    assert not used - Counter(tuple(ids) for ids, _ in chosen)  # no chat more often than it was drawn
    again = itertools.islice(batches(tokenizer, knobs), 5)
    assert all(torch.equal(a, b) for one, two in zip(drawn, again, strict=True) for a, b in zip(one, two, strict=True))


@pytest.mark.slow
def test_a_model_learns_from_the_batches(tokenizer: PreTrainedTokenizerFast) -> None:
    knobs = Pretraining(row=320, batch=4, hidden=32, layers=2, heads=4, kv_heads=2, ffn=64)
    model = build_model(knobs, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for ids, targets in itertools.islice(batches(tokenizer, knobs), 16):
        loss = model(input_ids=ids, labels=targets).loss  # transformers shifts the labels itself
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-3:]) / 3 < 0.85 * losses[0], losses


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretraining:
    """A training of twelve steps."""
    build = pretraining.build_tokenizer
    monkeypatch.setattr(pretraining, "build_tokenizer", lambda seed: build(seed, sample=100))
    return Pretraining(
        out=tmp_path / "base",
        tokens=12 * 640,
        row=320,
        batch=2,
        compile=False,
        warmup=2,
        log_every=4,
        lr=1e-2,
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
    assert log["finished"] and [point["step"] for point in log["curve"]] == [4, 8, 12]
    assert log["curve"][-1]["loss"] < log["curve"][0]["loss"] - 0.5, log["curve"]
    assert "step 12" in capsys.readouterr().out
    lm = load_base(ModelKnobs(name=str(small.out), device="cpu", autocast=""))
    assert lm.decode(lm.encode("Work out 12+7.")) == "Work out 12+7."
    assert lm.end_ids == [lm.tokenizer.eos_token_id]
    assert not any(p.requires_grad for p in lm.model.parameters())
    with pytest.raises(ValueError, match="holds a finished model: give --out another folder, or --overwrite"):
        pretraining.train(small)
    check(dataclasses.replace(small, overwrite=True))


# --- bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"tokens": -5}, "--tokens is -5: it must be above 0"),
        ({"tokens": 1000}, "--tokens is 1000: one step takes 12288"),
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
