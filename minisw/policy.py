"""The policy: it solves problems, completes solutions from any boundary (rollouts), and proposes the next chunk (search).

Two rules hold for every use:

- One budget. A solution may have `PolicyKnobs.max_text_tokens` tokens of text, counted without tags, and `max_chunks` chunks.
  A solution that is longer, or that does not end by itself, is cut off: it has no answer and is not correct. The base, the
  segmented policy, rollouts and search are compared under this budget.
- One tokenisation of chunks. Chunks are encoded one by one (`Policy.encode_chunks`), because a tokenizer may merge characters
  across the tags of two neighbours: in `</chunk><chunk>`, many BPE vocabularies have one token `><`. SFT targets and the
  prefixes of rollouts and search therefore have the same token ids, and every boundary is between two tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minisw.chunks import parse_chunks, tag
from minisw.engine.model import LanguageModel
from minisw.engine.requests import Completion, Request, Sampling
from minisw.engine.sampler import Sampler
from minisw.labels import values
from minisw.prompts import CLOSE, OPEN, Prompts
from minisw.recipe import PolicyKnobs
from minisw.records import AnnotatedSolution, Problem, Proposal, Solution
from minisw.verify.answers import final_answer, verify

POLICY = "policy"  # name of the adapter that learned to write chunks (stage 1)
Progress = Callable[[int], None] | None  # called with the number of completions that were just finished


@dataclass(frozen=True)
class Outcome:
    """A completion, read together with the chunks before it: its own chunks, format, ending and answer."""

    chunks: tuple[str, ...]
    well_formed: bool
    finished: bool  # ended by itself within the budget
    answer: str | None  # None if it was cut off
    correct: bool


class Policy:
    """A solver of problems: the segmented policy, which writes chunks, or the base (`adapter` None), which writes plain text."""

    def __init__(self, lm: LanguageModel, sampler: Sampler, prompts: Prompts, knobs: PolicyKnobs, adapter: str | None = POLICY):
        self.lm, self.sampler, self.prompts, self.knobs, self.adapter = lm, sampler, prompts, knobs, adapter
        self.chunked = adapter is not None

    # --- tokens --------------------------------------------------------------------------------------------------------

    def prompt(self, question: str) -> list[int]:
        """Token ids of the request to solve a problem; before it the base, which has learnt no format, is shown solutions."""
        template = self.prompts.solve_chunked if self.chunked else self.prompts.solve
        return self.lm.chat(template.format(question=question), earlier=() if self.chunked else self.prompts.solve_examples)

    def encode_chunks(self, chunks: Sequence[str]) -> list[list[int]]:
        """Token ids of each chunk, encoded separately; with its tags if the policy writes chunks."""
        return [self.lm.encode(tag([chunk]) if self.chunked else chunk) for chunk in chunks]

    def path_ids(self, question: str, chunks: Sequence[str]) -> list[int]:
        """Token ids of the prompt and the chunks of a partial solution: the prefix that rollouts and search continue."""
        return self.prompt(question) + [i for ids in self.encode_chunks(chunks) for i in ids]

    def sft_target(self, chunks: Sequence[str]) -> list[int]:
        """Token ids that SFT teaches as the reply: all chunks, then the end token."""
        return [i for ids in self.encode_chunks(chunks) for i in ids] + [self.lm.tokenizer.eos_token_id]

    # --- the budget ----------------------------------------------------------------------------------------------------

    def within_budget(self, chunks: Sequence[str]) -> bool:
        """Whether a solution with these chunks has at most `max_chunks` chunks and `max_text_tokens` tokens of text.

        The tokens are those of the joined text, so that the segmentation does not change the count.
        """
        tokens = len(self.lm.encode("".join(chunks)))
        return tokens <= self.knobs.max_text_tokens and len(chunks) <= self.knobs.max_chunks

    @property
    def sampling(self) -> Sampling:
        """How whole solutions are sampled: enough tokens for the longest text within the budget, its tags and the end token."""
        tags = len(self.lm.encode(OPEN)) + len(self.lm.encode(CLOSE)) if self.chunked else 0
        return Sampling(self.knobs.max_text_tokens + self.knobs.max_chunks * tags + 1, self.knobs.temperature)

    def read(self, problem: Problem, completion: Completion, history: Sequence[str] = ()) -> Outcome:
        """The outcome of a completion that continues the chunks `history` of a solution.

        A text without the chunk format counts as one chunk of the budget.
        """
        text = self.lm.decode(completion.ids)
        chunks, well_formed = parse_chunks(text) if self.chunked else ([text], True)
        spent = chunks if well_formed else ["".join(chunks)]
        finished = completion.finished and self.within_budget([*history, *spent])
        answer = final_answer("".join(chunks)) if finished else None
        return Outcome(tuple(chunks), well_formed and finished, finished, answer, verify(problem.answer, answer))

    # --- solving -------------------------------------------------------------------------------------------------------

    def solve(self, problems: Sequence[Problem], count: int, seed: int, progress: Progress = None) -> list[list[Solution]]:
        """`count` sampled solutions of every problem: [problems][count]."""
        requests = [Request(self.prompt(p.question), count) for p in problems]
        with self.lm.using(self.adapter):
            groups = self.sampler.generate(requests, self.sampling, seed, progress)
        return [
            [self._solution(p, c, 0 if number else len(request.ids)) for number, c in enumerate(group)]
            for p, request, group in zip(problems, requests, groups, strict=True)
        ]

    def _solution(
        self, problem: Problem, completion: Completion, prompt_tokens: int, history: tuple[str, ...] = ()
    ) -> Solution:
        """The solution that consists of the chunks `history` and a completion that continues them."""
        outcome = self.read(problem, completion, history)
        return Solution(
            problem_id=problem.id,
            chunks=(*history, *outcome.chunks),
            answer=outcome.answer,
            correct=outcome.correct,
            well_formed=outcome.well_formed,
            tokens=len(completion.ids),
            finished=outcome.finished,
            prompt_tokens=prompt_tokens,
        )

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

        `problems` maps problem id to problem. Solutions of one problem share the completions of its prompt (Q_0). A single
        prefill of a solution serves all its boundaries and branches.
        """
        ids = sorted({s.problem_id for s in solutions})
        requests = [Request(self.prompt(problems[i].question), branches) for i in ids]
        requests += [self._boundaries(problems[s.problem_id], s.chunks, branches) for s in solutions]
        with self.lm.using(self.adapter):
            results = self.sampler.generate(requests, self.sampling, seed, progress)
        from_prompt = dict(zip(ids, results[: len(ids)], strict=True))
        annotated = []
        for s, completions in zip(solutions, results[len(ids) :], strict=True):
            problem = problems[s.problem_id]
            groups = [from_prompt[s.problem_id]]  # groups[i]: the completions of boundary i
            groups += [completions[i : i + branches] for i in range(0, len(completions), branches)]
            hits = tuple(
                tuple(self.read(problem, c, s.chunks[:boundary]).correct for c in group) for boundary, group in enumerate(groups)
            )
            annotated.append(AnnotatedSolution(s.problem_id, s.chunks, s.correct, values(hits, s.correct), hits))
        return annotated

    def _boundaries(self, problem: Problem, chunks: Sequence[str], branches: int) -> Request:
        """A request for `branches` completions after each chunk but the last (none for a solution of one chunk)."""
        ids, starts = list(self.prompt(problem.question)), []
        for chunk_ids in self.encode_chunks(chunks[:-1]):
            ids += chunk_ids
            starts.append(len(ids))
        return Request(ids, branches, tuple(starts)) if starts else Request(ids, 0)

    # --- search --------------------------------------------------------------------------------------------------------

    def propose(
        self, questions: Sequence[str], paths: Sequence[Sequence[str]], seed: int, temperature: float | None = None
    ) -> list[Proposal]:
        """One sampled next chunk for every path: `paths[i]` holds the chunks of the solution of `questions[i]` so far.

        A chunk of more than `max_chunk_tokens` tokens (tags included) is cut off: `finished` is False. `temperature` None is
        that of the knobs.
        """
        return [group[0] for group in self.propose_several(questions, paths, 1, seed, temperature)]

    def propose_several(
        self,
        questions: Sequence[str],
        paths: Sequence[Sequence[str]],
        count: int,
        seed: int,
        temperature: float | None = None,
    ) -> list[list[Proposal]]:
        """`count` sampled next chunks for every path: [paths][count]; see `propose`. A path is prefilled once for all of them."""
        requests = [Request(self.path_ids(question, chunks), count) for question, chunks in zip(questions, paths, strict=True)]
        warmth = self.knobs.temperature if temperature is None else temperature
        sampling = Sampling(self.knobs.max_chunk_tokens, warmth, stop=CLOSE)
        with self.lm.using(self.adapter):
            groups = self.sampler.generate(requests, sampling, seed)
        return [
            [self._proposal(completion, 0 if number else len(request.ids)) for number, completion in enumerate(group)]
            for request, group in zip(requests, groups, strict=True)
        ]

    def _proposal(self, completion: Completion, prompt_tokens: int) -> Proposal:
        raw = self.lm.decode(completion.ids)
        # the last token may hold more than the end of the closing tag (`><`); what follows the tag is dropped
        text = raw.split(CLOSE)[0].replace(OPEN, "")
        return Proposal(text, CLOSE in raw, completion.finished, len(completion.ids), prompt_tokens)

    @property
    def rewrites(self) -> bool:
        """Whether `refine` writes whole solutions; if there is no request for that, it continues the old ones."""
        return bool(self.prompts.refine)

    def refine(
        self, problems: Sequence[Problem], solutions: Sequence[Solution], criticism: Sequence[tuple[int, str]], seed: int
    ) -> list[Solution]:
        """One new solution of every problem, given an old one and `criticism` of it: (index of its bad chunk, analysis).

        With a `refine` template the policy is shown the old solution and the analysis, and writes a whole solution. Without
        one it cannot read them: it continues the old solution from before the bad chunk. `tokens` of the result are those
        sampled now.
        """
        requests, kept = [], []
        for problem, old, (bad, analysis) in zip(problems, solutions, criticism, strict=True):
            kept.append(() if self.rewrites else old.chunks[:bad])
            if self.rewrites:
                requests.append(Request(self._refine_prompt(problem.question, old, bad, analysis)))
            else:
                requests.append(Request(self.path_ids(problem.question, kept[-1])))
        with self.lm.using(self.adapter):
            groups = self.sampler.generate(requests, self.sampling, seed)
        return [
            self._solution(problem, completion, len(request.ids), history)
            for problem, (completion,), request, history in zip(problems, groups, requests, kept, strict=True)
        ]

    def _refine_prompt(self, question: str, old: Solution, bad: int, analysis: str) -> list[int]:
        solve = self.prompts.solve_chunked if self.chunked else self.prompts.solve
        message = self.prompts.refine.format(
            solve=solve.format(question=question),
            solution=old.text.strip(),
            chunk=old.chunks[bad].strip(),
            analysis=analysis.strip(),
        )
        return self.lm.chat(message)
