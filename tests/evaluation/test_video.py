"""The five video benchmarks: their surprising facts, clips, frames and subtitles.

python -m pytest tests/evaluation/test_video.py
"""

import pytest
from benchmark_fixtures import SRT, clip, write
from PIL import Image
from test_benchmarks import items, run

from evaluation import video
from evaluation.rows import Where

# ---- video ---------------------------------------------------------------------------------------


def test_mmvu_path_is_cut_from_the_url_and_open_rows_have_no_options(tmp_path):
    got = items("MMVU", tmp_path)
    assert (
        got[0].video.files == ("videos/Art/0.mp4",)
        and len(got[0].options) == 5
        and got[1].options == ()
    )


def test_mvbench_gold_is_a_text_and_bounds_are_clipped(tmp_path):
    got = {i.group: i for i in items("MVBench", tmp_path)}
    assert (
        len(got) == 19
        and "fine_grained_pose" not in got
        and all(i.gold == "B" for i in got.values())
    )
    assert got["action_sequence"].video.start == 0.5 and got["action_antonym"].video.start is None
    root = [tmp_path / "OpenGVLab/MVBench"]
    frames, times = video.sample(got["action_sequence"].video, root)  # 0.5 to 60 s of a 2 s clip
    assert times[0] == 0.5 and times[-1] == 1.75 and len(frames) % 2 == 0
    frames, times = video.sample(
        got["episodic_reasoning"].video, root
    )  # a folder of frames, three a second, from 00002.jpg
    assert frames[0].getpixel((0, 0))[0] == pytest.approx(40, abs=3) and times[0] == pytest.approx(
        1 / 3
    )
    assert video.sample(got["object_existence"].video, root)[1][0] == 0  # found under data0613


@pytest.mark.parametrize("name", ["clip_5.0_9.0.mp4", "clip_5_9.mp4", "clip_5.00_9.0.mp4"])
@pytest.mark.parametrize("folder", ["star/Charades_segment", "video/star/Charades_segment"])
def test_mvbench_cut_clips_are_found_by_their_bounds_and_not_cut_again(tmp_path, folder, name):
    for other in ("clip_5.0_19.0.mp4", "clip_15.0_9.0.mp4", "clipper_5.0_9.0.mp4"):
        clip(tmp_path / folder / other, frames=2)
    clip(tmp_path / folder / name)
    row = {"video": "clip.mp4", "start": "5", "end": 9.0, "question": "?"}
    row |= {"candidates": ["a", "b"], "answer": "b"}
    item = video.mvbench(row, Where("action_sequence", "train", 0, tmp_path))[0]
    path, start, end = video.locate(item.video, [tmp_path])
    assert (path, start, end) == (tmp_path / folder / name, None, None)
    assert video.sample(item.video, [tmp_path])[1][0] == 0
    path.unlink()
    with pytest.raises(FileNotFoundError, match="there is no video/star/Charades_v1_480/clip.mp4"):
        video.sample(item.video, [tmp_path])


def test_mvbench_leaves_out_only_the_task_that_may_not_be_distributed(tmp_path):
    row = {"video": "a.mp4", "question": "?", "candidates": ["a", "b"], "answer": "b"}
    for task, left in (("fine_grained_pose", 0), ("action_antonym", 1)):
        assert len(video.mvbench(row, Where(task, "train", 0, tmp_path))) == left


def test_videomme_file_name_is_videoid_and_options_are_not_lettered_twice(tmp_path):
    item = items("VMME", tmp_path)[0]
    assert item.video.files[0] == "data/-Ab_c.mp4" and item.options == (
        "one",
        "two",
        "three",
        "four",
    )
    assert item.text().count("A. ") == 1


def test_subtitles_only_at_sampled_frames_once_each_in_order(lm, tmp_path):
    write("VMMES", tmp_path / "data")
    run(lm, tmp_path, "VMMES")
    _, engine = run(lm, tmp_path, "VMMES", "--out", tmp_path / "o2")
    text = lm.tokenizer.decode(engine.calls[0]["prompts"][0].ids)
    assert (
        "first line long line\n" in text
        and "font" not in text
        and "after the end" not in text
        and text.count("long line") == 1
    )
    assert text.index("first line") < text.index("How many?")


def test_subtitle_span_is_strict_and_missing_files_leave_the_block_out(tmp_path):
    assert video.subtitle_lines(SRT, [0.1]) == "long line"  # start < t, strictly
    assert video.subtitle_lines(SRT, [0.5, 0.6]) == "first line long line"
    assert video.subtitle_lines(SRT, [6.0]) == ""
    assert (
        video.with_subtitles(
            "Q?", video.Video(("x",), subtitles="subtitle/none.srt"), [tmp_path], [1.0]
        )
        == "Q?"
    )


def test_videommmu_finds_the_video_by_id_and_keeps_the_last_frame(tmp_path):
    got = items("VMMMU", tmp_path)
    assert (
        got[0].video.files == ("Business/validation_Economics_2.mp4",)
        and got[0].options[13] == "13"
    )  # letters taken off, N reached
    assert got[2].options and got[2].gold == "C"  # Accounting_13 has no type; its options decide
    assert got[3].meta["golds"] == ["24/7", "3.43"] and not got[4].options and got[4].gold == "A"
    assert got[5].video.files[0].startswith("Medicine/") and "<image" not in got[2].question
    frames, _ = video.sample(got[2].video, [tmp_path / "lmms-lab/VideoMMMU"])
    assert (
        frames[-1].getpixel((5, 5))[0] > 200 and frames[-1].getpixel((5, 5))[1] < 60
    )  # the picture appended to the mp4


def test_frame_numbers():
    assert video.indices(0, 239, 24, 2.0, 768) == [
        round(i * 239 / 19) for i in range(20)
    ]  # 10 s at 2 a second
    assert len(video.indices(0, 10**6, 24, 2.0, 768)) == 768 and video.indices(
        0, 3, 24, 2.0, 768
    ) == [0, 1, 2, 3]
    assert len(video.indices(0, 100, 24, 2.0, 7)) == 6


def test_frames_share_the_token_budget(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    for k in range(1, 31):
        Image.new("RGB", (1600, 900)).save(folder / f"{k:05d}.jpg")
    frames, _ = video.sample(video.Video(("f",)), [tmp_path], fps=2, tokens=2000)
    assert (
        len(frames) == 20
        and 128 * 1024 * 0.98 < frames[0].width * frames[0].height < 200 * 1024 * 1.02
    )


def test_damaged_video_is_counted_and_said(lm, tmp_path):
    write("VMME", tmp_path / "data")
    (tmp_path / "data/lmms-lab/Video-MME/data/-Ab_c.mp4").write_bytes(b"not a video")
    result, engine = run(lm, tmp_path, "VMME", replies=())
    assert result["unreadable"] == 2 and result["score"] == 0 and not engine.calls
    assert "does not decode" in (tmp_path / "out/responses/VMME.jsonl").read_text()
