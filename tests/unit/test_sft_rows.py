"""Training rows: loss on assistant tokens only, long rows left out whole, rows without supervision refused."""

import pytest

from agents.types import Message, TrainingExample
from tests.unit.tiny import TEMPLATE, tiny_tokenizer
from tools.errors import DataError
from train.sft import IGNORED, tokenize


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
