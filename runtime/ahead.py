"""With whom a teacher on other processes begins while the students sample (the paper's overlap).

    begin_ahead(requests, step, cfg, teacher, state)     # before the plain rollouts

Who is hard is not known yet, so with --teacher-scope used this is a guess: whom the pre-cap would
keep if the new questions all failed and the replayed ones did as well as ever. The lots that decide
between equals are looked at ahead. A wrong guess costs the teacher's time and changes nothing: what
is not needed is taken back (Teacher.keep_only), or waits in the memo for a visit that needs it.
"""

from copy import copy

from config import wants_answers
from reformulate import pre_cap


def begin_ahead(requests, step, cfg, teacher, state):
    """Let the teacher (on rank 0, else None) begin with this step's plain requests, or with those
    that are likely to be used. state: checkpoint.RunState, which stays as it is.
    """
    if not teacher or not wants_answers(cfg):
        return
    questions = [r.question for r in requests]
    if cfg.method == "off-distill" or cfg.teacher_scope == "hard":
        teacher.begin(questions, step, fresh=cfg.method == "off-distill")
        return
    expected = [best_reward(r, state.buffer) for r in requests]
    likely = pre_cap(expected, cfg.tau, cfg.max_reformulated, copy(state.rng))
    teacher.begin([questions[i] for i in likely], step)


def best_reward(request, buffer):
    """The highest mean reward that is known of a request's question; 0 of a new one."""
    if request.origin == "new":
        return 0.0
    entry = buffer.entries[request.question.id]
    return max(entry.accuracy, entry.best)
