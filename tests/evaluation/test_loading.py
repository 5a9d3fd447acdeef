"""Loading benchmarks: local copies in several layouts, the hub, and what is missing in one line.

python -m pytest tests/evaluation/test_loading.py
"""

import json
import zipfile

import pytest
from benchmark_fixtures import CASES, save, write
from benchmark_tools import Answers

import evaluation.suite as ev
from evaluation import loading
from evaluation.benchmarks import CEVAL_SUBJECTS, TABLE, find
from evaluation.loading import Questions, Unavailable


@pytest.fixture(autouse=True)
def reachable(monkeypatch):
    """The hub answers; what it says is each test's own."""
    monkeypatch.setattr(loading, "hub_answers", lambda: True)


def unreachable(monkeypatch, error):
    import datasets

    def load_dataset(path, *a, **k):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def test_gated_data_set_names_the_page(monkeypatch, tmp_path):
    import datasets

    unreachable(
        monkeypatch,
        datasets.exceptions.DatasetNotFoundError(
            "Dataset 'Idavidrein/gpqa' is a gated dataset on the Hub."
        ),
    )
    with pytest.raises(Unavailable) as e:
        Questions(next(b for b in TABLE if b.name == "GPQA-D"), tmp_path)
    assert "https://huggingface.co/datasets/Idavidrein/gpqa" in str(e.value) and str(
        tmp_path / "Idavidrein/gpqa"
    ) in str(e.value)
    assert "\n" not in str(e.value) and "accept its terms" in str(e.value)


def test_videos_that_are_not_there_name_the_folder(tmp_path):
    with pytest.raises(Unavailable, match="unpack .*datasets/lmms-lab/Video-MME into"):
        Questions(next(b for b in TABLE if b.name == "VMME"), tmp_path)


def test_moved_repository_is_tried_next(monkeypatch, tmp_path):
    import datasets

    real, asked = datasets.load_dataset, []

    def load_dataset(path, *a, **k):
        if "/" in str(path) and not str(path).startswith("/"):
            asked.append(path)
            raise datasets.exceptions.DatasetNotFoundError(f"{path} doesn't exist")
        return real(path, *a, **k)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    save(
        tmp_path,
        "lmms-lab-encoder/ai2d",
        "default",
        "test",
        CASES["AI2D"]["parts"]["default", "test"],
    )
    assert len(list(Questions(next(b for b in TABLE if b.name == "AI2D"), tmp_path))) == 4
    assert asked == ["lmms-lab/ai2d"]


def test_a_clone_with_its_own_readme_loads_by_it(tmp_path):
    root = tmp_path / "MathArena/aime_2026"
    root.mkdir(parents=True)
    (root / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: train\n    path: d/x-*.jsonl\n---\n"
    )
    (root / "d").mkdir()
    (root / "d/x-0.jsonl").write_text('{"problem_idx": 1, "problem": "p", "answer": 5}\n')
    assert [i.gold for i in Questions(next(b for b in TABLE if b.name == "AIME26"), tmp_path)] == [
        "5"
    ]


@pytest.mark.parametrize(
    "change, message",
    [({"answer": "x"}, "not as expected"), ({"question": None, "options": None}, "")],
)
def test_a_changed_schema_is_one_line(lm, tmp_path, change, message):
    row = dict(CASES["AI2D"]["parts"]["default", "test"][1], **change)
    row.pop("options") if message == "" else None
    save(tmp_path, "lmms-lab/ai2d", "default", "test", [row])
    with pytest.raises(Unavailable, match="row 0 of default/test is not as expected"):
        list(Questions(next(b for b in TABLE if b.name == "AI2D"), tmp_path))


def test_the_others_go_on(lm, tmp_path, monkeypatch, capsys):
    write("AIME26", tmp_path / "data")
    monkeypatch.setattr(
        loading,
        "open_parts",
        lambda b, *a, real=loading.open_parts: (
            real(b, *a)
            if b.name == "AIME26"
            else (_ for _ in ()).throw(Unavailable(f"{b.name}: not here"))
        ),
    )
    args = ev.flags(
        [
            "s",
            "--only",
            "GPQA-D",
            "AIME26",
            "--data",
            str(tmp_path / "data"),
            "--out",
            str(tmp_path / "out"),
        ]
    )
    results, missing = ev.run(args, engine=Answers(lm, CASES["AIME26"]["replies"]))
    assert [r["name"] for r in results] == ["AIME26"] and missing == [
        "not evaluated: GPQA-D: not here"
    ]
    assert "not evaluated: GPQA-D: not here" in capsys.readouterr().out


# ---- layouts of the benchmarks' own repositories -------------------------------------------------


def ceval_csv(subject):
    return (
        "id,question,A,B,C,D,answer,explanation\n"
        f'0,"题目, {subject}",1.0,2,3,NA,B,\n1,下面,甲,乙,丙,丁,D,\n'
    )


def test_cevals_zip_and_its_folders_load(tmp_path):
    bench = find(["CEval"])[0]
    for zipped in (True, False):
        root = tmp_path / str(zipped) / "ceval/ceval-exam"
        root.mkdir(parents=True)
        files = {f"val/{s}_val.csv": ceval_csv(s) for s in CEVAL_SUBJECTS}
        files |= {f"dev/{s}_dev.csv": "id\n" for s in CEVAL_SUBJECTS}
        if zipped:
            with zipfile.ZipFile(root / "ceval-exam.zip", "w") as archive:
                for name, text in files.items():
                    archive.writestr(name, text)
        else:
            for name, text in files.items():
                (root / name).parent.mkdir(exist_ok=True)
                (root / name).write_text(text, encoding="utf-8")
        got = list(Questions(bench, tmp_path / str(zipped)))
        assert len(got) == 104 and got[0].id == "computer_network-0" and got[0].gold == "B"
        # cells stay text
        assert got[0].options == ("1.0", "2", "3", "NA") and got[0].question.endswith("network")


def test_multichallenges_own_file_loads(tmp_path):
    root = tmp_path / "ScaleAI/MultiChallenge"
    (root / "data/final_model_responses").mkdir(parents=True)
    (root / "data/final_model_responses/m.jsonl").write_text("{}\n")
    (root / "README.md").write_text("# MultiChallenge\n")
    row = CASES["MultiCh"]["parts"]["default", "test"][0]
    upper = {k.upper(): v for k, v in row.items()}
    (root / "data/benchmark_questions.jsonl").write_text(json.dumps(upper) + "\n")
    got = list(Questions(find(["MultiCh"])[0], tmp_path))
    assert [i.id for i in got] == [row["question_id"]] and got[0].turns


def test_a_json_of_rows_by_id_loads(tmp_path):
    root = tmp_path / "AI4Math/MathVista/data"
    root.mkdir(parents=True)
    row = dict(CASES["MVista"]["parts"]["default", "testmini"][0], image="images/1.jpg")
    row.pop("decoded_image")
    (root / "testmini.json").write_text(json.dumps({row["pid"]: row}))
    got = list(Questions(find(["MVista"])[0], tmp_path))
    assert got[0].images == ("images/1.jpg",)


def test_a_partial_copy_names_what_it_lacks(tmp_path):
    bench, rows = find(["MMLU-Rd"])[0], CASES["MMLU-Rd"]["parts"]
    subjects = [config for config, _ in bench.parts]
    some = next(iter(rows.values()))
    for subject in subjects[:3]:
        save(tmp_path, bench.repos[0], subject, "test", some)
    with pytest.raises(Unavailable) as e:
        Questions(bench, tmp_path)
    assert f"its copy in {tmp_path}/{bench.repos[0]} is not whole" in str(e.value)
    assert f"there is no {subjects[3]}/test.parquet" in str(e.value) and "\n" not in str(e.value)


def test_without_a_hub_the_answer_comes_at_once(tmp_path, monkeypatch):
    import time

    import datasets
    import huggingface_hub

    monkeypatch.undo()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    loading.hub_answers.cache_clear()
    start = time.perf_counter()
    for name in ("AIME25", "MMLU", "GPQA-D"):
        with pytest.raises(Unavailable, match="the hub does not answer"):
            Questions(find([name])[0], tmp_path)
    assert time.perf_counter() - start < 5
    loading.hub_answers.cache_clear()


def test_a_hub_that_says_no_is_there(monkeypatch):
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    import huggingface_hub

    class No(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(403)

        def log_message(self, *a):
            pass

    monkeypatch.undo()
    server = HTTPServer(("127.0.0.1", 0), No)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    loading.hub_answers.cache_clear()
    assert loading.hub_answers()
    loading.hub_answers.cache_clear()
    server.shutdown()
    server.server_close()


def test_the_list_has_the_names_that_only_takes_and_the_expected_rows(capsys):
    assert ev.main(["--list"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [b.name for b in find([r[0] for r in rows])] == [b.name for b in TABLE]
    listed = {b.name: b.rows for b in TABLE}
    assert listed["OCREN"] == 7400 and listed["OCRZH"] == 2600 and all(listed.values())
    assert all(str(listed[r[0]]) in r for r in rows)
