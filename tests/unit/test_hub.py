"""Problems of the Hub: presets, fields, answers, limits and one-line errors, on local sets in the Hub's layout."""

import itertools
import json
from pathlib import Path

import pytest

from distill.presets import PRESETS
from distill.tasks import load_benchmark, load_tasks, save_parts, saved_parts
from eval import hub
from eval.benchmarks import BENCHMARKS
from eval.hub import HubSet, clean_question, read_hub, reference_answer
from tools.errors import ConfigError, DataError

ROWS = {  # one row of each preset, with the columns of its card
    "polaris": {"problem": "1+1?", "answer": "2", "difficulty": "3/8"},
    "deepscaler": {"problem": "1+1?", "answer": "2", "solution": "It is 2."},
    "areal-boba": {
        "prompt": "<｜User｜>\n1+1?\nPlease reason step by step, and put your final answer within \\boxed{}."
        "<｜Assistant｜><think>\n",
        "task": "math",
        "query_id": "x",
        "solutions": ["\\boxed{2}"],
    },
    "gsm8k": {"question": "1+1?", "answer": "Add: 1+1=<<1+1=2>>2\n#### 2"},
    "math": {"problem": "1+1?", "level": "Level 1", "type": "Algebra", "solution": "So $1+1=\\boxed{2}$."},
}


def local_set(folder: Path, rows: list[dict], name: str = "train.jsonl") -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "data" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


class Stream:
    """What `load_dataset(streaming=True)` returns, counting the rows that were read."""

    def __init__(self, rows: list[dict]) -> None:
        self.rows, self.read, self.shuffled = rows, 0, None

    def shuffle(self, **how: int) -> "Stream":
        self.shuffled = how
        return self

    def __iter__(self):
        for row in self.rows:
            self.read += 1
            yield row


@pytest.fixture
def loader(monkeypatch):
    """Replace `datasets.load_dataset`; returns (calls, streams)."""
    import datasets

    calls: list[dict] = []
    answers: list[Stream | Exception] = []

    def load_dataset(path: str, name: str | None = None, **more):
        calls.append({"path": path, "name": name, **more})
        answer = answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls, answers


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_maps_its_columns(preset, loader):
    calls, answers = loader
    answers.append(Stream([ROWS[preset]]))
    (task,) = load_tasks(f"hf:{preset}", 1, 0)
    assert (task.question, task.answer) == ("1+1?", "2")
    assert task.source == f"hf:{PRESETS[preset].name}"
    assert task.level == {"polaris": "3/8", "math": "Level 1"}.get(preset, "")
    assert calls[0]["streaming"] is True and calls[0]["split"] == "train"


def test_what_is_asked_of_the_library(loader):
    calls, answers = loader
    answers.append(Stream([ROWS["gsm8k"]]))
    load_tasks("hf:gsm8k?revision=abc", 1, 0)
    assert calls[0] == {
        "path": "openai/gsm8k",
        "name": "main",
        "revision": "abc",
        "split": "train",
        "streaming": True,
    }


def test_a_named_file_is_loaded_by_its_own_builder(loader):
    calls, answers = loader
    answers.append(Stream([ROWS["areal-boba"]]))
    load_tasks("hf:areal-boba", 1, 0)
    address = "hf://datasets/inclusionAI/AReaL-boba-Data/AReaL-boba-106k.jsonl"
    assert (calls[0]["path"], calls[0]["data_files"]) == ("json", {"train": address})


def test_no_more_rows_are_read_than_asked_for(loader):
    _, answers = loader
    stream = Stream([{"question": f"{i // 2}+1?", "answer": str(i)} for i in range(100)])  # each problem twice
    answers.append(stream)
    assert len(load_tasks("hf:org/name", 5, 3)) == 5
    assert stream.read == 9  # the fifth problem stands in row nine
    assert stream.shuffled == {"seed": 3, "buffer_size": 20}


def test_a_local_folder_in_the_hubs_layout(tmp_path):
    rows = [{"q": f"{i}+1?", "meta": {"gold": [str(i + 1)]}} for i in range(30)]
    local_set(tmp_path, rows)
    local_set(tmp_path, [{"q": "held out?", "meta": {"gold": ["0"]}}], "test.jsonl")
    source = f"hf:{tmp_path}?question=q&answer=meta.gold"
    tasks = load_tasks(source, 10, 0)
    assert len(tasks) == 10
    assert all(int(t.question.split("+")[0]) + 1 == int(t.answer or "") for t in tasks)
    assert [t.id for t in load_tasks(source, 10, 0)] == [t.id for t in tasks]
    assert [t.id for t in load_tasks(source, 10, 1)] != [t.id for t in tasks]
    assert [t.question for t in load_tasks(f"{source}&split=test", 9, 0)] == ["held out?"]
    assert len(load_tasks(f"{source}&file=data/train.jsonl&split=any", 99, 0)) == 30


def test_a_missing_column_names_those_there_are(tmp_path):
    local_set(tmp_path, [{"problem": "1+1?", "answer": "2"}])
    with pytest.raises(ConfigError, match=r"no column 'question' for question=….*there are problem, answer$"):
        load_tasks(f"hf:{tmp_path}", 1, 0)
    with pytest.raises(ConfigError, match="no column 'gold' for answer="):
        load_tasks(f"hf:{tmp_path}?question=problem&answer=gold", 1, 0)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("hf:", "no name"),
        ("hf:polari", "no preset 'polari'; there are polaris, deepscaler"),
        ("hf:org/name?colour=red", "unknown option 'colour'; there are config, split, question"),
    ],
)
def test_a_wrong_name_or_option(source, said):
    with pytest.raises(ConfigError, match=said):
        load_tasks(source, 1, 0)


def test_errors_of_the_library_are_one_line(loader, tmp_path):
    from datasets.exceptions import DatasetNotFoundError
    from httpx import ConnectError

    _, answers = loader
    answers.append(ConnectionError("Couldn't reach 'a/b' on the Hub (OfflineModeIsEnabled)\nmore"))
    for error, kind, said in [
        (answers[0], DataError, r"Hub cannot be reached \(Couldn't reach.*jsonl:PATH$"),
        (ConnectError("no route"), DataError, "Hub cannot be reached"),
        (
            DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub."),
            ConfigError,
            "access is denied.*HF_TOKEN",
        ),
        (DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub"), ConfigError, "doesn't exist.*check the name"),
        (ValueError("Bad split: x. Available splits: ['train']"), ConfigError, "Bad split.*check the name"),
    ]:
        answers[0] = error
        with pytest.raises(kind, match=said) as raised:
            load_tasks("hf:a/b", 1, 0)
        assert "\n" not in str(raised.value)


def test_the_real_library_without_split_or_set(tmp_path):
    local_set(tmp_path, [{"question": "1+1?", "answer": "2"}])
    with pytest.raises(ConfigError, match="Bad split: nope"):
        load_tasks(f"hf:{tmp_path}?split=nope", 1, 0)
    (tmp_path / "data" / "train.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n{oops\n')
    with pytest.raises(DataError, match="a file cannot be read"):
        load_tasks(f"hf:{tmp_path}", 9, 0)


def test_rows_without_an_answer_are_left_out_and_told(loader, caplog):
    _, answers = loader
    rows = [{"question": "1+1?", "answer": "2"}, {"question": "2+2?", "answer": ""}, {"question": " ", "answer": "1"}]
    answers.append(Stream(rows))
    assert [t.question for t in load_tasks("hf:a/b", 9, 0)] == ["1+1?"]
    assert "2 rows without question or answer" in caplog.text


@pytest.mark.parametrize(
    ("held", "answer"),
    [
        ("#### 1,200", "1,200"),
        (["\\boxed{\\frac{1}{2}}"], "\\frac{1}{2}"),
        ("so $x=\\boxed{3}$ and \\boxed{4}.", "4"),
        (7.5, "7.5"),
        ("x + 1", "x + 1"),
        ("no box here: \\boxed", None),
        ([], None),
        (None, None),
    ],
)
def test_reference_answers(held, answer):
    assert reference_answer(held) == answer


def test_questions_lose_wrappers_and_nothing_else():
    assert clean_question("Is |x| < 3 | y > 2? Reason step by step.") == "Is |x| < 3 | y > 2? Reason step by step."
    wrapped = (
        "<|im_start|>user\nFind x. Let's think step by step and output the final answer within \\boxed{}.<|im_end|>"
    )
    assert clean_question(wrapped) == "Find x."


def test_a_conversation_counts_by_its_last_user_message(loader):
    _, answers = loader
    talk = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": ""},
    ]
    answers.append(Stream([{"prompt": talk, "reward_model": {"ground_truth": "2"}}]))
    (task,) = load_tasks("hf:a/b?question=prompt&answer=reward_model.ground_truth", 1, 0)
    assert (task.question, task.answer) == ("1+1?", "2")


def test_training_presets_and_benchmarks_never_name_the_same_split():
    trained = {(s.name, s.config, s.split) for s in PRESETS.values()}
    assert not trained & {(b.hub.name, b.hub.config, b.hub.split) for b in BENCHMARKS.values()}
    assert BENCHMARKS["aime25"].hub == HubSet("math-ai/aime25", split="test", question="problem")


def test_reading_in_order_is_not_shuffled(loader):
    _, answers = loader
    answers.append(Stream([{"question": str(i), "answer": "1"} for i in range(9)]))
    first = [r["question"] for _, r in itertools.islice(read_hub(HubSet("a/b")), 3)]
    assert first == ["0", "1", "2"] and answers[0].shuffled is None


def test_benchmarks_by_name_by_file_and_by_set(loader, tmp_path):
    calls, answers = loader
    answers.append(Stream([{"problem": "1+1?", "question": "2+2?"}] * 2))  # no answer is needed
    assert load_benchmark("math500") == ["1+1?", "1+1?"]
    assert (calls[0]["path"], calls[0]["split"]) == ("HuggingFaceH4/MATH-500", "test")
    assert load_benchmark("hf:org/name?split=validation") == ["2+2?", "2+2?"]
    path = tmp_path / "held.jsonl"
    path.write_text('{"question": "3+3?"}\n')
    assert load_benchmark(f"jsonl:{path}") == ["3+3?"]
    with pytest.raises(ConfigError, match="'math50': no such set; there are math500, gsm8k"):
        load_benchmark("math50")
    answers[0] = Stream([])
    with pytest.raises(DataError, match="holds no question"):
        load_benchmark("gsm8k")


def test_a_run_keeps_what_came_from_the_hub_and_needs_it_no_more(loader, tmp_path):
    from distill.config import load_config
    from distill.inputs import keep_inputs, load_benchmarks, load_parts

    _, answers = loader
    answers.append(Stream([{"question": f"{i}+1?", "answer": "1"} for i in range(8)]))
    sizes = ["tasks.n_harvest=2", "tasks.n_grpo=1", "tasks.n_eval=1"]
    named = ["tasks.source=hf:a/b", "select.decontaminate=gsm8k, hf:c/d"]
    cfg = load_config(sets=[f"out={tmp_path}", *named, *sizes])
    assert cfg.select.decontaminate == ["gsm8k", "hf:c/d"]
    parts, benchmarks = load_parts(cfg), load_benchmarks(cfg)
    assert [len(part) for part in parts.values()] == [2, 1, 1]
    assert {name: len(found) for name, found in benchmarks.items()} == {"gsm8k": 8, "hf:c/d": 8}
    cfg.run_dir.mkdir()
    keep_inputs(cfg, parts, benchmarks)
    answers[0] = ConnectionError("gone")
    assert (load_parts(cfg), load_benchmarks(cfg)) == (parts, benchmarks)


def test_parts_are_kept_for_resumption(tmp_path):
    tasks = load_tasks("reasoning_gym:", 4, 0, {"chain_sum": 1.0})
    parts = {"harvest": tasks[:3], "grpo": [], "eval": tasks[3:]}
    save_parts(parts, tmp_path / "tasks.jsonl")
    assert saved_parts(tmp_path / "tasks.jsonl") == parts
    (tmp_path / "tasks.jsonl").write_text('{"parts": ["a"]}\n{"part": "b", "task": {}}\n')
    with pytest.raises(DataError, match="not the problems of a run"):
        saved_parts(tmp_path / "tasks.jsonl")


def test_importing_the_module_is_light():
    assert not hasattr(hub, "load_dataset")
