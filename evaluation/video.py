r"""The five video benchmarks: a row -> its question, a video -> frames with their times, a subtitle
file -> the lines that belong.

Videos are read from the local copy of the data set (`--data DIR`, archives unpacked), never
downloaded: they are up to 100 GB. Sampling follows qwen-vl-utils: --fps frames a second (2), an
even number from 4 to --max-frames (768), evenly spaced with the first and the last frame always
among them, because Video-MMMU appends the question's picture as the last one. A frame keeps 128 to
768 visual tokens of 32 x 32 pixels, all together --video-tokens (24,576). Scores move by points
with these, so they are in results.json. The paper does not say what it used.

    frames, times = sample(Video(("clip.mp4",)), roots=[Path("data")], fps=2, max_frames=768,
    tokens=24576)
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from evaluation.rows import Item, clean, options_of
from evaluation.scorers import LETTERS

TOKEN = 32 * 32  # pixels of one visual token: patch 16, merged 2 x 2


@dataclass(frozen=True)
class Video:
    """Where a video may lie below the local copy (first that exists), which part counts (seconds),
    and where its subtitles are.
    """

    files: tuple
    start: float | None = None
    end: float | None = None
    subtitles: str = ""
    cut: tuple = ()  # files that hold the part alone: start and end must not be applied again


# ---- rows ----------------------------------------------------------------------------------------


def mmvu(row, where):
    path = "videos/" + row["video"].split("videos/", 1)[1]  # stored as a full URL
    chosen = row["question_type"] == "multiple-choice"  # open rows have five empty choices
    options = tuple(clean(row["choices"][k]) for k in "ABCDE") if chosen else ()
    return [
        Item(
            row["id"],
            clean(row["question"]),
            clean(row["answer"]),
            options,
            video=Video((path,)),
            group="choice" if chosen else "open",
            meta={"judge": "mmvu_choice" if chosen else "mmvu_open"},
        )
    ]


MVBENCH = {  # task: (folder on the main branch, folder on the `video` branch, has start and end)
    **{
        t: ("star/Charades_v1_480", "star/Charades_segment", True)
        for t in ("action_sequence", "action_prediction", "object_interaction")
    },
    "action_localization": ("sta/sta_video", "sta/sta_video_segment", True),
    "episodic_reasoning": ("tvqa/frames_fps3_hq", "tvqa/video_fps3_hq_segment", True),
    "action_antonym": ("ssv2_video", "ssv2_video_mp4", False),
    "fine_grained_pose": ("nturgbd", "nturgbd_convert", False),
    "fine_grained_action": ("Moments_in_Time_Raw/videos", "Moments_in_Time_Raw/videos", False),
    "unexpected_action": ("FunQA_test/test", "FunQA_test/test", False),
    **{
        t: ("clevrer/video_validation", "clevrer/video_validation", False)
        for t in (
            "object_existence",
            "moving_direction",
            "moving_count",
            "moving_attribute",
            "counterfactual_inference",
        )
    },
    **{
        t: ("perception/videos", "perception/videos", False)
        for t in ("object_shuffle", "action_count", "state_change", "character_order")
    },
    "scene_transition": ("scene_qa/video", "scene_qa/video", False),
    "egocentric_navigation": ("vlnqa", "vlnqa", False),
}


def mvbench(row, where):
    main, branch, bounded = MVBENCH[where.config]
    if not any(
        (where.root / p).is_dir() for p in (f"video/{main}", f"video/data0613/{main}", branch)
    ):
        # NTU RGB+D may not be distributed: fine_grained_pose is then left out, and said so
        return []
    name, options = row["video"], tuple(map(clean, row["candidates"]))
    start, end = (row["start"], row["end"]) if bounded else (None, None)
    stem = Path(name).stem
    cut = (
        (f"{branch}/{stem}_{start}_{end}.mp4",)
        if bounded
        else (f"{branch}/{name}", f"{branch}/{stem}.mp4")
    )
    video = Video((f"video/{main}/{name}", f"video/data0613/{main}/{name}"), start, end, cut=cut)
    gold = LETTERS[options.index(clean(row["answer"]))]  # stored as the text of a candidate
    return [
        Item(
            f"{where.config}-{where.index}",
            clean(row["question"]),
            gold,
            options,
            video=video,
            group=where.config,
        )
    ]


def videomme(subtitles):
    def row_items(row, where):
        name = row["videoID"]  # not video_id, which only groups rows
        files = tuple(
            f"{folder}{name}.{ext}"
            for folder in ("data/", "", "videos/")
            for ext in ("mp4", "MP4", "mkv")
        )
        return [
            Item(
                str(row["question_id"]),
                clean(row["question"]),
                row["answer"],
                options_of(row["options"]),
                group=row["duration"],
                video=Video(files, subtitles=f"subtitle/{name}.srt" if subtitles else ""),
            )
        ]

    return row_items


DOMAINS = {
    "Art": "Art Art_Theory Design Music",
    "Business": "Accounting Economics Finance Manage Marketing",
    "Engineering": "Agriculture Architecture_and_Engineering Computer_Science Electronics Energy_and_Power Materials Mechanical_Engineering",
    "Humanities": "History Literature Psychology Sociology",
    "Medicine": "Basic_Medical_Science Clinical_Medicine Diagnostics_and_Laboratory_Medicine Pharmacy Public_Health",
    "Science": "Biology Chemistry Geography Math Physics",
}
DOMAIN_OF = {
    subject: domain for domain, subjects in DOMAINS.items() for subject in subjects.split()
}


def videommmu(row, where):
    name = row["id"]
    domain = DOMAIN_OF[
        name.split("_", 1)[1].rsplit("_", 1)[0]
    ]  # no video column: the id leads there
    options = options_of(
        row["options"] or []
    )  # decides, not question_type (Accounting_13 has none)
    golds = [clean(row["answer"])]
    if name == "validation_Math_15" and not options:
        golds = ["24/7", "3.43"]  # stored as a malformed list of these two
    question = re.sub(
        r"<\s*image\s*1?\s*>", "the picture at the end of the video", clean(row["question"])
    )
    if where.config != "Adaptation":
        question += "\nIgnore the quiz in the last frame."
    return [
        Item(
            f"{where.config}-{name}",
            question,
            golds[0],
            options,
            video=Video((f"{domain}/{name}.mp4",)),
            group=where.config,
            meta={"golds": golds},
        )
    ]


# ---- frames --------------------------------------------------------------------------------------


def find(files, roots):
    return next((root / f for f in files for root in roots if (root / f).exists()), None)


def sample(video, roots, fps=2.0, max_frames=768, tokens=24_576):
    """(PIL frames, their times in seconds) of a Video. Raises ValueError when it is missing or does
    not decode.
    """
    path, start, end = find(video.files, roots), video.start, video.end
    if path is None:
        path, start, end = find(video.cut, roots), None, None
    if path is None:
        raise ValueError(
            f"there is no {' or '.join(video.files[:1] + video.cut[:1])} under {roots[0]}"
        )
    frames, times = (
        _folder(path, start, end, fps, max_frames)
        if path.is_dir()
        else _file(path, start, end, fps, max_frames)
    )
    budget = (
        min(768, max(128, 2 * tokens // len(frames))) * TOKEN
    )  # two frames share a temporal patch
    return [fit(f, 0, budget) for f in frames], times


def indices(first, last, rate, fps, max_frames):
    """Even number of frame numbers from first to last, about fps a second of a source with `rate`
    frames a second.
    """
    n = round((last - first + 1) / rate * fps / 2) * 2
    n = max(2, min(max(n, 4), max_frames // 2 * 2))
    return [first + round(i * (last - first) / (n - 1)) for i in range(n)]


def _file(path, start, end, fps, max_frames):
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            rate = float(stream.average_rate or 0) or 25.0
            total = stream.frames or math.ceil(float(container.duration or 0) / av.time_base * rate)
            if not total:  # some webm say neither
                total = sum(1 for _ in container.decode(stream))
                container.seek(0)
            first = min(int((start or 0) * rate), total - 1)
            last = (
                min(int(end * rate), total - 1) if end else total - 1
            )  # bounds can lie behind the end
            want = indices(first, max(first, last), rate, fps, max_frames)
            got, latest, wanted = {}, None, set(want)
            for k, frame in enumerate(container.decode(stream)):
                latest = k, frame
                if k in wanted:
                    got[k] = frame.to_image()
                if k >= want[-1]:
                    break
    except (OSError, av.FFmpegError, IndexError) as e:
        raise ValueError(f"{path} does not decode ({e})") from e
    if latest is None:
        raise ValueError(f"{path} has no frames")
    if latest[0] < want[-1]:  # the header promised more than there is: keep the real end
        got[latest[0]] = latest[1].to_image()
    kept = [min(got, key=lambda g: abs(g - k)) for k in want]
    return [got[k] for k in kept], [k / rate for k in kept]


def _folder(path, start, end, fps, max_frames):
    """Frames as files 00001.jpg ..., three a second (tvqa)."""
    files = sorted(f for f in path.iterdir() if f.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        raise ValueError(f"{path} has no frames")
    first = min(max(1, round((start or 0) * 3)), len(files))
    last = min(round(end * 3), len(files)) if end else len(files)
    numbers = indices(first, max(first, last), 3.0, fps, max_frames)
    out = []
    for k in numbers:
        with Image.open(files[k - 1]) as image:
            out.append(image.convert("RGB"))
    return out, [(k - 1) / 3 for k in numbers]


def fit(image, low, high):
    """`image` scaled so that its pixels lie between low and high, its shape kept."""
    w, h = image.size
    if low <= w * h <= high:
        return image
    scale = math.sqrt((low if w * h < low else high) / (w * h))
    return image.resize(
        (max(1, round(w * scale)), max(1, round(h * scale))), Image.Resampling.BICUBIC
    )


# ---- subtitles -----------------------------------------------------------------------------------

_TIME = re.compile(r"(\d+):(\d+):(\d+)[,.](\d+)\s*-->\s*(\d+):(\d+):(\d+)[,.](\d+)")


def subtitle_lines(text, times):
    """The lines of an .srt whose span holds (start < t < end) a sampled frame: file order, each
    once, tags off, joined by blanks.
    """
    out = []
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n").lstrip("\ufeff")):
        m = _TIME.search(block)
        if not m:
            continue
        v = list(map(int, m.groups()))
        start, end = (v[i] * 3600 + v[i + 1] * 60 + v[i + 2] + v[i + 3] / 1000 for i in (0, 4))
        line = " ".join(
            re.sub(r"<[^>]+>|\{\\[^}]*\}", "", block[m.end() :]).replace("\\N", " ").split()
        )
        if line and any(start < t < end for t in times):
            out.append(line)
    return " ".join(out)


def with_subtitles(question, video, roots, times):
    """The question under the subtitle lines of its video. No file, or no line in time: the question
    alone (as Qwen's script has it).
    """
    path = find((video.subtitles,), roots) if video.subtitles else None
    lines = (
        subtitle_lines(path.read_text(encoding="utf-8", errors="replace"), times) if path else ""
    )
    return f"The subtitles of the video:\n{lines}\n\n{question}" if lines else question
