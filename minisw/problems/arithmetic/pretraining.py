"""The embedded base model: the text it reads, its tokenizer, and its training from nothing.

    python -m minisw.problems.arithmetic.pretraining --out data/base        (about an hour on two CPU cores)

The text is written by the generator of `stories.py` in chats of one user and one assistant, and teaches an honest
miniature of a chat model: it solves in a *quick* style (bare results, a random layout), and apart from that it can

- work arithmetic long-hand, compare two numbers, check an isolated equation, say what a line concludes;
- write *the next step with care* after a history in the quick style: the fact used last, the fact that is due, the
  calculation in long-hand;
- put sentences into tags.

It reads **no step of a solution with a verdict on it**, and no problem of any split of `stories.py`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from minisw import prompts
from minisw.problems.arithmetic import stories
from minisw.problems.arithmetic.stories import Story, make_story, quick_solution, quick_step

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


Chat = list[tuple[str, str]]  # (user, assistant) turns


@dataclass(frozen=True)
class Pretraining:
    """Knobs of the base's training. The shipped model is the default."""

    out: Path = Path("data/base")
    tokens: int = 24_000_000  # read in all, prompts included
    row: int = 384  # tokens a packed row
    batch: int = 32  # rows a step
    compile: bool = True  # torch.compile: twice the tokens a second on a CPU, after a minute of compiling
    lr: float = 3e-3  # peak, of Muon (matrices, update matched to AdamW's size) and AdamW (the rest)
    warmup: int = 60  # steps
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 768
    seed: int = 0
    log_every: int = 50


# --- long-hand skills --------------------------------------------------------------------------------------------------


def longhand(left: int, operator: str, right: int) -> tuple[str, int]:
    """`left operator right` worked column by column; returns (text, result).

    Addition and subtraction go from the last digit, each column `a+b+carry=…` or `a-b-borrow=…` (a lent ten stands
    before a); multiplication is by one factor up to 12, division by one divisor, digit by digit with the remainder.
    """
    columns = []
    if operator == "+":
        a, b, carry = str(left)[::-1], str(right)[::-1], 0
        for i in range(max(len(a), len(b))):
            x, y = int(a[i : i + 1] or 0), int(b[i : i + 1] or 0)
            columns.append(f"{x}+{y}+{carry}={x + y + carry}")
            carry = (x + y + carry) // 10
        result = left + right
    elif operator == "-":
        a, b, borrow = str(left)[::-1], str(right)[::-1], 0
        for i in range(len(a)):
            x, y = int(a[i]), int(b[i : i + 1] or 0)
            lent = 10 if x - y - borrow < 0 else 0
            columns.append(f"{x + lent}-{y}-{borrow}={x + lent - y - borrow}")
            borrow = 1 if lent else 0
        result = left - right
    elif operator == "*":
        if left <= 12 < right:  # the longer number is worked through
            left, right = right, left
        carry = 0
        for digit in str(left)[::-1]:
            columns.append(f"{digit}*{right}+{carry}={int(digit) * right + carry}")
            carry = (int(digit) * right + carry) // 10
        result = left * right
    else:
        rest = 0
        for digit in str(left):
            whole, new = divmod(rest * 10 + int(digit), right)
            columns.append(f"{rest * 10 + int(digit)}={whole}*{right}+{new}")
            rest = new
        result = left // right
    return f"{left}{operator}{right}: {', '.join(columns)}, {result}.", result


def compare(left: int, right: int) -> str:
    """Two numbers digit by digit from the left, up to the first difference: "4=4, 2#7, different"."""
    a, b, parts = str(left), str(right), []
    for i in range(max(len(a), len(b))):
        x, y = a[i : i + 1] or "end", b[i : i + 1] or "end"
        parts.append(f"{x}={y}" if x == y else f"{x}#{y}")
        if x != y:
            return ", ".join(parts) + ", different"
    return ", ".join(parts) + ", same"


def careful_step(story: Story, done: int) -> str:
    """The next step after `done` steps, with care: the fact used last, the fact due, long-hand, the result."""
    last = story.facts[done - 1].told if done else "nothing."
    if done == len(story.facts):
        return f"Last: {last}\nDue: the answer.\nResult: {story.values[-1]}."
    fact = story.facts[done]
    work = "\n".join(longhand(a, operator, b)[0] for a, operator, b, _ in fact.equations)
    return f"Last: {last}\nDue: {fact.told}\n{work}\nResult: {fact.value}."


def random_calculation(rng: random.Random, top: int = 999) -> tuple[int, str, int]:
    operator = rng.choice("+-*/")
    if operator == "+":
        a = rng.randint(3, top - 3)
        return a, operator, rng.randint(3, top - a)
    if operator == "-":
        a = rng.randint(13, top)
        return a, operator, rng.randint(3, a - 3)
    k = rng.choice((2, 3, 4, 5, 6, 7, 8, 9, 12))
    q = rng.randint(3, top // k)
    return (q, operator, k) if operator == "*" else (q * k, operator, k)


def near_miss(rng: random.Random, value: int) -> int:
    """A wrong result as people write them: a digit off, two digits swapped, or some other number."""
    digits = list(str(value))
    while True:
        how = rng.random()
        new = digits.copy()
        if how < 0.6:
            i = rng.randrange(len(new))
            new[i] = str((int(new[i]) + rng.choice((-2, -1, 1, 2))) % 10)
        elif how < 0.75 and len(new) > 1:
            i = rng.randrange(len(new) - 1)
            new[i], new[i + 1] = new[i + 1], new[i]
        else:
            new = list(str(rng.randint(3, 999)))
        if new != digits and new[0] != "0":
            return int("".join(new))


# --- the documents -----------------------------------------------------------------------------------------------------


def solve_chat(rng: random.Random, story: Story) -> Chat:
    return [(prompts.ARITHMETIC.solve.format(question=story.text), "".join(quick_solution(rng, story)))]


def careful_chat(rng: random.Random, story: Story) -> Chat:
    done = rng.randint(0, len(story.facts))
    history = "".join(quick_solution(rng, story)[:done]).strip() or "(nothing)"
    return [(prompts.CAREFUL.format(question=story.text, history=history), careful_step(story, done))]


def skills_chat(rng: random.Random, story: Story) -> Chat:
    """Several small exercises in a row."""
    chat: Chat = []
    for _ in range(rng.randint(4, 6)):
        kind = rng.random()
        a, operator, b = random_calculation(rng)
        work, result = longhand(a, operator, b)
        stated = result if rng.random() < 0.5 else near_miss(rng, result)
        if kind < 0.25:
            chat.append((f"Work out {a}{operator}{b}.", work))
        elif kind < 0.50:
            chat.append((prompts.COMPARE.format(left=result, right=stated), compare(result, stated) + "."))
        elif kind < 0.83:
            verdict = prompts.POSITIVE if stated == result else prompts.NEGATIVE
            compared = f"{result} and {stated}: {compare(result, stated)}."
            reply = f"{work}\nResult: {result}.\nThe line says {stated}.\n{compared}\n{verdict}"
            chat.append((f"Check {a}{operator}{b}={stated}.", reply))
        elif kind < 0.95:
            fact = rng.choice(story.facts)
            line, value = quick_step(rng, fact).strip(), fact.value
            if rng.random() < 0.3:
                value = story.values[-1]
                line = rng.choice(stories.ANSWERS).format(v=value)
            chat.append((prompts.RESULT.format(chunk=line), f"{value}."))
        else:
            parts = [s + rng.choice((" ", "\n", "\n\n")) for s in rng.sample(story.sentences, min(3, len(story.sentences)))]
            chat.append(
                (
                    "Put each sentence into <chunk> tags:\n" + "".join(parts),
                    "".join(f"{prompts.OPEN}{part}{prompts.CLOSE}" for part in parts),
                )
            )
    return chat


MIX = ((solve_chat, 0.37), (careful_chat, 0.38), (skills_chat, 0.25))


GROWTH = ((6_000, (1, 2)), (20_000, (1, 2, 3, 4)), (None, (1, 2, 3, 4, 5, 6)))  # up to which chat stories have how many steps


def chats(seed: int) -> Iterator[Chat]:
    """An endless, seeded stream of training chats; stories that a split may hold are left out."""
    rng = random.Random(seed)
    kinds, weights = zip(*MIX, strict=True)
    for number in itertools.count():
        lengths = next(steps for upto, steps in GROWTH if upto is None or number < upto)
        story = make_story(rng, rng.choice(lengths), stories.TOP)
        if stories.split_of(story.text) == "pretraining":
            yield rng.choices(kinds, weights)[0](rng, story)


# --- the tokenizer -----------------------------------------------------------------------------------------------------

_PIECES = r" ?[A-Za-z]+|[0-9]|\\boxed\{|</?chunk>|\n\n|\n|[^\n]"


def build_tokenizer(seed: int = 0, sample: int = 30_000) -> PreTrainedTokenizerFast:
    """A word-level tokenizer with single digits that decodes to exactly the text it read.

    The vocabulary is what `sample` chats and the prompts use, and all printable ASCII characters; other words are
    `<unk>`, which is the one thing that does not survive a round trip.
    """
    words: set[str] = set(map(chr, range(32, 127))) | {"\n", "\n\n", prompts.OPEN, prompts.CLOSE, "\\boxed{"}
    splitter = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    stream = chats(seed + 1)
    texts = [text for _ in range(sample) for turn in next(stream) for text in turn]
    texts += list(vars(prompts.ARITHMETIC).values()) + ["user assistant system (nothing)", prompts.POSITIVE, prompts.NEGATIVE]
    for text in texts:
        words.update(piece for piece, _ in splitter.pre_tokenize_str(text))
    words |= {w[1:] for w in words if len(w) > 2 and w[0] == " "}
    words |= {" " + w for w in words if w.isalpha() and len(w) > 1}
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"]
    vocabulary = {word: i for i, word in enumerate(special + sorted(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


# --- training ----------------------------------------------------------------------------------------------------------


def encode(tokenizer: PreTrainedTokenizerFast, chat: Chat) -> tuple[list[int], list[bool]]:
    """Token ids and, for each, whether it is learnt (the assistant's words and the end of its turn)."""
    ids: list[int] = []
    learnt: list[bool] = []
    for user, assistant in chat:
        ask = tokenizer.encode(f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n")
        reply = tokenizer.encode(f"{assistant}<|im_end|>")
        newline = tokenizer.encode("\n")
        ids += ask + reply + newline
        learnt += [False] * len(ask) + [True] * len(reply) + [False] * len(newline)
    return ids, learnt


def batches(tokenizer: PreTrainedTokenizerFast, knobs: Pretraining) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of packed rows: ids and targets, both [batch, row]; a target of -100 is not learnt.

    Whole chats are put one behind the other into rows of one fixed length (compiled code wants one shape); each goes into
    the first open row where it fits. A chat longer than a row is left out.
    """
    stream, pad = chats(knobs.seed), tokenizer.pad_token_id
    open_rows: list[tuple[list[int], list[int]]] = []
    full: list[tuple[list[int], list[int]]] = []
    while True:
        ids, learnt = encode(tokenizer, next(stream))
        if len(ids) > knobs.row:
            continue
        home = next((row for row in open_rows if len(row[0]) + len(ids) <= knobs.row), None)
        if home is None:
            home = ([], [])
            open_rows.append(home)
        home[0].extend(ids)
        home[1].extend(i if keep else -100 for i, keep in zip(ids, learnt, strict=True))
        if len(home[0]) > knobs.row - 24 or len(open_rows) > 48:
            fullest = max(open_rows, key=lambda row: len(row[0]))
            open_rows.remove(fullest)
            full.append(fullest)
        if len(full) == knobs.batch:
            yield (
                torch.tensor([ids + [pad] * (knobs.row - len(ids)) for ids, _ in full]),
                torch.tensor([targets + [-100] * (knobs.row - len(targets)) for _, targets in full]),
            )
            full = []


def build_model(knobs: Pretraining, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    torch.manual_seed(knobs.seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=knobs.hidden,
            num_hidden_layers=knobs.layers,
            num_attention_heads=knobs.heads,
            num_key_value_heads=knobs.kv_heads,
            intermediate_size=knobs.ffn,
            tie_word_embeddings=True,
            initializer_range=0.04,
            max_position_embeddings=2048,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def train(knobs: Pretraining) -> None:
    """Train the base and write model, tokenizer and `training.json` (knobs, curve, seconds) into `knobs.out`."""
    tokenizer = build_tokenizer(knobs.seed)
    model = build_model(knobs, tokenizer)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=knobs.lr, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=knobs.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]

    def loss_of(ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.model(ids, use_cache=False).last_hidden_state  # [batch, row, hidden]
            logits = model.lm_head(hidden[:, :-1])  # [batch, row-1, vocabulary]
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets[:, 1:].flatten())

    if knobs.compile:
        loss_of = torch.compile(loss_of)
    curve, begin, running, seen, step = [], time.time(), [], 0, 0
    for ids, targets in batches(tokenizer, knobs):
        scale = min(1.0, (step + 1) / knobs.warmup) * min(1.0, (1 - seen / knobs.tokens) / 0.8)  # flat, then down to zero
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = knobs.lr * max(scale, 0.003)
        loss = loss_of(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        running.append(loss.item())
        step, seen = step + 1, seen + ids.numel()
        finished = seen >= knobs.tokens
        if step % knobs.log_every == 0 or finished:
            seconds = time.time() - begin
            curve.append({"step": step, "tokens": seen, "loss": round(sum(running) / len(running), 4), "seconds": round(seconds)})
            running = []
            print(f"step {step}  tokens {seen / 1e6:.1f}M  loss {curve[-1]['loss']}  {seen / seconds:.0f} tokens/s", flush=True)
        if step % (10 * knobs.log_every) == 0 or finished:
            knobs.out.mkdir(parents=True, exist_ok=True)
            model.save_pretrained(knobs.out)
            tokenizer.save_pretrained(knobs.out)
            log = {
                "command": "python -m minisw.problems.arithmetic.pretraining",
                "knobs": {k: v for k, v in dataclasses.asdict(knobs).items() if k != "out"},
                "parameters": sum(p.numel() for p in model.parameters()),
                "finished": finished,
                "curve": curve,
            }
            (knobs.out / "training.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
        if finished:
            return


if __name__ == "__main__":
    import tyro

    train(tyro.cli(Pretraining))
