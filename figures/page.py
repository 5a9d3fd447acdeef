"""One page to look at samples: samples.jsonl of a run -> RUN/samples.html.

    python report.py runs/zppo-tiny-1

A block is one question at one step: its picture, then the plain group, the BCQ and the NCQ side by
side, each with the prompt as the model got it and the answers with reward and advantage. Read a few
of these before any curve.

Decisions. The page is one file and fetches nothing; a Content-Security-Policy says so to the
browser and names our script by its hash, so even a hole in the escaping below would run nothing.
Everything from the data passes `esc`: a response may hold `</script>`. A picture is shown only if
it is a base64 data URI of a bitmap (no SVG, no address). More than LIMIT blocks are not rendered,
because a browser chokes on them: half of LIMIT are the newest, the others an even sample of the
older ones, and the page says so. Nothing of the project is imported.
"""

import argparse
import base64
import hashlib
import html
import json
import math
import re
from pathlib import Path

LIMIT = 240  # blocks on the page; about 10 MB of HTML in the tiny world
SHOWN = 4  # answers before the fold
NAMES = {"plain": "plain", "bcq": "BCQ", "ncq": "NCQ", "hint": "hint", "prefix": "prefix"}
KINDS = tuple(NAMES)
REQUIRED = {"step", "kind", "question_id", "question", "prompt", "responses"}
PICTURE = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}")
BLOCK = re.compile(r"<candidate>\n(.*?)\n</candidate>", re.DOTALL)
CONTROL = re.compile(
    r"(<\|[^<>|]{1,40}\|>)(\1*)"
)  # a chat-template token, and its repeats (one per visual token)


def esc(value):
    return html.escape(str(value), quote=True)


def number(value, form):
    """A number for people; "–" where there is none. Anything else that turns up is shown as the
    text it is.
    """
    if value is None or isinstance(value, float) and not math.isfinite(value):
        return "–"
    return format(value, form) if isinstance(value, (int, float)) else esc(value)


# ---- the data ----


def read(path):
    """samples.jsonl as blocks {(step, question_id): [group, ...]}, groups in the order plain, BCQ,
    NCQ, blocks by step.

    After a resume the file may hold a group twice; the later line wins. Raises ValueError with file
    and line.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; is {path.parent} the run folder that train.py wrote?"
        )
    groups = {}
    with path.open(encoding="utf-8") as lines:
        for i, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                group = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{path}, line {i}: not JSON ({error.msg}): {line[:60]!r}"
                ) from None
            if not isinstance(group, dict) or REQUIRED - group.keys():
                raise ValueError(
                    f"{path}, line {i}: expected an object with {sorted(REQUIRED)}, got {line[:60]!r}"
                )
            if group["kind"] not in KINDS or type(group["step"]) is not int:
                raise ValueError(
                    f"{path}, line {i}: kind {group['kind']!r}, step {group['step']!r}; "
                    f"expected one of {KINDS} and a whole number"
                )
            groups[
                group["step"], str(group["question_id"]), group["kind"], str(group.get("origin"))
            ] = group
    blocks = {}
    for (step, question, *_), group in sorted(
        groups.items(), key=lambda item: (item[0][0], KINDS.index(item[0][2]))
    ):
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
    """ "right", "wrong" or "unknown": which list the text of a candidate block stands in.

    Tags are left out of the comparison: reformulate.clean took them out of the prompt, but not out
    of the record.
    """
    bare = {s: re.sub(r"</?\|?\w+\|?>", "", s).strip() for s in (text, *right, *wrong)}
    is_right, is_wrong = [bare[text] in [bare[s] for s in texts] for texts in (right, wrong)]
    return "unknown" if is_right == is_wrong else "right" if is_right else "wrong"


# ---- the page ----


def plain_text(text):
    """Escaped; chat-template tokens grey, a long row of the same token written once with its count."""
    parts, end = [], 0
    for match in CONTROL.finditer(text):
        token, count = match.group(1), len(match.group(0)) // len(match.group(1))
        parts += [
            esc(text[end : match.start()]),
            f"<i>{esc(token)}{f' ×{count}' if count > 1 else ''}</i>",
        ]
        end = match.end()
    return "".join(parts) + esc(text[end:])


def prompt_html(group):
    """The prompt with its candidate blocks marked."""
    parts, end, text = [], 0, group["prompt"] or ""
    if group["kind"] != "plain":
        for match in BLOCK.finditer(text):
            label = candidate_label(
                match.group(1), group.get("right") or [], group.get("wrong") or []
            )
            parts += [
                plain_text(text[end : match.start()]),
                f'<b class="cand {label}">{plain_text(match.group(0))}</b>',
            ]
            end = match.end()
    return f'<div class="text">{"".join(parts)}{plain_text(text[end:])}</div>'


def response_html(response):
    reward, advantage = response.get("reward"), response.get("advantage")
    mark = "good" if isinstance(reward, (int, float)) and reward > 0 else "bad"
    sign = (
        "up"
        if isinstance(advantage, (int, float)) and advantage > 0
        else "down"
        if advantage
        else ""
    )
    notes = [
        f'<span class="tag {mark}">reward {number(reward, "g")}</span>',
        f'<span class="adv {sign}">advantage {number(advantage, "+.2f")}</span>',
        f"{number(response.get('tokens'), 'g')} tokens",
    ]
    notes += ['<span class="tag bad">truncated</span>'] * bool(response.get("truncated"))
    notes += [
        f"answer <code>{esc(response['answer'])}</code>"
        if response.get("answer") is not None
        else "no answer"
    ]
    return f'<li><div class="meta">{" · ".join(notes)}</div><div class="text">{esc(response.get("text", ""))}</div></li>'


def group_html(group):
    responses = sorted(
        group["responses"], key=lambda r: -(r.get("reward") or 0)
    )  # right ones first; stable
    rewards = [r.get("reward") for r in responses]
    cells = "".join(f'<s class="{"good" if r else "bad"}"></s>' for r in rewards)
    flat = '<span class="tag">flat: no gradient</span>' if len(set(rewards)) < 2 else ""
    origin = f" · {esc(group['origin'])}" if group.get("origin") else ""
    items = [response_html(r) for r in responses]
    folded = f"<details><summary>{len(items) - SHOWN} more answers</summary><ul>{''.join(items[SHOWN:])}</ul></details>"
    return (
        f'<section class="{group["kind"]}"><h3>{NAMES[group["kind"]]}<small>{origin} · mean reward '
        f'{number(group.get("mean_reward"), ".3f")}</small></h3><div class="cells">{cells} {flat}</div>'
        f"<details{' open' if group['kind'] != 'plain' else ''}><summary>prompt</summary>{prompt_html(group)}</details>"
        f"<ul>{''.join(items[:SHOWN])}</ul>{folded if len(items) > SHOWN else ''}</section>"
    )


def picture_html(uri):
    if isinstance(uri, str) and PICTURE.fullmatch(uri):
        return f'<img src="{uri}" alt="picture of the question" loading="lazy">'
    return '<p class="none">picture left out: not a base64 data:image URI</p>'


def block_html(step, question_id, groups):
    first = groups[0]
    source = str(first.get("source") or "")
    kinds = " ".join(dict.fromkeys(g["kind"] for g in groups))
    pictures = "".join(picture_html(uri) for uri in first.get("images") or [])
    return (
        f'<article data-step="{step}" data-kinds="{kinds}" data-source="{esc(source)}">'
        f"<header><h2>step {step} <small>{esc(source)} · {esc(question_id)}</small></h2>{pictures}"
        f'<p class="q">{esc(first["question"])}</p><p>gold answer <code>{esc(first.get("answer", "–"))}</code></p></header>'
        f'<div class="groups">{"".join(group_html(g) for g in groups)}</div></article>'
    )


def options(name, values, everything):
    listed = "".join(f'<option value="{esc(v)}">{esc(label)}</option>' for v, label in values)
    return f'<label>{name} <select id="{name}"><option value="">{everything}</option>{listed}</select></label>'


def page(blocks, title, limit=LIMIT):
    """The whole page as a string. blocks: what `read` returns."""
    shown = choose(list(blocks), limit)
    counts = {
        kind: sum(g["kind"] == kind for groups in blocks.values() for g in groups) for kind in KINDS
    }
    steps = sorted({step for step, _ in shown}, reverse=True)
    sources = sorted({str(blocks[key][0].get("source") or "") for key in shown})
    cut = (
        ""
        if len(shown) == len(blocks)
        else (
            f'<p class="cut">{len(shown)} of {len(blocks)} questions-at-a-step are on this page: the newest {(limit + 1) // 2}, '
            f"and an even sample of the older ones. samples.jsonl has them all.</p>"
        )
    )
    policy = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    filters = (
        options("step", [(s, s) for s in steps], "all")
        + options("kind", [(k, f"with {NAMES[k]}") for k in KINDS if counts[k]], "all")
        + options("source", [(s, s) for s in sources if s], "all")
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="'
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{policy}'\">"
        f'<meta name="viewport" content="width=device-width"><title>{esc(title)}: samples</title><style>{CSS}</style></head><body>'
        f"<h1>{esc(title)}: samples</h1><p>{', '.join(f'{counts[k]} {NAMES[k]}' for k in KINDS if counts[k] or k == 'plain')} groups of "
        f'{len(blocks)} questions-at-a-step, newest first. In the prompts, the candidate marked <b class="cand right key">right'
        f"</b> is the teacher's, those marked <b class=\"cand wrong key\">wrong</b> are the student's own. "
        f"<strong>The student sees no such colours or words</strong>, only the text.</p>{cut}"
        f'<nav>{filters}<output id="count"></output></nav>'
        f"<main>{''.join(block_html(*key, blocks[key]) for key in shown)}</main><script>{SCRIPT}</script></body></html>"
    )


CSS = """
:root{--r:#007a55;--w:#b34700;--line:#d8dce0}*{box-sizing:border-box}
body{font:15px/1.45 system-ui,sans-serif;color:#222;background:#f4f6f8;margin:0 auto;padding:16px;max-width:1500px}
h1{font-size:22px;margin:0}h2{font-size:16px;margin:0 0 8px}h3{font-size:15px;margin:0 0 4px}small{font-weight:400;color:#666}
nav{position:sticky;top:0;z-index:1;background:#f4f6f8;padding:8px 0;display:flex;gap:16px;flex-wrap:wrap;align-items:center}
article{display:flex;gap:16px;background:#fff;border:1px solid var(--line);border-radius:8px;padding:14px;margin:0 0 14px;
content-visibility:auto;contain-intrinsic-size:auto 600px}
article[hidden]{display:none}header{flex:0 0 220px;min-width:0}header img{image-rendering:pixelated;height:96px;max-width:100%;
object-fit:contain;object-position:left;border:1px solid var(--line);margin:0 4px 4px 0}
h2,p,code{overflow-wrap:anywhere}.q{font-weight:600;margin:6px 0}.groups{flex:1;display:flex;gap:12px;min-width:0;align-items:flex-start}
section{flex:1 1 0;min-width:0;border-top:4px solid #0072b2;padding:6px 2px}.bcq{border-color:#009e73}.ncq,.prefix{border-color:#d55e00}.hint{border-color:#009e73}
.text{white-space:pre-wrap;overflow-wrap:anywhere;font:12.5px/1.45 ui-monospace,monospace;background:#f7f8f9;border-radius:4px;
padding:6px;max-height:420px;overflow:auto}.text i{color:#8a9099;font-style:normal}
.cand{display:inline-block;width:100%;font-weight:400;border-left:5px solid #999;background:#eee;padding:2px 6px;margin:3px 0}
.cand::before{content:"?";float:right;font-weight:700;font-family:sans-serif}
.cand.right{border-color:var(--r);background:#e2f4ed}.cand.right::before{content:"right";color:var(--r)}
.cand.wrong{border-left:5px dashed var(--w);background:#fcebe1}.cand.wrong::before{content:"wrong";color:var(--w)}
.cand.key{display:inline;width:auto}.cand.key::before{content:none}
ul{list-style:none;margin:6px 0;padding:0}li{margin:0 0 8px}.meta{font-size:12.5px;color:#555}
.tag{border-radius:4px;padding:0 5px;background:#e6e8eb}.tag.good{background:#d3efe4;color:var(--r)}.tag.bad{background:#fae0d1;color:var(--w)}
.adv.up{color:var(--r)}.adv.down{color:var(--w)}.cells{min-height:20px;font-size:12.5px}select{max-width:260px}.cells s{display:inline-block;width:13px;height:13px;margin-right:3px;
border-radius:2px}s.good{background:#009e73}s.bad{background:#fff;border:2px solid #d55e00}
summary{cursor:pointer;color:#0060a0;font-size:13px}.cut,.none{background:#fff4d6;padding:6px 10px;border-radius:6px}
@media(max-width:900px){article,.groups{flex-direction:column}header{flex:none}section{width:100%}}
"""

SCRIPT = """
const pick = id => document.getElementById(id), all = [...document.querySelectorAll('article')];
function show() {
  const step = pick('step').value, kind = pick('kind').value, source = pick('source').value;
  let n = 0;
  for (const a of all) {
    a.hidden = (step && a.dataset.step !== step) || (source && a.dataset.source !== source)
            || (kind && !a.dataset.kinds.split(' ').includes(kind));
    n += !a.hidden;
  }
  pick('count').textContent = n + ' of ' + all.length + ' shown';
}
for (const id of ['step', 'kind', 'source']) pick(id).addEventListener('change', show);
show();
"""


def write_html(run):
    """Write RUN/samples.html from RUN/samples.jsonl and return its path."""
    run = Path(run)
    out = run / "samples.html"
    out.write_text(
        page(read(run / "samples.jsonl"), run.resolve().name), "utf-8", errors="replace"
    )  # JSON may hold half a surrogate pair
    return out


if __name__ == "__main__":
    try:
        flags = argparse.ArgumentParser(
            description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        flags.add_argument("run", metavar="RUN", help="run folder with a samples.jsonl")
        print(write_html(flags.parse_args().run))
    except (ValueError, OSError) as e:
        raise SystemExit(f"error: {e}") from None
