"""The policy as an object: it solves problems, continues solutions from any boundary, and proposes the next chunk.

One budget and one tokenisation hold for every use. The budget counts tokens of text, without tags (`PolicyKnobs`). Chunks are
always encoded one by one, because a tokenizer may merge characters across the tags of two neighbours (`</chunk><chunk>`
has the token `><` in many BPE vocabularies): SFT targets, prefixes of rollouts and prefixes of search then have the same
token ids, and every boundary falls between two tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from minisw.chunks import parse_chunks, tag
from minisw.engine.model import LanguageModel
from minisw.engine.requests import Completion, Request, Sampling
from minisw.engine.sampler import Sampler
from minisw.labels import values
from minisw.prompts import CLOSE, OPEN, Prompts
from minisw.recipe import PolicyKnobs
from minisw.records import AnnotatedSolution, Problem, Proposal, Solution
from minisw.verify.answers import final_answer, verify

POLICY = "policy"  # name of the adapter that has learnt to write chunks
Progress = Callable[[int], None] | None


class Policy:
    """A solver of problems: the base (`adapter` None), which writes whole texts, or the segmented policy, which writes chunks."""

    def __init__(self, lm: LanguageModel, sampler: Sampler, prompts: Prompts, knobs: PolicyKnobs, adapter: str | None = POLICY):
        self.lm, self.sampler, self.prompts, self.knobs, self.adapter = lm, sampler, prompts, knobs, adapter
        self.chunked = adapter is not None

    # --- tokens --------------------------------------------------------------------------------------------------------

    def prompt(self, question: str) -> list[int]:
        """Token ids of the request to solve a problem."""
        template = self.prompts.solve_chunked if self.chunked else self.prompts.solve
        return self.lm.chat(template.format(question=question))

    def encode_chunks(self, chunks: Sequence[str]) -> list[list[int]]:
        """Token ids of every chunk with its tags, encoded by itself."""
        return [self.lm.encode(tag([chunk])) for chunk in chunks]

    def sft_target(self, chunks: Sequence[str]) -> list[int]:
        """Token ids that SFT teaches as the reply: all chunks, then the end token."""
        return [i for ids in self.encode_chunks(chunks) for i in ids] + [self.lm.tokenizer.eos_token_id]

    def text_tokens(self, chunks: Sequence[str]) -> int:
        """Tokens of the text of `chunks`, without tags: what the budget counts."""
        return sum(len(self.lm.encode(chunk)) for chunk in chunks)

    @property
    def _sampling(self) -> Sampling:
        tags = self.knobs.max_chunks * len(self.lm.encode(tag([""]))) if self.chunked else 0
        return Sampling(self.knobs.max_text_tokens + tags, self.knobs.temperature)

    # --- solving -------------------------------------------------------------------------------------------------------

    def solve(
        self, problems: Sequence[Problem], count: int, seed: int, progress: Progress = None
    ) -> list[list[Solution]]:
        """`count` sampled solutions of every problem: [problems][count]."""
        requests = [Request(self.prompt(p.question), count) for p in problems]
        with self.lm.using(self.adapter):
            groups = self.sampler.generate(requests, self._sampling, seed, progress)
        return [[self._solution(p, c) for c in group] for p, group in zip(problems, groups, strict=True)]

    def _solution(self, problem: Problem, completion: Completion) -> Solution:
        text = self.lm.decode(completion.ids)
        chunks, well_formed = parse_chunks(text) if self.chunked else ([text], True)
        finished = completion.finished and self.within_budget(chunks)
        answer = final_answer("".join(chunks)) if finished else None
        return Solution(
            problem_id=problem.id,
            chunks=tuple(chunks),
            answer=answer,
            correct=verify(problem.answer, answer),
            well_formed=well_formed and finished,
            tokens=len(completion.ids),
            finished=finished,
        )

    def within_budget(self, chunks: Sequence[str]) -> bool:
        """Whether the text of `chunks` has at most `max_text_tokens` tokens."""
        return self.text_tokens(chunks) <= self.knobs.max_text_tokens

    # --- rollouts ------------------------------------------------------------------------------------------------------

    def annotate(
        self,
        solutions: Sequence[Solution],
        problems: dict[str, Problem],
        branches: int,
        seed: int,
        progress: Progress = None,
    ) -> list[AnnotatedSolution]:
        """Monte-Carlo values (StepWiser §3.2): `branches` completions from every boundary of every solution.

        `problems` maps problem id to problem. One prefill of a solution serves all its boundaries and branches.
        """
        ids = sorted({s.problem_id for s in solutions})
        prompts = {i: self.prompt(problems[i].question) for i in ids}
        requests = [Request(prompts[i], branches) for i in ids]
        for s in solutions:
            sequence, starts = list(prompts[s.problem_id]), []
            for chunk_ids in self.encode_chunks(s.chunks[:-1]):
                sequence = sequence + chunk_ids
                starts.append(len(sequence))
            requests.append(Request(sequence, branches, tuple(starts)) if starts else Request(sequence, 0))
        with self.lm.using(self.adapter):
            results = self.sampler.generate(requests, self._sampling, seed, progress)
        from_prompt = dict(zip(ids, results, strict=False))
        annotated = []
        for s, group in zip(solutions, results[len(ids) :], strict=True):
            hits = [tuple(self._hit(problems[s.problem_id], (), c) for c in from_prompt[s.problem_id])]
            for i in range(1, len(s.chunks)):
                completions = group[(i - 1) * branches : i * branches]
                hits.append(tuple(self._hit(problems[s.problem_id], s.chunks[:i], c) for c in completions))
            q = values(hits, s.correct)
            annotated.append(AnnotatedSolution(s.problem_id, s.chunks, s.correct, q, tuple(hits)))
        return annotated

    def _hit(self, problem: Problem, history: Sequence[str], completion: Completion) -> bool:
        """Whether a completion behind `history` ends with the right answer, within the budget."""
        text = self.lm.decode(completion.ids)
        chunks = parse_chunks(text)[0] if self.chunked else [text]
        right = completion.finished and verify(problem.answer, final_answer("".join(chunks)))
        return right and self.within_budget([*history, *chunks])

    # --- search --------------------------------------------------------------------------------------------------------

    def propose(self, questions: Sequence[str], paths: Sequence[Sequence[str]], seed: int) -> list[Proposal]:
        """One sampled next chunk for every path: `paths[i]` holds the chunks that solve `questions[i]` so far."""
        requests = [
            Request(self.prompt(question) + [i for ids in self.encode_chunks(chunks) for i in ids])
            for question, chunks in zip(questions, paths, strict=True)
        ]
        sampling = Sampling(self.knobs.max_chunk_tokens, self.knobs.temperature, stop=CLOSE)
        with self.lm.using(self.adapter):
            groups = self.sampler.generate(requests, sampling, seed)
        proposals = []
        for (completion,) in groups:
            raw = self.lm.decode(completion.ids)
            # a token may hold the closing tag and more: what follows the tag is dropped
            text = raw.split(CLOSE)[0].replace(OPEN, "")
            proposals.append(Proposal(text, CLOSE in raw, completion.finished, len(completion.ids)))
        return proposals
