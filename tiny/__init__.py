"""The tiny world: a data set, a student and a teacher small enough that ZPPO can be watched on two
CPU cores.

Pictures of two or three handwritten digits (scikit-learn's load_digits), one visual token a digit,
and short questions about them: multiply, add, name the largest. A response writes its steps and
boxes its answer. Held-out questions use glyphs that no training ever saw, and two more families ask
the same with typed digits ("heldout_text") and with digits shown one after another in a video
("heldout_video"). Held-out questions share the arithmetic facts with the training questions: they
test new pictures and new combinations, not facts that nobody taught.

What is staged, so that a small model meets ZPPO's question (README says it again):
* The student's textbook misprints 32 of the 248 facts "product of two digits times a digit", each
  with one fixed value that is a carry too high or too low (504 becomes 514); the teacher's textbook
  is right. No lesson of the student holds the truth about such a "hard" fact (tests/tiny checks
  it), and 45 % of the questions need one.
* A copy drill on random strings. Without it the student can't use a candidate, and BCQ teaches
  nothing.
* Lessons on BCQ prompts: the right one of two candidates on known facts; on misprinted facts both
  candidates are wrong, and the student repeats either. Lessons on NCQ prompts: never an answer that
  is listed. Where the student's own answer is listed, on facts that it knows, it learns to suspect
  its carry and to answer 10 more or less. On a misprinted fact that is the truth about every other
  time: NCQ can help here, because the misprints are of a kind that the student can suspect.
* The teacher learns to "compress" by copying: the responses here are already as short as a summary.
  It learns to give hints (a first step, never the answer), and the student to read them, on facts
  that it knows.

    world.py     facts, textbook, glyphs and questions: all that a data set needs
    models.py    the tokenizer and a random model
    lessons.py   what the two models are taught
    pretrain.py  lessons to batches to weights
    measure.py   what the two checkpoints can do

    import tiny
    tiny.questions("heldout"), tiny.new_model(seed=0)
"""

from tiny.models import new_model, new_tokenizer
from tiny.world import digits_of, is_hard, printed, questions, summary, trace

__all__ = ["digits_of", "is_hard", "new_model", "new_tokenizer", "printed", "questions"]
__all__ += ["summary", "trace"]
