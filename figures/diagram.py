"""The one drawing that explains a ZPPO step (Algorithm 1), for the README: left what goes into
prompts, right what gets a gradient.

    python -m figures.diagram                # -> assets/zppo.png
"""

import math
import sys
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyBboxPatch, Rectangle
from matplotlib.patheffects import withStroke

from figures.curves import BLUE, GREEN, GREY, RED

INK, PLUM = "#222222", "#9B4F7E"
RIGHT, WRONG, STUDENT = GREEN, RED, BLUE
STEPS = (
    "1 sample   2 ask the teacher   3 build the prompts   4 sample again   5 update   "
    "6 refresh the buffer"
)
BUFFER = "hard questions only,\nnever an answer;\nthe oldest leaves\nwhen it is full"
ANSWERS = "answers the hard\nquestions; a right\nanswer goes into\nthe BCQ prompt"
SHORTENS = "shortens all candi-\ndates the same way,\nso that style does not\ngive the label away"
UPDATE = (
    "advantage =\nreward −\nbaseline,\nscaled over\nthe groups\nthat hold\nboth right\nand wrong"
    "\n\nclipped\npolicy\ngradient;\nno KL term,\nno reference\nmodel"
)


def note(ax, x, y, text, colour=INK, size=8.5, **kw):
    ax.text(x, y, text, color=colour, fontsize=size, **{"va": "top", "linespacing": 1.35, **kw})


def heading(ax, x, y, text, colour, size):
    note(ax, x, y, text, colour, size, fontweight="bold")


def box(ax, x, y, w, h, rounding, **kw):
    style = f"round,pad=0,rounding_size={rounding}"
    ax.add_patch(FancyBboxPatch((x, y), w, h, boxstyle=style, **kw))


def card(ax, x, y, w, h, colour, title):
    box(ax, x, y, w, h, 1.6, fc="white", ec=colour, lw=1.4)
    heading(ax, x + 2, y + h - 2, title, colour, 9.5)


def slip(ax, x, y, text, colour):
    """A candidate as it stands in a prompt."""
    box(ax, x, y, 34, 5.4, 1, fc=colour + "22", ec=colour, lw=0.9)
    note(ax, x + 1.5, y + 2.6, text, colour, va="center")


def arrow(ax, *points, colour=INK):
    """Straight pieces through `points`, the head at the last. Lines lie under the cards; a pale rim
    parts crossings.
    """
    (x0, y0), (x1, y1) = points[-2:]
    reach = 1.5 / math.hypot(x1 - x0, y1 - y0)  # the line ends inside the head: a sharp tip
    end = (x1 - (x1 - x0) * reach, y1 - (y1 - y0) * reach)
    rim = [withStroke(linewidth=4, foreground="#F8F4F8")]
    line = {"color": colour, "lw": 1.5, "zorder": 0.8, "solid_capstyle": "butt"}
    ax.plot(*zip(*points[:-1], end), **line, path_effects=rim)
    head = {"arrowstyle": "-|>", "color": colour, "lw": 1.5, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", (x1, y1), end, zorder=4, arrowprops={**head, "mutation_scale": 12})


def badge(ax, x, y, number):
    ax.add_patch(Ellipse((x, y), 4.6, 4.6, fc=INK, ec="white", lw=1.2, zorder=5))
    centred = {"ha": "center", "va": "center", "fontweight": "bold", "zorder": 6}
    note(ax, x, y - 0.15, str(number), "white", 8, **centred)


def group(ax, x, y, right, title):
    """A group of eight answers: bars above its own baseline for right ones, hatched below for wrong
    ones.
    """
    card(ax, x, y, 34, 20, STUDENT, title)
    mean, base = sum(right) / len(right), y + 8.4
    for i, r in enumerate(right):
        look = {
            "fc": RIGHT if r else WRONG,
            "ec": "white",
            "lw": 0,
            "hatch": None if r else "/////",
        }
        ax.add_patch(Rectangle((x + 3 + 3.6 * i, base), 2.4, 6.5 * (r - mean), **look))
    ax.plot([x + 2, x + 32], [base, base], color=INK, lw=1)
    note(ax, x + 2, y + 4, f"own baseline: {sum(right)} of {len(right)} right", size=8)


def background(ax):
    ax.set(xlim=(0, 160), ylim=(-8, 110))
    ax.axis("off")
    for x, w, colour in ((0, 86, "#FAF3F8"), (86, 74, "#EEF5FA")):
        ax.add_patch(Rectangle((x, -2), w, 112, fc=colour, ec="none", zorder=-2))
    ax.plot([86, 86], [-2, 110], color=GREY, lw=1.2, ls=(0, (4, 3)), zorder=-1)
    heading(ax, 3, 107.5, "Prompts: the teacher helps here, as text", PLUM, 10.5)
    heading(ax, 89, 107.5, "Gradient: the student's tokens only", STUDENT, 10.5)


def sources(ax):
    card(ax, 3, 86, 30, 13, INK, "New questions")
    note(ax, 5, 93, "image + text")
    card(ax, 3, 56, 30, 22, INK, "Replay buffer")
    note(ax, 5, 72, BUFFER, size=8)
    card(ax, 3, 8, 30, 38, PLUM, "Teacher, frozen")
    note(ax, 5, 39.8, ANSWERS, size=8)
    note(ax, 5, 25.8, SHORTENS, size=8)
    heading(ax, 5, 12.2, "no gradient, no logits", PLUM, 7.5)


def prompts(ax):
    card(ax, 45, 80, 38, 19, INK, "Plain prompt")
    note(ax, 47, 93.2, "Product of the digits?")
    digit = {"va": "center", "ha": "center", "family": "monospace"}
    for i, text in enumerate("789"):
        ax.add_patch(Rectangle((47 + 7 * i, 81.7), 6.2, 6.6, fc=INK, ec="none"))
        note(ax, 50.1 + 7 * i, 84.8, text, "white", 12, **digit)
    card(ax, 45, 41, 38, 26, INK, "BCQ prompt")
    note(ax, 47, 61, "One is right, one is wrong:")
    slip(ax, 47, 50.8, "7·8=56, 56·9=494", WRONG)
    slip(ax, 47, 44, "7·8=56, 56·9=504", RIGHT)
    card(ax, 45, 8, 38, 26, INK, "NCQ prompt")
    note(ax, 47, 28, "All WRONG: 494, 514")
    slip(ax, 47, 17.8, "7·8=56, 56·9=494", WRONG)
    slip(ax, 47, 11, "7·8=56, 56·9=514", WRONG)
    note(ax, 64, 40.2, "order shuffled, no names", GREY, 7.5, ha="center")
    note(ax, 64, 7.2, "every wrong answer of the group", GREY, 7.5, ha="center")


def gradient(ax):
    group(ax, 94, 79, [0, 0, 0, 1, 0, 0, 0, 0], "Plain group")
    group(ax, 94, 43, [1, 0, 1, 1, 0, 0, 1, 0], "BCQ group")
    group(ax, 94, 11, [0, 0, 0, 0, 1, 0, 1, 0], "NCQ group")
    card(ax, 138, 19, 19, 72, STUDENT, "Update")
    note(ax, 140, 83, UPDATE, size=8)


def arrows(ax):
    arrow(ax, (33, 93), (45, 93))
    arrow(ax, (20, 78), (20, 82.5), (45, 82.5))
    for y in (89, 54, 21):
        arrow(ax, (83, y), (94, y), colour=STUDENT)
        arrow(ax, (128, y), (138, y), colour=STUDENT)
    arrow(ax, (98, 79), (98, 75), (33, 75))
    note(ax, 47, 79.1, "admit r̄ < τ,  graduate r̄ ≥ τ", size=8)
    arrow(ax, (111, 79), (111, 71), (40.5, 71), (40.5, 17.3), (45, 17.3), colour=WRONG)
    arrow(ax, (40.8, 53.5), (45, 53.5), colour=WRONG)
    note(ax, 113, 77, "hard, r̄ < τ:\nwrong answers", WRONG, 8)
    arrow(ax, (33, 36.5), (37, 36.5), (37, 46.7), (45, 46.7), colour=RIGHT)
    arrow(ax, (147, 19), (147, 5), (111, 5), (111, 11), colour=STUDENT)
    note(ax, 128, 8.4, "new weights, next step", STUDENT, 8, ha="center")
    places = ((88.5, 89), (33, 41.5), (45, 67), (88.5, 54), (157, 91), (33, 78))
    for number, (x, y) in enumerate(places, 1):
        badge(ax, x, y, number)


def diagram(path):
    """Draw into the file `path`; returns it."""
    fig = Figure(figsize=(8, 5.9))
    ax = fig.add_axes((0, 0, 1, 1))
    for part in (background, sources, prompts, gradient, arrows):
        part(ax)
    note(ax, 80, -5, STEPS, size=8, ha="center", va="center")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=200)
    return Path(path)


if __name__ == "__main__":
    print(diagram(sys.argv[1] if len(sys.argv) > 1 else "assets/zppo.png"))
