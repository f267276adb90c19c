"""Training rows: loss on assistant tokens only, long rows left out whole, rows without supervision refused."""

import pytest

from agents.types import Message, TrainingExample
from tests.unit.tiny import TEMPLATE, tiny_tokenizer
from tools.errors import DataError
from train.sft import IGNORED, in_pairs, tokenize


def example(reply: str = "<verdict>true</verdict>", key: str = "k") -> TrainingExample:
    messages = (
        Message(role="system", content="system"),
        Message(role="user", content="Is 2 + 2 = 4 true or false?"),
        Message(role="assistant", content="<tool_call>check</tool_call>"),
        Message(role="tool", content="true"),
        Message(role="assistant", content=reply),
    )
    return TrainingExample(messages=messages, trajectory_key=key, task_id="t", role="forward_verifier", label=True)


def tokenizer(template: str = TEMPLATE):
    made = tiny_tokenizer()
    made.chat_template = template
    return made


def test_supervised_tokens_are_the_assistants_and_their_ends():
    tok = tokenizer()
    (row,), long = tokenize([example()], tok, 1000)
    supervised = tok.decode([t for t in row["labels"] if t != IGNORED])
    assert supervised == "<tool_call>check</tool_call><|im_end|><verdict>true</verdict><|im_end|>"
    assert long == 0
    assert all(label in (IGNORED, token) for token, label in zip(row["input_ids"], row["labels"], strict=True))


def test_the_observation_is_in_the_row_and_not_supervised():
    tok = tokenizer()
    (row,), _ = tokenize([example()], tok, 1000)
    masked = tok.decode([t for t, label in zip(row["input_ids"], row["labels"], strict=True) if label == IGNORED])
    assert "<tool_response>\ntrue\n</tool_response>" in masked


def test_long_rows_are_left_out_whole_and_counted():
    tok = tokenizer()
    short = len(tokenize([example()], tok, 1000)[0][0]["input_ids"])
    rows, long = tokenize([example(), example("x" * 200)], tok, short)
    assert (len(rows), long) == (1, 1)
    with pytest.raises(DataError, match="no row fits"):
        tokenize([example()], tok, 8)


def test_rows_without_supervised_tokens_are_an_error_that_names_them():
    bare = TEMPLATE.replace("{%- generation %}", "").replace("{%- endgeneration %}", "")
    with pytest.raises(DataError, match=r"2 rows have no supervised token \(row-a, row-b"):
        tokenize([example(key="row-a"), example(key="row-b")], tokenizer(bare), 1000)


def review(task: str, role: str, label: bool, n: int = 0) -> TrainingExample:
    return example(key=f"{task}/{role}/{label}/{n}").model_copy(update={"task_id": task, "role": role, "label": label})


def test_the_two_roles_of_a_problem_and_label_stand_together_and_none_is_lost():
    roles = ("forward_verifier", "backward_verifier")
    whole = [review(f"t{i}", role, label) for role in roles for i in range(6) for label in (True, False)]
    alone = [review("t7", "forward_verifier", True, n) for n in range(3)]
    ordered = in_pairs([*alone, *whole], seed=1)
    assert sorted(e.trajectory_key for e in ordered) == sorted(e.trajectory_key for e in [*whole, *alone])
    for first, second in zip(ordered[:24:2], ordered[1:24:2], strict=True):
        assert (first.task_id, first.label) == (second.task_id, second.label) and first.role != second.role
    assert {e.task_id for e in ordered[24:]} == {"t7"}
    assert ordered == in_pairs([*alone, *whole], seed=1) != in_pairs([*alone, *whole], seed=2)


def test_other_roles_stand_in_pairs_of_two_labels():
    """5 right and 3 wrong judgements: three pairs of both labels and one of two right ones."""
    given = [review(f"t{i}", "judge", label, n) for i, label in enumerate([True] * 5 + [False] * 3) for n in (0,)]
    ordered = in_pairs(given, seed=1)
    assert sorted(e.trajectory_key for e in ordered) == sorted(e.trajectory_key for e in given)
    found = [(first.label, second.label) for first, second in zip(ordered[::2], ordered[1::2], strict=True)]
    assert sorted(map(sorted, found)) == [[False, True]] * 3 + [[True, True]]
    assert ordered == in_pairs(given, seed=1) != in_pairs(given, seed=2)


def test_pairs_are_of_one_role_and_nothing_is_lost_or_doubled():
    """What is left over of a role stands alone, at the end."""
    roles = ("forward_verifier", "backward_verifier")
    given = [review(f"t{i}", role, label) for role in roles for i in range(4) for label in (True, False)]
    given += [review(f"t{i}", "judge", i % 2 == 0) for i in range(6)]
    given += [review(f"t{i}", "refiner", i < 2) for i in range(5)]  # an odd one
    given += [review(f"t{i}", role, True) for role in ("solver", "agent") for i in range(4)]
    given += [review("alone", "forward_verifier", True)]
    ordered = in_pairs(given, seed=3)
    assert sorted(e.trajectory_key for e in ordered) == sorted(e.trajectory_key for e in given)
    assert len({e.trajectory_key for e in ordered}) == len(given) == 36
    whole, rest = ordered[:-2], ordered[-2:]
    for first, second in zip(whole[::2], whole[1::2], strict=True):
        if first.role in roles:
            assert (first.task_id, first.label) == (second.task_id, second.label) and {first.role, second.role} == {
                *roles
            }
        else:
            assert first.role == second.role
            assert (first.label is not second.label) is (first.role in ("judge", "refiner"))
    assert {(e.role, e.task_id == "alone") for e in rest} == {("forward_verifier", True), ("refiner", False)}
    firsts = [e.role for e in whole[::2]]
    assert firsts != sorted(firsts, key=firsts.index)  # roles are mixed


def test_verifiers_alone_are_ordered_as_ever():
    """Two roles, one problem each label: the order is the seed's shuffle of two pairs, forward behind backward."""
    given = [review("t", role, label) for role in ("forward_verifier", "backward_verifier") for label in (True, False)]
    ordered = in_pairs(given, seed=0)
    assert [e.role for e in ordered] == ["backward_verifier", "forward_verifier"] * 2
    assert ordered[0].label is ordered[1].label is not ordered[2].label
