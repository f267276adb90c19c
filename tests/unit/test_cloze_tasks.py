"""Questions with a blank about one's own corpus: what they ask, that they have one answer, how they are split."""

import json
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from agents.cloze import BLANK, ask, filling, sentence_of
from distill.cloze import cloze_tasks
from distill.tasks import load_tasks, split_tasks
from tools.corpus import read_corpus
from tools.errors import DataError

SHARED = Path(__file__).parents[3] / "shared" / "data"
BERG = "The old ferry between the islands was built by the engineer Anna Berg."
LUND = "The new bridge over the river was built by the engineer Carl Lund."
TOWNS = {
    "Turku": "A castle was founded there on the bank of the river Aura long ago. "
    "The town burned down in a great fire that broke out in 1827. "
    "Its students soon moved to the new university in distant Helsinki.",
    "Bergen": "Fish from the north was sold there to traders of the Hanseatic League. "
    "Its oldest school was opened near the cathedral in 1153. "
    "The funicular up to the top of the mountain Fløyen opened later.",
    "Visby": "The wall around the old town has more than 27 ground towers. "
    "It was taken by the troops of the Danish king Valdemar Atterdag. "
    "Ferries leave its harbour every morning for the port of Oskarshamn.",
    "Riga": "The house of the guild stands opposite the church of Saint Peter. "
    "A bishop called Albert of Buxhoeveden laid its first stone there. "
    "Nearly half of all the people of modern Latvia live in or near it.",
}


def corpus(tmp_path: Path, passages: dict[str, str]) -> str:
    path = tmp_path / "c.jsonl"
    path.write_text("\n".join(json.dumps({"title": title, "text": text}) for title, text in passages.items()) + "\n")
    return str(path)


# --- agents.cloze ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "answer"),
    [
        ("It was built by the engineer Anna Berg in Turku.", "Anna Berg"),  # a name of two words
        ("It was built by the engineer Anna Berg.", "Anna Berg"),  # the full stop is no part of it
        ("The fire of 1827, which was great, burned it down.", "1827"),
        ("It holds 2,000 people and a dog.", "2,000"),
        ('He sang "Long Road Home" at the fair.', "Long Road Home"),  # between quotes
        ("The king (Valdemar Atterdag) took the town.", "Valdemar Atterdag"),
        ("It lies south of Finland's old capital.", "Finland"),  # before what is glued to it
    ],
)
def test_what_was_left_out_is_found_again(sentence: str, answer: str) -> None:
    start = sentence.index(answer)
    question = ask(sentence, start, start + len(answer))
    assert sentence_of(question) == sentence.replace(answer, BLANK)
    assert filling(question, sentence) == answer
    assert filling(question, sentence.replace(" ", "\n ")) == answer  # white space is folded
    assert filling(question, "It was burned by the king of the fair in summer.") is None


def test_another_question_has_no_blank() -> None:
    assert sentence_of("Who took the town?") is None
    assert sentence_of(f"Who took {BLANK}?") is None
    assert sentence_of(f"Fill the blank: {BLANK} took {BLANK}.") is None
    assert filling("Who took the town?", "Valdemar took the town.") is None


# --- distill.cloze ---------------------------------------------------------------------------------------------------


def test_the_question_is_a_sentence_with_a_blank(tmp_path: Path) -> None:
    (task,) = cloze_tasks(corpus(tmp_path, {"Ferry": BERG}), 5, 0)
    assert task.question == f"Fill the blank: The old ferry between the islands was built by the engineer {BLANK}."
    assert (task.answer, task.kind, task.source) == ("Anna Berg", "qa", "cloze:c.jsonl")
    assert task.metadata == {"title": "Ferry"}


@pytest.mark.parametrize(
    "text",
    [
        "Anna lived there for many years with her brother and a dog.",  # the capital of a first word says nothing
        "The town had 12 gates long before it had the 12 towers of now.",  # it stands elsewhere in the sentence
        "The old boat between the many islands of the lake was called Ferry.",  # it is the title
        "She worked for years as a Paris-based writer of long books.",  # no name by itself
        "In 1920 she left.",  # short
        "The old ferry between the many islands was built by a Mr. Berg",  # a sentence is cut there
        "the old ferry between the islands was built by the engineer Anna Berg.",  # no beginning of a sentence
    ],
)
def test_a_sentence_that_asks_for_nothing(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"c\.jsonl: no sentence in it makes a question with one answer"):
        cloze_tasks(corpus(tmp_path, {"Ferry": text}), 5, 0)


def test_two_answers_in_the_corpus_make_no_question(tmp_path: Path) -> None:
    for passages in ({"Ferry": BERG, "Bridge": LUND}, {"Both": f"{BERG} {LUND}"}):
        with pytest.raises(DataError, match="one answer"):
            cloze_tasks(corpus(tmp_path, passages), 5, 0)
    again = {"Ferry": BERG, "Bridge": LUND.replace("Carl Lund", "Anna Berg")}
    assert [t.answer for t in cloze_tasks(corpus(tmp_path, again), 5, 0)] == ["Anna Berg", "Anna Berg"]


def test_a_sentence_that_stands_twice_is_asked_once(tmp_path: Path) -> None:
    passages = {"Ferry": BERG, "Same": BERG, "More": f"{BERG} {TOWNS['Visby']}"}
    tasks = cloze_tasks(corpus(tmp_path, passages), 9, 0)
    assert sum("old ferry" in t.question for t in tasks) == 1


def test_second_questions_come_when_passages_are_few_and_stand_beside_the_first(tmp_path: Path) -> None:
    path = corpus(tmp_path, TOWNS)
    for n, counts in ((3, [1, 1, 1]), (4, [1, 1, 1, 1]), (6, [1, 1, 2, 2]), (99, [2, 2, 2, 2])):
        tasks = cloze_tasks(path, n, 0)
        titles = [t.metadata["title"] for t in tasks]
        assert sorted(Counter(titles).values()) == counts
        assert sum(a != b for a, b in pairwise(titles)) == len(counts) - 1
        assert len({(sentence_of(t.question) or "").replace(BLANK, t.answer or "") for t in tasks}) == len(tasks)
    parts = split_tasks(load_tasks(f"cloze:{path}", 8, 0), {"harvest": 4, "eval": 4})
    trained, held = ({t.metadata["title"] for t in part} for part in parts.values())
    assert len(trained) == len(held) == 2 and not trained & held


def test_one_seed_one_list(tmp_path: Path) -> None:
    path = corpus(tmp_path, TOWNS)
    lists = [[t.id for t in load_tasks(f"cloze:{path}", 8, seed)] for seed in (1, 1, 2)]
    assert lists[0] == lists[1] != lists[2]


def test_passages_asked_about_are_left_out(tmp_path: Path) -> None:
    path = corpus(tmp_path, TOWNS)
    first = load_tasks(f"cloze:{path}", 2, 0)
    rest = load_tasks(f"cloze:{path}", 99, 1, apart_from=first)
    assert len(rest) == 4
    assert {t.metadata["title"] for t in rest} == set(TOWNS) - {t.metadata["title"] for t in first}


def test_a_folder_of_wrapped_text(tmp_path: Path) -> None:
    (tmp_path / "ferry.txt").write_text(
        "Notes\n\nThe old ferry between the islands was\nbuilt by the engineer Anna\nBerg.\n"
    )
    (task,) = cloze_tasks(str(tmp_path), 5, 0)
    assert (sentence_of(task.question), task.answer) == (BERG.replace("Anna Berg", BLANK), "Anna Berg")
    assert task.source == f"cloze:{tmp_path.name}"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.jsonl", r"^tasks\.source='cloze:.*none\.jsonl': no such corpus; give a JSONL file"),
        ("", r"^tasks\.source='cloze:': no such corpus"),
        ("empty.jsonl", r"empty\.jsonl: no sentence in it"),
        ("bad.jsonl", r"bad\.jsonl:1: not JSON"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "bad.jsonl").write_text("{oops\n")
    with pytest.raises(DataError, match=said) as caught:
        load_tasks(f"cloze:{tmp_path / name}" if name else "cloze:", 5, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is absent")
def test_real_paragraphs() -> None:
    path = SHARED / "hotpotqa.jsonl"
    began = time.monotonic()
    tasks = cloze_tasks(str(path), 5000, 0)
    assert time.monotonic() - began < 20
    assert len({t.id for t in tasks}) == len(tasks) >= 500
    texts: dict[str, set[str]] = {}
    for passage in read_corpus(path):
        texts.setdefault(passage.title, set()).add(passage.text)
    lost = [t for t in tasks if t.answer not in {filling(t.question, x) for x in texts[t.metadata["title"]]}]
    assert lost == []
    everything = [text for found in texts.values() for text in found]
    for task in tasks[:20]:
        assert {filling(task.question, text) for text in everything} == {None, task.answer}
