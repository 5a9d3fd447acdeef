"""The records that cross file boundaries: Prompt, RolloutRequest, Sample, Group, and what a method
is: Reformulation, Method.

Nothing here is padded and nothing is a tensor: token ids are the truth, text is for graders and
people. The ids of a Sample are exactly those that the sampler consumed and produced, so that the
trainer's log-probs are taken on the same string of tokens (decoding and encoding again would change
it). Nothing of the project is imported.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

# What a group was asked: the question alone, or one of the prompts that help (section 3.2, D.2).
KINDS = ("plain", "bcq", "ncq", "hint", "prefix")


@dataclass(frozen=True)
class Prompt:
    """A tokenized prompt. `ids` hold ONE placeholder id per image or video until an engine expands
    it (processor.expand).

    images, video: PIL images, or what pictures.decode opens (paths, data URIs, bytes) when their
    pixels are needed.
    """

    ids: tuple[int, ...]
    images: tuple[Any, ...] = ()  # in the order of their placeholders
    video: tuple[Any, ...] = ()  # frames of at most one video
    video_fps: float = 1.0  # the timestamps that are written before the frames depend on it
    text: str = ""  # the user's turn as written, for servers that tokenize themselves
    thinking: bool = True  # whether the template may open <think>, for the same


@dataclass(frozen=True)
class RolloutRequest:
    """What is asked of the student, still as text: one prompt, to be answered group_size times."""

    kind: str  # one of KINDS
    origin: str  # "new" or "replay": where its question came from
    question: Any  # data.Question
    text: str  # the wording, without the closer
    prefix: tuple[int, ...] = ()  # token ids that the response is forced to begin with
    correct_candidates: tuple[str, ...] = ()  # what the prompt shows, for the audit and for people
    wrong_candidates: tuple[str, ...] = ()
    listed_answers: tuple[str, ...] = ()  # the answers that an NCQ prompt lists as wrong


@dataclass(frozen=True)
class Sample:
    """One response. len(response_ids) == len(sampler_logp); the end token, if the model wrote one,
    is inside both.
    """

    prompt: Prompt  # its ids as the sampler consumed them, placeholders expanded
    response_ids: tuple[int, ...]
    sampler_logp: tuple[float, ...]  # of each response token under the sampling policy, nats
    text: str  # the decoded response, without special tokens
    truncated: bool  # stopped by the length limit: a stored fact, never guessed from the last token
    group_id: int = -1  # samples with the same id share one baseline (Eq. 2)
    kind: str = "plain"  # one of KINDS, or "teacher"
    question_id: str = ""
    reward: float = 0.0


@dataclass(frozen=True)
class Group:
    """The samples of one request: what shares a baseline. A question's plain, BCQ and NCQ groups
    are three Groups.
    """

    id: int
    kind: str  # one of KINDS
    origin: str  # "new" or "replay"
    question: Any  # data.Question
    samples: tuple[Sample, ...]
    correct_candidates: tuple[str, ...] = ()
    wrong_candidates: tuple[str, ...] = ()
    listed_answers: tuple[str, ...] = ()

    @property
    def mean_reward(self):
        """r̄_x of the paper: the mean reward of the group."""
        return sum(s.reward for s in self.samples) / len(self.samples)

    @property
    def zero_advantage(self):
        """No spread, so no gradient. By max == min, never by a floating-point std."""
        rewards = [s.reward for s in self.samples]
        return max(rewards) == min(rewards)


class Reformulation(NamedTuple):
    """What a method makes of a step's plain groups (Algorithm 1, steps 2 to 5)."""

    requests: list[RolloutRequest]  # at most the cap, BCQs first
    teacher_answers: dict  # {id of each hard plain group: its correct Samples; None: not asked}
    too_long: int  # prompts that were left out because they fill the context window
    candidates_asked: int = 0  # responses that were to be shown
    candidates_usable: int = 0  # those whose summaries still carry their label (teacher.faithful)


class Method(NamedTuple):
    """What the methods differ in: train.py holds ZPPO's own pair, baselines.py the others'."""

    reformulate: Callable  # (plain, step, cfg, engine, teacher, world, rng, clock) -> Reformulation
    update: Callable  # (policy, optimizer, groups, advantages, cfg, world, rng, clock) -> metrics
