"""The records that cross file boundaries: a Prompt, and a Sample (one response to it).

Nothing here is padded and nothing is a tensor: token ids are the truth, text is for graders and
people. The ids of a Sample are exactly those the sampler consumed and produced, so that the
trainer's log-probs are taken on the same string of tokens (decoding and encoding again would change
it).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

KINDS = (
    "plain",
    "bcq",
    "ncq",
    "hint",
    "prefix",
)  # what a group was asked: the question alone, or one of the aided prompts


@dataclass(frozen=True)
class Prompt:
    """A tokenized prompt. `ids` hold ONE placeholder id per image or video until a sampler expands
    it (rollout.py).
    """

    ids: tuple[int, ...]
    images: tuple[Any, ...] = ()  # decoded PIL images, in the order of their placeholders
    video: tuple[Any, ...] = ()  # PIL frames of at most one video
    video_fps: float = (
        1.0  # frames a second; the timestamps that are written before the frames depend on it
    )
    text: str = (
        ""  # the user's turn as written, for servers that tokenize themselves (--teacher-url)
    )
    thinking: bool = True  # whether the template may open <think>, for the same


class Ask(NamedTuple):
    """What is asked of the student: one prompt, still as text."""

    origin: str  # "new" or "replay": where its question came from
    question: Any  # data.Question
    text: str  # the wording, without the closer
    prefix: tuple[
        int, ...
    ] = ()  # token ids that the response is forced to begin with (the prefix baseline)


@dataclass(frozen=True)
class Sample:
    """One response. `len(response_ids) == len(sampler_logp)`; the end token, if the model wrote
    one, is inside both.
    """

    prompt: Prompt  # its ids as the sampler consumed them, placeholders expanded
    response_ids: tuple[int, ...]
    sampler_logp: tuple[
        float, ...
    ]  # log-prob of each response token under the sampling policy, nats
    text: str  # the decoded response, without special tokens
    truncated: bool  # stopped by the length limit: a stored fact, never guessed from the last token
    group_id: int = -1  # samples with the same id share one baseline (Eq. 2)
    kind: str = "plain"  # one of KINDS
    question_id: str = ""
    policy_step: int = -1  # rollout step whose weights sampled it
    reward: float = 0.0


@dataclass(frozen=True)
class Group:
    """The n samples of one prompt: what shares a baseline. A question's plain, BCQ and NCQ groups
    are three Groups.
    """

    id: int
    kind: str  # one of KINDS
    origin: str  # "new" or "replay": where its question came from
    question: Any  # data.Question
    samples: tuple[Sample, ...]
    right: tuple[
        str, ...
    ] = ()  # the candidates that its prompt shows, for the audit and for people
    wrong: tuple[str, ...] = ()
    listed: tuple[str, ...] = ()  # the answers that an NCQ prompt lists as wrong

    @property
    def mean(self):
        """Mean reward of the group."""
        return sum(s.reward for s in self.samples) / len(self.samples)

    @property
    def flat(self):
        """No spread, so no advantage and no gradient. By max == min, never by a floating-point std."""
        rewards = [s.reward for s in self.samples]
        return max(rewards) == min(rewards)
