"""The embedded base model: its tokenizer and its training from scratch.

    python -m minisw.problems.arithmetic.pretraining --out data/new-base     (under two hours on two CPU cores)

It reads the two streams of `chats.py` one after the other, each with a learning-rate schedule of its own; the model after the
first one is kept in `first/`, from which `--start` goes on. The model is a Llama with biases in the attention, 3.3 million
parameters; the loss counts only the assistant's tokens. It loads with `AutoModelForCausalLM` and `AutoTokenizer`.
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
from safetensors import SafetensorError
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from minisw import prompts
from minisw.cpu import fast_bf16
from minisw.problems.arithmetic.chats import FIRST, SECOND, Chat, Stream, chats, with_habits
from minisw.problems.arithmetic.comments import HABITS
from minisw.recipe import embedded_folder

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
    start: Path | None = None
    """Folder of a model that has read the first stream (`first/` of another pretraining): read only the second one."""
    tokens: int = 24_000_000
    """Tokens of the first stream, prompts and padding included."""
    second_tokens: int = 13_000_000
    """Tokens of the second stream, which has comments on steps."""
    glance: float = HABITS["glance"]
    """Share of glances among the comments (minisw/problems/arithmetic/comments.py)."""
    equation: float = HABITS["equation"]
    """Share of comments that check the step's equations."""
    redo: float = HABITS["redo"]
    """Share of comments that do the step anew."""
    row: int = 512
    """Tokens of a packed row; longer chats are left out."""
    batch: int = 24
    """Rows of a step."""
    compile: bool = False
    """Use torch.compile, which takes a minute: twice the tokens per second on CPUs with bf16, no gain on others."""
    lr: float = 3e-3
    """Peak learning rate of Muon (matrices; its updates are scaled to AdamW's size) and of AdamW (all else)."""
    second_lr: float = 2e-3
    """Peak learning rate on the second stream."""
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
        lowest_fits = is_number and (value >= 0 if name in HABITS else value > 0)
        if is_number and not (math.isfinite(value) and lowest_fits):
            bound = "not be negative" if name in HABITS else "be above 0"
            raise ValueError(f"--{name.replace('_', '-')} is {value}: it must {bound}")
    if not any(getattr(knobs, name) for name in HABITS):
        raise ValueError("--glance, --equation and --redo are all 0: give at least one habit a share")
    if knobs.row < SHORTEST_ROW:
        raise ValueError(f"--row is {knobs.row}: chats are longer, so it must be at least {SHORTEST_ROW}")
    for name in ("tokens", "second_tokens"):
        if getattr(knobs, name) < knobs.row * knobs.batch:
            option = f"--{name.replace('_', '-')} is {getattr(knobs, name)}"
            raise ValueError(f"{option}: one step takes {knobs.row * knobs.batch} (--row times --batch)")
    if knobs.hidden % (2 * knobs.heads) or knobs.heads % knobs.kv_heads:
        raise ValueError("--hidden must be a multiple of twice --heads, and --heads a multiple of --kv-heads")
    if knobs.out.exists() and not knobs.out.is_dir():
        raise ValueError(f"{knobs.out} is a file: give --out a folder")
    if (knobs.out / "model.safetensors").exists() and not knobs.overwrite and not _unfinished(knobs.out):
        raise ValueError(f"{knobs.out} holds a finished model: give --out another folder, or --overwrite to replace it")


def first_stream_model() -> Path:
    """The folder of the shipped model after the first stream. Raises ValueError if it is missing."""
    folder = embedded_folder() / "first"
    if not (folder / "model.safetensors").is_file():
        raise ValueError(f"{folder} is missing: get a complete checkout, or pretrain the base anew")
    return folder


def finished(folder: Path) -> bool:
    """Whether a folder holds a model that has read both streams."""
    return (folder / "model.safetensors").exists() and not _unfinished(folder)


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
    streams = chats(seed + 1, FIRST), chats(seed + 1, SECOND)
    texts = [text for stream in streams for _ in range(sample) for turn in next(stream) for text in turn]
    texts += [text for text in vars(prompts.ARITHMETIC).values() if isinstance(text, str)]  # its examples are empty tuples
    texts += ["user assistant system (nothing)", prompts.POSITIVE, prompts.NEGATIVE]
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


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon in the matrices' own type: torch's computes in bf16, which takes 100 times as long on many CPUs.

    Momentum 0.95 (Nesterov), five Newton-Schulz steps with Jordan's coefficients (2024), updates of AdamW's size (Moonlight).
    """

    def __init__(self, matrices: list[torch.nn.Parameter], lr: float, weight_decay: float):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 0.05)
                update = orthogonal(p.grad.lerp(momentum, 0.95)) * 0.2 * max(p.shape) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * update)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix with the singular vectors of `matrix` and singular values of about 1 (0.7 to 1.2)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


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


def batches(
    tokenizer: PreTrainedTokenizerFast, knobs: Pretraining, text: Stream = FIRST
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Batches of packed rows: ids, targets and positions, all [batch, row]; the loss ignores a target of -100.

    A chat goes whole into the first open row that has room for it, so the first chat of a row tends to be a long one.
    Positions start anew with each chat, from which the model knows that chats do not see each other: otherwise it would learn
    that a chat without another one before it has a long reply.
    """
    stream, pad = chats(knobs.seed, text), tokenizer.pad_token_id
    open_rows: list[tuple[list[int], list[int], list[int]]] = []  # ids, targets, positions
    full: list[tuple[list[int], list[int], list[int]]] = []
    while True:
        ids, counted = encode(tokenizer, next(stream))
        if len(ids) > knobs.row:
            continue
        row = next((row for row in open_rows if len(row[0]) + len(ids) <= knobs.row), None)
        if row is None:
            row = ([], [], [])
            open_rows.append(row)
        row[0].extend(ids)
        row[1].extend(i if keep else -100 for i, keep in zip(ids, counted, strict=True))
        row[2].extend(range(len(ids)))
        if len(row[0]) > knobs.row - 24 or len(open_rows) > 48:
            fullest = max(open_rows, key=lambda row: len(row[0]))
            open_rows.remove(fullest)
            full.append(fullest)
        if len(full) == knobs.batch:
            padding = [knobs.row - len(ids) for ids, _, _ in full]
            yield (
                torch.tensor([ids + [pad] * n for (ids, _, _), n in zip(full, padding, strict=True)]),
                torch.tensor([targets + [-100] * n for (_, targets, _), n in zip(full, padding, strict=True)]),
                torch.tensor([positions + list(range(n)) for (_, _, positions), n in zip(full, padding, strict=True)]),
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
    """Train the base; writes model, tokenizer and `training.json` (knobs, curves, seconds) into `knobs.out`.

    Raises ValueError (`check`) before anything is written.
    """
    check(knobs)
    tokenizer = build_tokenizer(knobs.seed)
    curves: dict[str, list[dict]] = {}
    if knobs.start:
        model = start_model(knobs.start, tokenizer)
    else:
        model = build_model(knobs, tokenizer)
        read_stream(model, tokenizer, knobs, FIRST, curves)
        model.save_pretrained(knobs.out / "first")
        tokenizer.save_pretrained(knobs.out / "first")
    habits = {"glance": knobs.glance, "equation": knobs.equation, "redo": knobs.redo}
    read_stream(model, tokenizer, knobs, with_habits(SECOND, habits), curves)


def start_model(folder: Path, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The model to go on from, in fp32. Raises ValueError if the folder holds none, or one with another vocabulary."""
    try:
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        known = PreTrainedTokenizerFast.from_pretrained(folder).get_vocab()
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"--start {folder} holds no model to go on from: {str(error).splitlines()[0]}") from None
    if known != tokenizer.get_vocab():
        raise ValueError(f"--start {folder} has another vocabulary than the present text: train it anew, without --start")
    return model


def read_stream(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, knobs: Pretraining, text: Stream, curves: dict[str, list[dict]]
) -> None:
    """Train the model on one stream; `curves` gets its curve. Model and log are saved as it goes on."""
    name, tokens, peak = ("first", knobs.tokens, knobs.lr) if text is FIRST else ("second", knobs.second_tokens, knobs.second_lr)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        Muon(matrices, lr=peak, weight_decay=0.02),
        torch.optim.AdamW(rest, lr=peak, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    bf16 = fast_bf16()

    def loss_of(ids: torch.Tensor, targets: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            hidden = model.model(ids, position_ids=positions, use_cache=False).last_hidden_state  # [batch, row, hidden]
            logits = model.lm_head(hidden[:, :-1])  # [batch, row-1, vocabulary]
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets[:, 1:].flatten())

    if knobs.compile:
        loss_of = torch.compile(loss_of)
    model.train()
    curve, begin, running, seen, step = curves.setdefault(name, []), time.time(), [], 0, 0
    for ids, targets, positions in batches(tokenizer, knobs, text):
        scale = min(1.0, (step + 1) / knobs.warmup) * min(1.0, (1 - seen / tokens) / 0.8)  # flat, then down to zero
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * max(scale, 0.003)
        loss = loss_of(ids, targets, positions)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        running.append(loss.item())
        step, seen = step + 1, seen + ids.numel()
        ended = seen >= tokens
        if step % knobs.log_every == 0 or ended:
            seconds = time.time() - begin
            curve.append({"step": step, "tokens": seen, "loss": round(sum(running) / len(running), 4), "seconds": round(seconds)})
            running = []
            print(
                f"{name} stream, step {step}  tokens {seen / 1e6:.1f}M  loss {curve[-1]['loss']}  {seen / seconds:.0f} tokens/s",
                flush=True,
            )
        if step % (10 * knobs.log_every) == 0 or ended:
            save(model, tokenizer, knobs, curves, finished=ended and name == "second")
        if ended:
            return


def save(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, knobs: Pretraining, curves: dict[str, list[dict]], finished: bool
) -> None:
    """Write model, tokenizer and training.json into `knobs.out`."""
    knobs.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(knobs.out)
    tokenizer.save_pretrained(knobs.out)
    values = dataclasses.asdict(knobs)
    log = {
        "command": "python -m minisw.problems.arithmetic.pretraining",
        "knobs": {k: v for k, v in values.items() if k not in ("out", "overwrite", "start")},
        "started_from": "the model after the first stream" if knobs.start else None,
        "parameters": sum(p.numel() for p in model.parameters()),
        "finished": finished,
        "curves": curves,
    }
    (knobs.out / "training.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")


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
