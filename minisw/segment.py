"""Stage 1, StepWiser §3.1: the policy learns to cut its own reasoning into chunks of thought.

    sample solutions → keep right ones → teacher segmentations → keep those that rejoin exactly → SFT with LoRA

From here on the segmented policy is the policy. Next to it stand the two splits that need no training: at blank lines
and at newlines.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from minisw import stats
from minisw.answers import final_answer, verify
from minisw.logprobs import Example
from minisw.model import LanguageModel
from minisw.problems import World
from minisw.prompts import CLOSE, OPEN
from minisw.records import Problem, Solution, write_json
from minisw.rollout import Completion, Request, Sampler, Sampling
from minisw.runs import Run
from minisw.sft import train_sft

POLICY = "policy"
TAG_TOKENS = 60  # a chunked solution may be this much longer: its tags


# --- the format ------------------------------------------------------------------------------------------------------


def tag(chunks: Sequence[str]) -> str:
    """Chunks in tags: "<chunk>…</chunk><chunk>…</chunk>"."""
    return "".join(f"{OPEN}{chunk}{CLOSE}" for chunk in chunks)


_CHUNK = re.compile(re.escape(OPEN) + r"(.*?)" + re.escape(CLOSE) + r"(\s*)", re.S)


def parse(text: str) -> tuple[list[str], bool]:
    """Chunks of a tagged text, and whether it keeps the format: tags in pairs, and nothing outside them but white space
    and, behind the last chunk, the final answer (which then is a chunk of its own).

    A text that breaks the format comes back without its tags, split at blank lines.
    """
    chunks, at = [], 0
    while match := _CHUNK.match(text, at):
        if OPEN in match[1]:
            break
        chunks.append(match[1] + match[2])
        at = match.end()
    rest = text[at:]
    if chunks and OPEN not in rest and CLOSE not in rest:
        return chunks + ([rest] if rest.strip() else []), True
    return split_blank_lines(text.replace(OPEN, "").replace(CLOSE, "")), False


def split_blank_lines(text: str) -> list[str]:
    """The usual baseline: a step ends at a blank line. Joined, the parts are the text."""
    return [part for part in re.findall(r".+?(?:\n\s*\n|$)", text, re.S) if part]


def split_newlines(text: str) -> list[str]:
    """A step ends at a newline. Joined, the parts are the text."""
    return [part for part in re.findall(r".+?(?:\n\s*|$)", text, re.S) if part]


def rejoins(chunks: Sequence[str], text: str) -> bool:
    """The paper's filter: the rejoined chunks reproduce the response exactly."""
    return "".join(chunks) == text and all(chunk.strip() for chunk in chunks)


# --- sampling solutions ----------------------------------------------------------------------------------------------


def to_solution(lm: LanguageModel, problem: Problem, completion: Completion, chunked: bool) -> Solution:
    """A completion as a record; without tags (the base) the whole text is one chunk."""
    text = lm.decode(completion.ids)
    chunks, well_formed = parse(text) if chunked else ([text], True)
    answer = final_answer("".join(chunks))
    return Solution(
        problem.id,
        tuple(chunks),
        answer,
        verify(problem.answer, answer),
        well_formed and completion.finished,
        len(completion.ids),
    )


def sample_solutions(
    lm: LanguageModel,
    sampler: Sampler,
    world: World,
    problems: Sequence[Problem],
    count: int,
    seed: int,
    max_new_tokens: int,
    chunked: bool,
    progress=None,
) -> list[list[Solution]]:
    """`count` solutions of every problem at the world's temperature, by the active adapter."""
    template = world.prompts.solve_chunked if chunked else world.prompts.solve
    requests = [Request(lm.chat(template.format(question=p.question)), count) for p in problems]
    groups = sampler.generate(requests, Sampling(max_new_tokens, world.temperature), seed, progress)
    return [[to_solution(lm, p, c, chunked) for c in group] for p, group in zip(problems, groups, strict=True)]


# --- the teacher -----------------------------------------------------------------------------------------------------


def teach(
    lm: LanguageModel, sampler: Sampler, world: World, texts: Sequence[str], tries: int, source: str, seed: int
) -> list[list[str] | None]:
    """A segmentation of each text, None where the teacher gave none that rejoins; the same filter for every source.

    "rules": the world's own. "prompted": the active model copies the text and puts tags into it (the paper's way).
    "numbered": it names the paragraphs that begin a new chunk, for models too small to copy a text without a slip.
    """
    if source == "rules":
        if world.teacher is None:
            raise ValueError(f"the world {world.name!r} has no teacher rules: use --segment.teacher prompted or numbered")
        offers = [[world.teacher(text)] for text in texts]
    else:
        prompted, words = source == "prompted", world.prompts
        if not prompted and not words.segment_numbered:
            raise ValueError(f"the prompts of {world.name!r} have none for numbered paragraphs: use --segment.teacher prompted")
        shown = texts if prompted else ["".join(f"[{i}] {s}" for i, s in enumerate(units(t), 1)) for t in texts]
        template, begun = (words.segment, OPEN) if prompted else (words.segment_numbered, "1,")
        longest = 2 * max((len(lm.encode(text)) for text in texts), default=0) + 64 if prompted else 64
        requests = [Request(lm.chat(template.format(text=text), begun), tries) for text in shown]
        groups = sampler.generate(requests, Sampling(longest, world.temperature), seed)
        read = parse_exact if prompted else parse_numbered
        offers = [[read(begun + lm.decode(c.ids), text) for c in group] for group, text in zip(groups, texts, strict=True)]
    return [next((chunks for chunks in offer if rejoins(chunks, text)), None) for offer, text in zip(offers, texts, strict=True)]


def units(text: str) -> list[str]:
    """What a numbering teacher may group: paragraphs, a displayed formula with the one before it; lines where there are few."""
    paragraphs: list[str] = []
    for part in split_blank_lines(text):
        if paragraphs and part.lstrip().startswith("\\["):
            paragraphs[-1] += part
        else:
            paragraphs.append(part)
    return paragraphs if len(paragraphs) > 3 else split_newlines(text)


def parse_numbered(reply: str, text: str) -> list[str]:
    """The text cut before the units whose numbers the reply names.

    Empty where they are not rising numbers of its units, or where, of four units or more, one chunk takes over half of the
    text: a small model likes to count "1, 2, 3" and leave the rest in one piece.
    """
    parts = units(text)
    starts = [int(number) for number in re.findall(r"\d+", reply)]
    if not starts or starts[0] != 1 or starts != sorted(set(starts)) or starts[-1] > len(parts):
        return []
    chunks = ["".join(parts[a - 1 : b - 1]) for a, b in zip(starts, [*starts[1:], len(parts) + 1], strict=True)]
    return [] if len(parts) > 3 and 2 * max(map(len, chunks)) > len(text) else chunks


def parse_exact(reply: str, text: str) -> list[str]:
    """The text cut where a teacher's reply cuts it. Empty where the form is broken or the words are not those of the text.

    White space is not the teacher's to change: models drop line breaks beside tags. The cut goes behind the same number of
    other characters, and the white space there to the chunk before it, so that the chunks join to the text exactly.
    """
    chunks, well_formed = parse(reply.strip())
    sizes = [len("".join(chunk.split())) for chunk in chunks]
    if not well_formed or "".join("".join(chunks).split()) != "".join(text.split()) or 0 in sizes:
        return []
    inked = [i for i, c in enumerate(text) if not c.isspace()]
    starts = [0] + [inked[end] for end in itertools.accumulate(sizes[:-1])]
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


# --- the stage -------------------------------------------------------------------------------------------------------


def run_stage(run: Run) -> None:
    """Writes segment/: base and policy solutions on test, the SFT curve, metrics.json and the adapter `policy`."""
    knobs, world, lm = run.recipe.segment, run.world, run.lm
    folder = run.folder / "segment"
    test = world.load("test", run.recipe.problems.test, run.seed)
    train = world.load("train", run.recipe.problems.train, run.seed)

    with lm.using(None):
        base = run.records(
            folder / "base-test.jsonl",
            Solution,
            "base solves the test problems",
            len(test),
            lambda tick: flat(
                sample_solutions(lm, run.sampler, world, test, 1, run.seed_of("base-test"), knobs.max_new_tokens, False, tick)
            ),
        )
        shots = run.records(
            folder / "base-train.jsonl",
            Solution,
            "base solves training problems",
            len(train) * knobs.samples,
            lambda tick: flat(
                sample_solutions(
                    lm, run.sampler, world, train, knobs.samples, run.seed_of("base-train"), knobs.max_new_tokens, False, tick
                )
            ),
        )
        right: dict[str, list[Solution]] = {}
        for solution in shots:
            if solution.correct and len(right.setdefault(solution.problem_id, [])) < knobs.keep:
                right[solution.problem_id].append(solution)
        chosen = [s for group in right.values() for s in group]

        def cut(tick) -> list[Solution]:
            texts = [s.text for s in chosen]
            cuts = teach(lm, run.sampler, world, texts, knobs.tries, knobs.teacher, run.seed_of("teacher"))
            return [
                Solution(s.problem_id, tuple(chunks), s.answer, s.correct, True, s.tokens)
                for s, chunks in zip(chosen, cuts, strict=True)
                if chunks
            ]

        taught = run.records(folder / "taught.jsonl", Solution, "teacher cuts them into chunks", len(chosen), cut)
    if not taught:
        raise ValueError(
            "no segmentation survived the filter (all wrong, or none rejoined): raise --problems.train or --segment.tries"
        )

    question = {p.id: p.question for p in train}
    end = [lm.tokenizer.eos_token_id]
    examples = [
        Example(lm.chat(world.prompts.solve_chunked.format(question=question[s.problem_id])), lm.encode(tag(s.chunks)) + end)
        for s in taught
    ]
    curve = run.train(
        POLICY,
        folder,
        lambda checkpoint, tick: train_sft(
            lm,
            POLICY,
            examples,
            knobs.training,
            run.recipe.model.micro_tokens,
            run.seed_of("segment-sft"),
            checkpoint,
            progress=tick,
        ),
        knobs.training.epochs * (len(examples) // min(knobs.training.batch, len(examples))),
        "teaching the policy to segment",
    )

    with lm.using(POLICY):
        policy = run.records(
            folder / "policy-test.jsonl",
            Solution,
            "segmented policy solves them",
            len(test),
            lambda tick: flat(
                sample_solutions(
                    lm, run.sampler, world, test, 1, run.seed_of("policy-test"), knobs.max_new_tokens + TAG_TOKENS, True, tick
                )
            ),
        )
    kept = [s for s in policy if s.well_formed]
    chunks = stats.mean([len(s.chunks) for s in kept])
    # the same solutions cut both ways, so that only the cut differs
    blank = stats.mean([len(split_blank_lines(s.text)) for s in kept])
    metrics = {
        "base": {
            **_accuracy(base),
            "tokens": stats.mean([s.tokens for s in base]),
            "blank_line_chunks": stats.mean([len(split_blank_lines(s.text)) for s in base]),
            "newline_chunks": stats.mean([len(split_newlines(s.text)) for s in base]),
        },
        "policy": {
            **_accuracy(policy),
            "tokens": stats.mean([s.tokens for s in policy]),
            "chunks": chunks,
            "blank_line_chunks": blank,
            "newline_chunks": stats.mean([len(split_newlines(s.text)) for s in kept]),
            "format_kept": stats.mean([s.well_formed for s in policy]),
        },
        "ratio": chunks / blank if blank else None,
        "ratio_interval": stats.bootstrap([(len(s.chunks), len(split_blank_lines(s.text))) for s in kept], _ratio, run.seed),
        "difference": stats.mean([s.correct for s in policy]) - stats.mean([s.correct for s in base]),
        "difference_interval": stats.bootstrap(
            [(int(a.correct), int(b.correct)) for a, b in zip(policy, base, strict=True)],
            lambda rows: stats.mean([a - b for a, b in rows]),
            run.seed,
        ),
        "taught": len(taught),
        "sampled": len(shots),
        "right": len(chosen),
        "final_loss": curve[-1]["loss"] if curve else None,
    }
    if world.mistake_kind:
        by_id = {p.id: p for p in test}
        metrics["mistakes"] = mistakes(world, by_id, policy)
    write_json(folder / "metrics.json", metrics)


def _accuracy(solutions: Sequence[Solution]) -> dict:
    right = sum(s.correct for s in solutions)
    return {"accuracy": right / len(solutions), "interval": stats.wilson(right, len(solutions))}


def _ratio(rows: Sequence[tuple[int, int]]) -> float:
    return sum(a for a, _ in rows) / max(1, sum(b for _, b in rows))


def mistakes(world: World, problems: dict[str, Problem], solutions: Sequence[Solution]) -> dict[str, int]:
    """What the first mistakes are, by kind (only where the world has exact rules)."""
    kinds: dict[str, int] = {}
    for s in solutions:
        labels = world.exact_labels(problems[s.problem_id], s.chunks)
        if False in labels:
            kind = world.mistake_kind(problems[s.problem_id], s.chunks, labels.index(False))
            kinds[kind] = kinds.get(kind, 0) + 1
    return dict(sorted(kinds.items(), key=lambda item: -item[1]))


def flat(groups: Sequence[Sequence]) -> list:
    return [item for group in groups for item in group]
