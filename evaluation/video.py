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

import glob
import math
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from evaluation.rows import LETTERS, Item, clean, options_of

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
    cut: tuple = ()  # files that hold the part alone; _START_END.mp4 may be left out


# ---- rows ----------------------------------------------------------------------------------------


def mmvu(row, where):
    path = "videos/" + row["video"].split("videos/", 1)[1]  # stored as a full URL
    kind = "choice" if row["question_type"] == "multiple-choice" else "open"
    # open rows have five empty choices
    options = tuple(clean(row["choices"][k]) for k in "ABCDE") if kind == "choice" else ()
    more = {"video": Video((path,)), "group": kind, "meta": {"judge": f"mmvu_{kind}"}}
    return [Item(row["id"], clean(row["question"]), clean(row["answer"]), options, **more)]


STAR = ("star/Charades_v1_480", "star/Charades_segment", True)
CLEVRER = ("clevrer/video_validation", "clevrer/video_validation", False)
PERCEPTION = ("perception/videos", "perception/videos", False)
MVBENCH = {  # task: (folder on the main branch, folder on the `video` branch, has start and end)
    **dict.fromkeys(("action_sequence", "action_prediction", "object_interaction"), STAR),
    "action_localization": ("sta/sta_video", "sta/sta_video_segment", True),
    "episodic_reasoning": ("tvqa/frames_fps3_hq", "tvqa/video_fps3_hq_segment", True),
    "action_antonym": ("ssv2_video", "ssv2_video_mp4", False),
    "fine_grained_pose": ("nturgbd", "nturgbd_convert", False),
    "fine_grained_action": ("Moments_in_Time_Raw/videos", "Moments_in_Time_Raw/videos", False),
    "unexpected_action": ("FunQA_test/test", "FunQA_test/test", False),
    **dict.fromkeys(("object_existence", "moving_direction", "moving_count"), CLEVRER),
    **dict.fromkeys(("moving_attribute", "counterfactual_inference"), CLEVRER),
    **dict.fromkeys(("object_shuffle", "action_count"), PERCEPTION),
    **dict.fromkeys(("state_change", "character_order"), PERCEPTION),
    "scene_transition": ("scene_qa/video", "scene_qa/video", False),
    "egocentric_navigation": ("vlnqa", "vlnqa", False),
}


def mvbench(row, where):
    main, branch, bounded = MVBENCH[where.config]
    mains = (f"video/{main}", f"video/data0613/{main}")
    branches = (branch, f"video/{branch}")
    if where.config == "fine_grained_pose":
        # NTU RGB+D may not be distributed: the task is then left out, and said so
        if not any((where.root / folder).is_dir() for folder in (*mains, *branches)):
            return []
    name, options = row["video"], tuple(map(clean, row["candidates"]))
    start, end = (float(row["start"]), float(row["end"])) if bounded else (None, None)
    names = (Path(name).stem,) if bounded else (name, f"{Path(name).stem}.mp4")
    cut = tuple(f"{folder}/{n}" for folder in branches for n in names)
    video = Video(tuple(f"{folder}/{name}" for folder in mains), start, end, cut=cut)
    gold = LETTERS[options.index(clean(row["answer"]))]  # stored as the text of a candidate
    id_, question = f"{where.config}-{where.index}", clean(row["question"])
    return [Item(id_, question, gold, options, video=video, group=where.config)]


def videomme(subtitles):
    """The row function of Video-MME, with or without subtitles."""
    folders, endings = ("data/", "", "videos/"), ("mp4", "MP4", "mkv")

    def row_items(row, where):
        name = row["videoID"]  # not video_id, which only groups rows
        files = tuple(f"{folder}{name}.{ext}" for folder in folders for ext in endings)
        video = Video(files, subtitles=f"subtitle/{name}.srt" if subtitles else "")
        question, options = clean(row["question"]), options_of(row["options"])
        more = {"video": video, "group": row["duration"]}
        return [Item(str(row["question_id"]), question, row["answer"], options, **more)]

    return row_items


DOMAINS = {
    "Art": "Art Art_Theory Design Music",
    "Business": "Accounting Economics Finance Manage Marketing",
    "Engineering": "Agriculture Architecture_and_Engineering Computer_Science Electronics "
    "Energy_and_Power Materials Mechanical_Engineering",
    "Humanities": "History Literature Psychology Sociology",
    "Medicine": "Basic_Medical_Science Clinical_Medicine Diagnostics_and_Laboratory_Medicine "
    "Pharmacy Public_Health",
    "Science": "Biology Chemistry Geography Math Physics",
}
DOMAIN_OF = {subject: name for name, subjects in DOMAINS.items() for subject in subjects.split()}


def videommmu(row, where):
    name = row["id"]
    domain = DOMAIN_OF[name.split("_", 1)[1].rsplit("_", 1)[0]]  # no video column: the id leads
    # options decide, not question_type (Accounting_13 has none)
    options, golds = options_of(row["options"] or []), [clean(row["answer"])]
    if name == "validation_Math_15" and not options:
        golds = ["24/7", "3.43"]  # stored as a malformed list of these two
    picture = "the picture at the end of the video"
    question = re.sub(r"<\s*image\s*1?\s*>", picture, clean(row["question"]))
    if where.config != "Adaptation":
        question += "\nIgnore the quiz in the last frame."
    video = Video((f"{domain}/{name}.mp4",))
    more = {"video": video, "group": where.config, "meta": {"golds": golds}}
    return [Item(f"{where.config}-{name}", question, golds[0], options, **more)]


# ---- frames --------------------------------------------------------------------------------------


def find(files, roots):
    """The first of `files` that exists under one of the roots, or None."""
    return next((root / f for f in files for root in roots if (root / f).exists()), None)


_BOUNDS = re.compile(r"_(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?)\.\w+$")


def locate(video, roots):
    """(path, start, end) of what is there of a Video: the whole of it, else the part cut out. A cut
    file has its bounds in its name, compared as numbers: 5 and 5.0 are both written. Raises
    FileNotFoundError.
    """
    if path := find(video.files, roots):
        return path, video.start, video.end
    path = find(video.cut, roots)
    if path is None and video.start is not None:
        path = next(_cut_out(video, roots), None)
    if path is None:
        names = " or ".join(video.files[:1] + video.cut[:1])
        raise FileNotFoundError(f"there is no {names} under {roots[0]}")
    return path, None, None


def _cut_out(video, roots):
    for stem in video.cut:
        for root in roots:
            folder, name = (root / stem).parent, Path(stem).name
            for file in sorted(folder.glob(f"{glob.escape(name)}_*")):
                m = _BOUNDS.fullmatch(file.name[len(name) :])
                if m and abs(float(m[1]) - video.start) + abs(float(m[2]) - video.end) < 0.01:
                    yield file


def sample(video, roots, fps=2.0, max_frames=768, tokens=24_576):
    """(PIL frames, their times in seconds) of a Video. Raises FileNotFoundError when it is missing,
    ValueError when it does not decode.
    """
    path, start, end = locate(video, roots)
    read = _folder if path.is_dir() else _file
    frames, times = read(path, start, end, fps, max_frames)
    # two frames share a temporal patch
    budget = min(768, max(128, 2 * tokens // len(frames))) * TOKEN
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
            # bounds can lie behind the end
            first = min(int((start or 0) * rate), total - 1)
            last = min(int(end * rate), total - 1) if end else total - 1
            want = indices(first, max(first, last), rate, fps, max_frames)
            got = _decode(container.decode(stream), want)
    except (OSError, av.FFmpegError, IndexError) as e:
        raise ValueError(f"{path} does not decode ({e})") from e
    if not got:
        raise ValueError(f"{path} has no frames")
    kept = [min(got, key=lambda g: abs(g - k)) for k in want]
    return [got[k] for k in kept], [k / rate for k in kept]


def _decode(frames, want):
    """{number: picture} of the wanted frames; of a video that ends early also its last one."""
    got, wanted, number, frame = {}, set(want), -1, None
    for number, frame in enumerate(frames):
        if number in wanted:
            got[number] = frame.to_image()
        if number >= want[-1]:
            return got
    if frame is not None:  # the header promised more than there is: keep the real end
        got[number] = frame.to_image()
    return got


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
        line = re.sub(r"<[^>]+>|\{\\[^}]*\}", "", block[m.end() :])
        line = " ".join(line.replace("\\N", " ").split())
        if line and any(start < t < end for t in times):
            out.append(line)
    return " ".join(out)


def with_subtitles(question, video, roots, times):
    """The question under the subtitle lines of its video. No file, or no line in time: the question
    alone (as Qwen's script has it).
    """
    path = find((video.subtitles,), roots) if video.subtitles else None
    if path is None:
        return question
    lines = subtitle_lines(path.read_text(encoding="utf-8", errors="replace"), times)
    return f"The subtitles of the video:\n{lines}\n\n{question}" if lines else question
