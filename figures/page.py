"""One page to look at samples: samples.jsonl of a run -> RUN/samples.html.

A block is one question at one step: its picture, then the plain group, the BCQ and the NCQ side by
side, each with the prompt as the model got it and the answers with reward and advantage. Read a few
of these before any curve.

Decisions. The page is one file and fetches nothing; a Content-Security-Policy says so to the
browser and names our script by its hash, so even a hole in the escaping below would run nothing.
Everything from the data passes `esc`: a response may hold `</script>`. A picture is shown only if
it is a base64 data URI of a bitmap (no SVG, no address). More than LIMIT blocks are not rendered,
because a browser chokes on them: half of LIMIT are the newest, the others an even sample of the
older ones, and the page says so. Layout, style and script are in page.html.
"""

import base64
import hashlib
import html
import math
import re
from pathlib import Path
from string import Template

from runtime.files import read_jsonl, write_atomic

LIMIT = 240  # blocks on the page; about 10 MB of HTML in the tiny world
SHOWN = 4  # answers before the fold
NAMES = {"plain": "plain", "bcq": "BCQ", "ncq": "NCQ", "hint": "hint", "prefix": "prefix"}
KINDS = tuple(NAMES)
REQUIRED = {"step", "kind", "question_id", "question", "prompt", "responses"}
PICTURE = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}")
BLOCK = re.compile(r"<candidate>\n(.*?)\n</candidate>", re.DOTALL)
# a chat-template token, and its repeats (one per visual token)
CONTROL = re.compile(r"(<\|[^<>|]{1,40}\|>)(\1*)")


def name_of(kind):
    return NAMES.get(kind, kind)


def esc(value):
    return html.escape(str(value), quote=True)


def number(value, form):
    """A number for people; "–" where there is none. Anything else is shown as the text it is."""
    if value is None or isinstance(value, float) and not math.isfinite(value):
        return "–"
    return format(value, form) if isinstance(value, (int, float)) else esc(value)


# ---- the data ----


def read(path):
    """samples.jsonl as blocks {(step, question_id): [group, ...]}, groups in the order plain, BCQ,
    NCQ, blocks by step.

    After a resume the file may hold a group twice; the later line wins. A run with --show 0 has no
    file, and no blocks. Raises ValueError where there is no run folder, or a record is not what
    train.py writes.
    """
    path, groups = Path(path), {}
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}: no such folder; expected a run folder of train.py")
    for i, group in enumerate(read_jsonl(path), 1):
        if missing := REQUIRED - group.keys():
            raise ValueError(f"{path}, record {i}: without {', '.join(sorted(missing))}")
        kind, step = group["kind"], group["step"]
        # a fork's own kinds (a word each, it becomes a class of the page) come after the paper's
        if not isinstance(kind, str) or not kind.isidentifier() or type(step) is not int:
            raise ValueError(f"{path}, record {i}: kind {kind!r}, step {step!r}")
        order = KINDS.index(kind) if kind in KINDS else len(KINDS)
        place = order, kind, str(group.get("origin"))
        groups[group["step"], str(group["question_id"]), place] = group
    blocks = {}
    for (step, question, _), group in sorted(groups.items(), key=lambda g: (g[0][0], g[0][2][:2])):
        blocks.setdefault((step, question), []).append(group)
    return blocks


def choose(keys, limit=LIMIT):
    """At most `limit` of `keys`, newest first: half of it the last ones, the rest evenly spaced
    over the ones before.
    """
    if len(keys) <= limit:
        return keys[::-1]
    newest = (limit + 1) // 2
    older, places = keys[:-newest], limit - newest
    return keys[-newest:][::-1] + [older[i * len(older) // places] for i in range(places)][::-1]


def candidate_label(text, right, wrong):
    """Which list the text of a candidate block stands in: "right", "wrong" or "unknown".

    Tags are left out of the comparison: the prompt was made without them, the record has them.
    """

    def bare(s):
        return re.sub(r"</?\|?\w+\|?>", "", s).strip()

    is_right, is_wrong = (bare(text) in map(bare, texts) for texts in (right, wrong))
    if is_right == is_wrong:
        return "unknown"
    return "right" if is_right else "wrong"


# ---- the parts of the page ----


def marked(text, pattern, plain, special):
    """The text as HTML: matches of `pattern` by special(match), what is between them by
    plain(str).
    """
    parts, end = [], 0
    for match in pattern.finditer(text):
        parts += [plain(text[end : match.start()]), special(match)]
        end = match.end()
    return "".join(parts) + plain(text[end:])


def plain_text(text):
    """Escaped; chat-template tokens grey, a row of the same token written once with its count."""

    def token(match):
        count = len(match[0]) // len(match[1])
        return f"<i>{esc(match[1])}{f' ×{count}' if count > 1 else ''}</i>"

    return marked(text, CONTROL, esc, token)


def prompt_html(group):
    """The prompt with its candidate blocks marked."""

    def candidate(match):
        label = candidate_label(match[1], group.get("right") or [], group.get("wrong") or [])
        return f'<b class="cand {label}">{plain_text(match[0])}</b>'

    text = group["prompt"] or ""
    if group["kind"] == "plain":
        return f'<div class="text">{plain_text(text)}</div>'
    return f'<div class="text">{marked(text, BLOCK, plain_text, candidate)}</div>'


def is_positive(value):
    return isinstance(value, (int, float)) and value > 0


def response_html(response):
    reward, advantage, answer = (response.get(k) for k in ("reward", "advantage", "answer"))
    mark = "good" if is_positive(reward) else "bad"
    sign = "up" if is_positive(advantage) else "down" if advantage else ""
    notes = [
        f'<span class="tag {mark}">reward {number(reward, "g")}</span>',
        f'<span class="{sign}">advantage {number(advantage, "+.2f")}</span>',
        f"{number(response.get('tokens'), 'g')} tokens",
    ]
    if response.get("truncated"):
        notes.append('<span class="tag bad">truncated</span>')
    notes.append("no answer" if answer is None else f"answer <code>{esc(answer)}</code>")
    text = f'<div class="text">{esc(response.get("text", ""))}</div>'
    return f'<li><div class="meta">{" · ".join(notes)}</div>{text}</li>'


def group_html(group):
    # right ones first, otherwise as they came
    responses = sorted(group["responses"], key=lambda r: -(r.get("reward") or 0))
    rewards = [r.get("reward") for r in responses]
    cells = "".join(f'<s class="{"good" if r else "bad"}"></s>' for r in rewards)
    same = ' <span class="tag">all alike: no gradient</span>' if len(set(rewards)) < 2 else ""
    origin = f" · {esc(group['origin'])}" if group.get("origin") else ""
    mean = f"mean reward {number(group.get('mean_reward'), '.3f')}"
    items = [response_html(r) for r in responses]
    more = ""
    if len(items) > SHOWN:
        rest = f"<ul>{''.join(items[SHOWN:])}</ul>"
        more = f"<details><summary>{len(items) - SHOWN} more answers</summary>{rest}</details>"
    unfolded = "" if group["kind"] == "plain" else " open"
    prompt = f"<details{unfolded}><summary>prompt</summary>{prompt_html(group)}</details>"
    return (
        f'<section class="{group["kind"]}">'
        f"<h3>{name_of(group['kind'])}<small>{origin} · {mean}</small></h3>"
        f'<div class="cells">{cells}{same}</div>{prompt}<ul>{"".join(items[:SHOWN])}</ul>{more}'
        f"</section>"
    )


def picture_html(uri):
    if isinstance(uri, str) and PICTURE.fullmatch(uri):
        return f'<img src="{uri}" alt="picture of the question" loading="lazy">'
    return '<p class="none">picture left out: not a base64 data:image URI</p>'


def block_html(step, question_id, groups):
    first = groups[0]
    source = esc(first.get("source") or "")
    kinds = " ".join(dict.fromkeys(g["kind"] for g in groups))
    pictures = "".join(picture_html(uri) for uri in first.get("images") or [])
    return (
        f'<article data-step="{step}" data-kinds="{kinds}" data-source="{source}">'
        f"<header><h2>step {step} <small>{source} · {esc(question_id)}</small></h2>{pictures}"
        f'<p class="question">{esc(first["question"])}</p>'
        f"<p>gold answer <code>{esc(first.get('answer', '–'))}</code></p></header>"
        f'<div class="groups">{"".join(map(group_html, groups))}</div></article>'
    )


def options(name, values):
    listed = "".join(f'<option value="{esc(v)}">{esc(label)}</option>' for v, label in values)
    return (
        f'<label>{name} <select id="{name}"><option value="">all</option>{listed}</select></label>'
    )


def page(blocks, title, limit=LIMIT):
    """The whole page as a string. blocks: what `read` returns."""
    shown, cut = choose(list(blocks), limit), ""
    kinds = [g["kind"] for groups in blocks.values() for g in groups]
    known = dict.fromkeys([*KINDS, *sorted(kinds)])
    steps = sorted({step for step, _ in shown}, reverse=True)
    sources = sorted({str(blocks[key][0].get("source") or "") for key in shown})
    if len(shown) < len(blocks):
        cut = (
            f'<p class="cut">{len(shown)} of {len(blocks)} questions-at-a-step are on this page: '
            f"the newest {(limit + 1) // 2}, and an even sample of the older ones. samples.jsonl "
            f"has them all.</p>"
        )
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    script = re.search("<script>(.*)</script>", template, re.DOTALL)[1]
    filters = (
        options("step", [(s, s) for s in steps]),
        options("kind", [(k, f"with {name_of(k)}") for k in known if k in kinds]),
        options("source", [(s, s) for s in sources if s]),
    )
    counts = [f"{kinds.count(k)} {name_of(k)}" for k in known if k in kinds or k == "plain"]
    return Template(template).substitute(
        title=esc(title),
        policy=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        counts=f"{', '.join(counts)} groups",
        blocks=len(blocks),
        cut=cut,
        filters="".join(filters),
        articles="".join(block_html(*key, blocks[key]) for key in shown),
    )


def write_html(run):
    """Write RUN/samples.html from RUN/samples.jsonl and return its path."""
    out = Path(run) / "samples.html"
    text = page(read(Path(run) / "samples.jsonl"), Path(run).resolve().name)
    write_atomic(out, text.encode("utf-8", "replace"))  # JSON may hold half a surrogate pair
    return out
