"""Benchmarks by name: every row with the columns of its card, local files in place of the Hub, wrong names."""

import base64
import json
from pathlib import Path

import pytest

from eval.benchmark_rows import FILE
from eval.benchmarks import BENCHMARKS, Chosen, choose, load_tasks
from tools.errors import ConfigError, DataError


def encrypted(text: str, key: str = "key") -> str:
    """Encrypt a text as xbench is released."""
    data = bytes(byte ^ key.encode()[i % len(key.encode())] for i, byte in enumerate(text.encode()))
    return base64.b64encode(data).decode()


SHARED = Path(__file__).parents[3] / "shared" / "data"
ROWS = {  # one row of each, with the columns of its card, and the task that it is
    "math500": ({"problem": "1+1?", "solution": "So 2.", "answer": "2", "subject": "Algebra", "level": 1}, "2", "1"),
    "gsm8k": ({"question": "1+1?", "answer": "<<1+1=2>>2\n#### 2"}, "2", ""),
    "gaokao2023en": ({"question": "1+1?", "answer": "$2$", "source": "x"}, "$2$", ""),
    "aime24": ({"id": 60, "problem": "1+1?", "solution": "s", "answer": "002", "url": "u", "year": "2024"}, "002", ""),
    "aime25": ({"problem": "1+1?", "answer": "2", "id": "0"}, "2", ""),
    "hotpotqa": ({"id": "x", "question": "1+1?", "answer": "two", "type": "bridge", "level": "hard"}, "two", "hard"),
    "2wiki": ({"id": "x", "question": "1+1?", "answer": "two", "type": "comparison"}, "two", "comparison"),
    "musique": ({"id": "x", "question": "1+1?", "answer": "two", "answer_aliases": ["2", " "]}, "two", ""),
    "bamboogle": ({"Question": "1+1?", "Answer": "two"}, "two", ""),
    "gaia": ({"task_id": "x", "Question": "1+1?", "Level": 1, "Final answer": "two", "file_name": ""}, "two", "1"),
    "webwalkerqa": (
        {"question": "1+1?", "answer": "two", "root_url": "u", "info": {"difficulty_level": "easy"}},
        "two",
        "easy",
    ),
    "hle": ({"id": "x", "question": "1+1?", "image": "", "answer": "two", "category": "Math"}, "two", "Math"),
    "xbench": ({"id": "1", "prompt": encrypted("1+1?"), "answer": encrypted("two"), "canary": "key"}, "two", ""),
}
PROGRAM = {
    "question_title": "Sum",
    "question_content": "1+1? <|x|> Reason step by step.",
    "platform": "leetcode",
    "starter_code": "class Solution:\n    def f(self): ",
    "difficulty": "easy",
    "public_test_cases": '[{"input": "", "output": "2", "testtype": "functional"}]',
    "private_test_cases": "",
    "metadata": '{"func_name": "f"}',
}


@pytest.fixture
def loader(monkeypatch):
    """Replace `datasets.load_dataset`; returns its calls and the rows or error that it answers with."""
    import datasets

    calls, answer = [], []

    def load_dataset(**asked):
        calls.append(asked)
        if isinstance(answer[0], Exception):
            raise answer[0]
        return answer

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls, answer


def written(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ROWS)
def test_columns_of_the_hub(name: str, loader):
    calls, answer = loader
    row, reference, level = ROWS[name]
    answer += [row, row]
    (task,) = load_tasks(Chosen(name))  # a repeated problem counts once
    assert (task.question, task.answer, task.level) == ("1+1?", reference, level)
    assert task.kind == BENCHMARKS[name].kind and task.source == f"benchmark:{name}"
    assert task.aliases == (("2",) if name == "musique" else ())
    assert calls[0]["path"] == BENCHMARKS[name].hub.name and calls[0]["streaming"] is True


def test_a_program_is_as_it_is_with_its_starter_code(loader):
    calls, answer = loader
    answer.append(PROGRAM)
    (task,) = load_tasks(Chosen("livecodebench"))
    starter = "\n\nStarter code:\n```python\nclass Solution:\n    def f(self):\n```"
    assert task.question == PROGRAM["question_content"] + starter
    assert (task.kind, task.level, task.answer) == ("program", "easy", None)
    assert task.metadata == {f: PROGRAM[f] for f in ("public_test_cases", "metadata")}
    address = "hf://datasets/livecodebench/code_generation_lite/test6.jsonl"
    assert (calls[0]["path"], calls[0]["data_files"]) == ("json", {"test": address})
    answer[0] = {"question_content": "1+1?"}
    with pytest.raises(DataError, match="row 1: no tests"):
        load_tasks(Chosen("livecodebench"))


def test_every_name_has_a_row_here():
    assert {*ROWS, "livecodebench"} == set(BENCHMARKS)


@pytest.mark.parametrize("name", ROWS)
def test_a_local_copy_with_the_hubs_columns_or_with_ours(name: str, tmp_path: Path):
    row, reference, level = ROWS[name]
    ours = {"question": "2+2?", "answer": "long text \\boxed{5}", "ground_truth": "four", "aliases": ["4"]}
    path = written(tmp_path / "copy.jsonl", row, ours)
    first, second = load_tasks(choose(f"{name}:{path}"))
    assert (first.question, first.answer, first.level) == ("1+1?", reference, level)
    assert (second.question, second.answer, second.aliases) == ("2+2?", "four", ("4",))
    assert len(load_tasks(choose(f"{name}:{path}"), limit=1)) == 1


def test_parquet(tmp_path: Path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "copy.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROWS["bamboogle"][0]]), path)
    assert load_tasks(choose(f"bamboogle:{path}"))[0].answer == "two"


@pytest.mark.parametrize(
    ("text", "near"),
    [("math50", "math500"), ("HotpotQA", "hotpotqa"), ("aime", "aime2"), ("livecode:x", "livecodebench")],
)
def test_a_wrong_name_is_told_the_nearest(text: str, near: str):
    with pytest.raises(ConfigError, match=f"did you mean {near}.*There are math500, gsm8k") as raised:
        choose(text)
    assert "\n" not in str(raised.value)


def test_files_that_are_none(tmp_path: Path):
    with pytest.raises(DataError, match=r"no such file 'no\.jsonl'"):
        choose("math500:no.jsonl")
    for rows, said in [
        (
            [{"text": "1+1?"}],
            "has no question; give it a column 'problem' or question, problem, prompt; there are text",
        ),
        ([], "holds no problem"),
        ([{"problem": "1+1?"}], "holds no problem"),
    ]:
        path = written(tmp_path / "x.jsonl", *rows)
        with pytest.raises(DataError, match=said):
            load_tasks(choose(f"math500:{path}"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ConnectionError("Couldn't reach it\nmore"),
            "the Hub cannot be reached.*use a copy: --benchmark math500:FILE$",
        ),
        (ValueError("Dataset is a gated dataset"), "access is denied.*set HF_TOKEN"),
        (ValueError("BuilderConfig 'x' not found"), "not found; check the name"),
    ],
)
def test_gated_or_missing_sets_are_one_line(error: Exception, said: str, loader):
    loader[1].append(error)
    with pytest.raises(
        (ConfigError, DataError), match=rf"^--benchmark math500 \(hf:HuggingFaceH4/MATH-500\): .*{said}"
    ) as e:
        load_tasks(Chosen("math500"))
    assert "\n" not in str(e.value)


def test_a_column_that_is_gone(loader):
    loader[1].append({"text": "1+1?"})
    with pytest.raises(ConfigError, match=r"^--benchmark math500 .*no column 'problem' for question=…; there are text"):
        load_tasks(Chosen("math500"))


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is absent")
@pytest.mark.parametrize(
    ("name", "file", "n", "answer", "level"),
    [
        ("math500", "math500", 500, "\\left( 3, \\frac{\\pi}{2} \\right)", "2"),
        ("gsm8k", "gsm8k_test", 1319, "18", ""),
        (
            "gaokao2023en",
            "gaokao2023en",
            383,
            "$\\{x|-2\\leq x < 1\\}$",
            "",
        ),  # two more have no answer (it stands in the question)
        ("aime24", "aime24", 30, "204", ""),
        ("hotpotqa", "hotpotqa", 100, "Gesellschaft mit beschränkter Haftung", "hard"),
    ],
)
def test_real_files(name: str, file: str, n: int, answer: str, level: str):
    tasks = load_tasks(choose(f"{name}:{SHARED / file}.jsonl"))
    assert (len(tasks), tasks[0].answer, tasks[0].level) == (n, answer, level)
    assert {task.kind for task in tasks} == {BENCHMARKS[name].kind}


def test_a_file_of_gaia_is_named_in_its_question(tmp_path: Path):
    row = {"Question": "How many rows?", "Final answer": "17", "Level": "2", "file_name": "a b.xlsx", "file_path": "x"}
    (task,) = load_tasks(choose(f"gaia:{written(tmp_path / 'metadata.jsonl', row)}"))
    assert task.question == "How many rows?\n\nAttached file: a b.xlsx"
    assert (task.metadata, task.kind, task.answer) == ({FILE: "a b.xlsx"}, "short", "17")


def test_questions_about_images_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = [{"question": f"{i}?", "answer": "x", "image": "data:image/png;base64," if i else ""} for i in range(3)]
    assert [task.question for task in load_tasks(choose(f"hle:{written(tmp_path / 'h.jsonl', *rows)}"))] == ["0?"]
    assert "2 questions about images were left out" in caplog.text


def test_webwalkers_columns_in_the_spelling_of_its_card(tmp_path: Path):
    rows = [
        {"Question": "When?", "Answer": "May 1", "Root_Url": "u", "Info": {"Difficulty_Level": "Medium"}},
        {"question": "Who?", "answer": "K", "info": '{"difficulty_level": "hard"}'},
    ]
    tasks = load_tasks(choose(f"webwalkerqa:{written(tmp_path / 'w.jsonl', *rows)}"))
    assert [(t.question, t.answer, t.level) for t in tasks] == [("When?", "May 1", "Medium"), ("Who?", "K", "hard")]
    path = written(tmp_path / "x.jsonl", {"question": "Who?", "answer": "K", "info": "{"})
    with pytest.raises(DataError, match=r"x\.jsonl:1: `info` is not JSON"):
        load_tasks(choose(f"webwalkerqa:{path}"))


def test_xbench_as_released_and_decrypted(tmp_path: Path):
    path = tmp_path / "DeepSearch.csv"
    cells = ("1", encrypted("谁？", "xbench-ca"), encrypted("卡拉，林特", "xbench-ca"), "xbench-ca")
    path.write_text("\ufeffid,prompt,answer,canary\n" + ",".join(cells) + "\n", encoding="utf-8")
    (task,) = load_tasks(choose(f"xbench:{path}"))
    assert (task.question, task.answer, task.kind) == ("谁？", "卡拉，林特", "short")
    plain = written(tmp_path / "p.jsonl", {"prompt": "Who?", "answer": "K"})
    assert load_tasks(choose(f"xbench:{plain}"))[0].answer == "K"
    wrong = written(tmp_path / "q.jsonl", {"prompt": "Who?", "answer": "K", "canary": "key"})
    with pytest.raises(DataError, match=r"q\.jsonl:1: `prompt` is not as released .*leave `canary` out"):
        load_tasks(choose(f"xbench:{wrong}"))


def test_a_csv_copy(tmp_path: Path):
    path = tmp_path / "c.csv"
    path.write_text('Question,Answer\n"1+1, or\nmore?",two\n')
    (task,) = load_tasks(choose(f"bamboogle:{path}"))
    assert (task.question, task.answer) == ("1+1, or\nmore?", "two")
    path.write_text("Question,Answer\na,b,c\n")
    with pytest.raises(DataError, match=r"c\.csv: row 2 has more cells"):
        load_tasks(choose(f"bamboogle:{path}"))


@pytest.mark.parametrize("name", ["gaia", "hle"])
def test_gated_sets_ask_for_the_users_own_copy(name: str, loader):
    loader[1].append(ValueError("Dataset is a gated dataset on the Hub"))
    with pytest.raises(
        ConfigError, match=rf"accept its terms on \S+ and set HF_TOKEN, or use .*copy: --benchmark {name}:FILE$"
    ):
        load_tasks(Chosen(name))


def test_decontamination_reads_questions_decrypted_and_those_with_images_not(loader):
    from distill.tasks import load_benchmark

    _, answer = loader
    answer.append(ROWS["xbench"][0])
    assert load_benchmark("xbench") == ["1+1?"]
    answer[:] = [{"question": "Seen?", "image": "data:"}, {"question": " Asked?", "image": ""}]
    assert load_benchmark("hle") == ["Asked?"]
