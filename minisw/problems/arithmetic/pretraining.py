"""The embedded base model: its tokenizer and its training from scratch.

    python -m minisw.problems.arithmetic.pretraining --out data/new-base     (about an hour on two CPU cores)

The text is the stream of `chats.py`. The model is a Llama with biases in the attention, 3.3 million parameters; the loss
counts only the assistant's tokens. Model and tokenizer load with `AutoModelForCausalLM` and `AutoTokenizer`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from minisw import prompts
from minisw.problems.arithmetic.chats import Chat, chats

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Pretraining:
    """Pretrain the embedded base. The defaults are those of the shipped model."""

    out: Path = Path("data/base")
    """Folder for model, tokenizer and training.json."""
    overwrite: bool = False
    """Replace the finished model in that folder."""
    tokens: int = 24_000_000
    """Tokens read in all, prompts and padding included."""
    row: int = 384
    """Tokens of a packed row."""
    batch: int = 32
    """Rows of a step."""
    compile: bool = True
    """Use torch.compile: on a CPU twice the tokens per second, after a minute of compiling."""
    lr: float = 3e-3
    """Peak learning rate of Muon (matrices; its updates are scaled to AdamW's size) and of AdamW (all else)."""
    warmup: int = 60
    """Steps until the peak learning rate."""
    hidden: int = 256
    """Hidden size."""
    layers: int = 4
    """Transformer layers."""
    heads: int = 4
    """Attention heads."""
    kv_heads: int = 2
    """Heads of keys and values."""
    ffn: int = 768
    """Hidden size of the MLPs."""
    seed: int = 0
    """Of weights and text."""
    log_every: int = 50
    """Steps between two lines of the log; the model is saved every ten lines."""


SHORTEST_ROW = 128  # tokens: few chats fit in a shorter row


def check(knobs: Pretraining) -> None:
    """Raises ValueError if a knob is impossible, or if `out` holds a finished model that `overwrite` does not give up."""
    for name, value in vars(knobs).items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and name != "seed"
        if is_number and not (math.isfinite(value) and value > 0):
            raise ValueError(f"--{name.replace('_', '-')} is {value}: it must be above 0")
    if knobs.row < SHORTEST_ROW:
        raise ValueError(f"--row is {knobs.row}: chats are longer, so it must be at least {SHORTEST_ROW}")
    if knobs.tokens < knobs.row * knobs.batch:
        raise ValueError(f"--tokens is {knobs.tokens}: one step takes {knobs.row * knobs.batch} (--row times --batch)")
    if knobs.hidden % (2 * knobs.heads) or knobs.heads % knobs.kv_heads:
        raise ValueError("--hidden must be a multiple of twice --heads, and --heads a multiple of --kv-heads")
    if knobs.out.exists() and not knobs.out.is_dir():
        raise ValueError(f"{knobs.out} is a file: give --out a folder")
    if (knobs.out / "model.safetensors").exists() and not knobs.overwrite and not _unfinished(knobs.out):
        raise ValueError(f"{knobs.out} holds a finished model: give --out another folder, or --overwrite to replace it")


def _unfinished(folder: Path) -> bool:
    """Whether the model in a folder comes from a pretraining that was interrupted."""
    try:
        return json.loads((folder / "training.json").read_text(encoding="utf-8"))["finished"] is False
    except (OSError, ValueError, KeyError, TypeError):
        return False


# --- tokenizer -----------------------------------------------------------------------------------------------------------

_PIECES = r" ?[A-Za-z]+|[0-9]|\\boxed\{|</?chunk>|\n\n|\n|[^\n]"


def build_tokenizer(seed: int = 0, sample: int = 30_000) -> PreTrainedTokenizerFast:
    """A word-level tokenizer with single digits, whose decoding gives back exactly the text that it encoded.

    The vocabulary holds the words of `sample` chats and of the prompts, and all printable ASCII characters. Other words
    become `<unk>`: only these do not survive the round trip.
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
    """Token ids of a chat and, for each, whether the loss counts it (the assistant's text and the end of its turn)."""
    ids: list[int] = []
    counted: list[bool] = []
    for user, assistant in chat:
        prompt = tokenizer.encode(f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n")
        reply = tokenizer.encode(f"{assistant}<|im_end|>")
        newline = tokenizer.encode("\n")
        ids += prompt + reply + newline
        counted += [False] * len(prompt) + [True] * len(reply) + [False] * len(newline)
    return ids, counted


def batches(tokenizer: PreTrainedTokenizerFast, knobs: Pretraining) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of packed rows: ids and targets, both [batch, row]; the loss ignores a target of -100.

    Rows have one fixed length, because compiled code is made for one shape. A chat goes whole into the first open row that
    has room for it. A chat longer than a row is left out.
    """
    stream, pad = chats(knobs.seed), tokenizer.pad_token_id
    open_rows: list[tuple[list[int], list[int]]] = []
    full: list[tuple[list[int], list[int]]] = []
    while True:
        ids, counted = encode(tokenizer, next(stream))
        if len(ids) > knobs.row:
            continue
        row = next((row for row in open_rows if len(row[0]) + len(ids) <= knobs.row), None)
        if row is None:
            row = ([], [])
            open_rows.append(row)
        row[0].extend(ids)
        row[1].extend(i if keep else -100 for i, keep in zip(ids, counted, strict=True))
        if len(row[0]) > knobs.row - 24 or len(open_rows) > 48:
            fullest = max(open_rows, key=lambda row: len(row[0]))
            open_rows.remove(fullest)
            full.append(fullest)
        if len(full) == knobs.batch:
            yield (
                torch.tensor([ids + [pad] * (knobs.row - len(ids)) for ids, _ in full]),
                torch.tensor([targets + [-100] * (knobs.row - len(targets)) for _, targets in full]),
            )
            full = []


def build_model(knobs: Pretraining, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A random model. Its type is Llama, whose tokenizer class AutoTokenizer reads from the folder.

    For other types (Qwen2) transformers 5 replaces the tokenizer of any folder by the family's own.
    """
    torch.manual_seed(knobs.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=knobs.hidden,
            num_hidden_layers=knobs.layers,
            num_attention_heads=knobs.heads,
            num_key_value_heads=knobs.kv_heads,
            intermediate_size=knobs.ffn,
            attention_bias=True,
            tie_word_embeddings=True,
            initializer_range=0.04,
            max_position_embeddings=2048,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def train(knobs: Pretraining) -> None:
    """Train the base; writes model, tokenizer and `training.json` (knobs, curve, seconds) into `knobs.out`.

    Raises ValueError (`check`) before anything is written.
    """
    check(knobs)
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
                "knobs": {k: v for k, v in dataclasses.asdict(knobs).items() if k not in ("out", "overwrite")},
                "parameters": sum(p.numel() for p in model.parameters()),
                "finished": finished,
                "curve": curve,
            }
            (knobs.out / "training.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
        if finished:
            return


def parse(arguments: Sequence[str]) -> Pretraining:
    """The command line as knobs. Raises ValueError, in one line, if it cannot be read."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
            return tyro.cli(Pretraining, args=list(arguments), prog="python -m minisw.problems.arithmetic.pretraining")
    except SystemExit as stop:
        if not stop.code:  # --help
            print(output.getvalue())
            raise
        words = " ".join("".join(c for c in output.getvalue() if c not in "│─╭╮╰╯").split())
        raise ValueError(f"cannot read the command line: {words[:200]}") from None


def main(arguments: Sequence[str] | None = None) -> None:
    try:
        train(parse(sys.argv[1:] if arguments is None else arguments))
    except (ValueError, OSError) as error:
        print(f"minisw: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
