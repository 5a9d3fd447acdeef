"""The prompt replay buffer: hard questions wait here until they graduate (ZPPO section 3.3,
Algorithm 1 step 7, Table 8).

It stores questions, never responses: an id, and what is needed to draw the paper's graduation
curves. It is fed from plain rollouts only; answers to BCQ and NCQ prompts never count.

* One step is one visit. A question that stands twice in a batch (new and replayed) counts once,
  with its mean.
* Admit when the mean reward is below tau; graduate on a later visit at or above tau. Failing again
  keeps the old place.
* First in, first out: over capacity, the entry admitted longest ago is evicted.
* Draws are uniform, without repeats, and leave the buffer as it is.

Alone:

    >>> import random
    >>> buffer = Buffer(capacity=2, tau=0.5)
    >>> _ = buffer.refresh({"a": 0.0, "b": 0.25, "c": 1.0}, step=1)
    >>> sorted(buffer.draw(5, random.Random(0)))
    ['a', 'b']
    >>> buffer.refresh({"a": 0.5, "d": 0.0, "e": 0.0}, step=2)
    {'admitted': ['d', 'e'], 'graduated': ['a'], 'evicted': ['b']}
"""

from dataclasses import asdict, dataclass


@dataclass
class Entry:
    """A question in the buffer. accuracy: mean reward when it was admitted; best: the highest mean
    reward since.
    """

    question_id: str
    accuracy: float
    step: int
    visits: int = 0
    best: float = 0.0


class Buffer:
    """FIFO of hard questions. Raises ValueError for a capacity below 1 or a tau outside (0, 1]."""

    def __init__(self, capacity=10_000, tau=0.5):
        if capacity < 1 or not 0 < tau <= 1:
            raise ValueError(
                f"buffer capacity {capacity} must be at least 1 and tau {tau} in (0, 1]"
            )
        self.capacity, self.tau = capacity, tau
        self.entries = {}  # id -> Entry; insertion order is the FIFO
        # event -> entry accuracy -> count
        self.counts = {"admitted": {}, "graduated": {}, "evicted": {}}
        self.outcomes = {}  # visits -> outcome -> count, of the entries that left

    def __len__(self):
        return len(self.entries)

    def draw(self, n, rng):
        """At most n distinct question ids, uniform over the buffer; rng: random.Random."""
        return rng.sample(list(self.entries), min(n, len(self.entries)))

    def refresh(self, mean_reward, step):
        """Admit, graduate, evict, after one rollout step.

        mean_reward: question id -> mean reward over all its PLAIN rollouts of this step. Returns
        the ids by event.
        """
        events = {"admitted": [], "graduated": [], "evicted": []}
        for qid, r in mean_reward.items():
            entry = self.entries.get(qid)
            if entry is not None:
                entry.visits += 1
                entry.best = max(entry.best, r)
                if r >= self.tau:
                    self._leave(entry, "graduated", events)
            elif r < self.tau:
                self.entries[qid] = Entry(qid, r, step)
                self._count("admitted", r)
                events["admitted"].append(qid)
        while len(self.entries) > self.capacity:
            self._leave(next(iter(self.entries.values())), "evicted", events)
        return events

    def _leave(self, entry, event, events):
        del self.entries[entry.question_id]
        self._count(event, entry.accuracy)
        self._add_outcome(self.outcomes, entry, event == "graduated")
        events[event].append(entry.question_id)

    def _count(self, event, accuracy):
        key = f"{accuracy:.3f}"
        self.counts[event][key] = self.counts[event].get(key, 0) + 1

    @staticmethod
    def _add_outcome(table, entry, graduated):
        row = table.setdefault(str(entry.visits), {"never": 0, "improved": 0, "graduated": 0})
        outcome = "improved" if entry.best > entry.accuracy else "never"
        row["graduated" if graduated else outcome] += 1

    def occupancy(self):
        """Entries now in the buffer by entry accuracy (Fig. 20), as {"0.125": 3, ...}."""
        out = {}
        for e in self.entries.values():
            key = f"{e.accuracy:.3f}"
            out[key] = out.get(key, 0) + 1
        return out

    def outcomes_by_visits(self):
        """By number of re-sample attempts: never improved, improved, graduated (Fig. 24); entries
        still inside count too.
        """
        out = {k: dict(v) for k, v in self.outcomes.items()}
        for e in self.entries.values():
            self._add_outcome(out, e, False)
        return out

    def state(self):
        """All that decides the next step, as plain JSON values."""
        return {
            "entries": [asdict(e) for e in self.entries.values()],
            "counts": self.counts,
            "outcomes": self.outcomes,
        }

    def load(self, state):
        """Take over a state() of another Buffer, in its order; entries beyond this capacity are
        evicted at the next refresh.
        """
        self.entries = {e["question_id"]: Entry(**e) for e in state["entries"]}
        self.counts = {event: dict(table) for event, table in state["counts"].items()}
        self.outcomes = {k: dict(v) for k, v in state["outcomes"].items()}
