"""The ChatML training template: what it renders, that it only grows, and which tokens are trained."""

from typing import Any

import pytest

from tests.unit.tiny import TEMPLATE, tiny_tokenizer

SYSTEM, USER = {"role": "system", "content": "s"}, {"role": "user", "content": "  u\n"}
CALL = {"role": "assistant", "content": '<plan>é</plan>\n<tool_call>{"name": "python"}</tool_call>'}
TOOL, END = {"role": "tool", "content": "4"}, {"role": "assistant", "content": "<verdict>true</verdict>"}
CONVERSATION = [SYSTEM, USER, CALL, TOOL, END]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


def render(tokenizer: Any, messages: list[dict[str, str]], prompt: bool = False) -> str:
    return tokenizer.apply_chat_template(messages, chat_template=TEMPLATE, add_generation_prompt=prompt, tokenize=False)


def test_plain_chatml_without_a_default_system_message(tokenizer) -> None:
    assert render(tokenizer, [USER], prompt=True) == "<|im_start|>user\n  u\n<|im_end|>\n<|im_start|>assistant\n"
    assert render(tokenizer, [SYSTEM, END]) == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>assistant\n<verdict>true</verdict><|im_end|>\n"
    )


def test_tool_messages_read_as_in_qwen3(tokenizer) -> None:
    one = "<|im_start|>user\n<tool_response>\n4\n</tool_response><|im_end|>\n"
    assert render(tokenizer, [TOOL]) == one
    assert render(tokenizer, [TOOL, TOOL, USER]) == (
        "<|im_start|>user\n<tool_response>\n4\n</tool_response>\n<tool_response>\n4\n</tool_response><|im_end|>\n"
        "<|im_start|>user\n  u\n<|im_end|>\n"
    )


def test_every_turn_extends_the_one_before(tokenizer) -> None:
    for cut in (2, 4):
        prompt = render(tokenizer, CONVERSATION[:cut], prompt=True)
        reply = CONVERSATION[cut]["content"] + "<|im_end|>"
        whole = render(tokenizer, CONVERSATION[: cut + 1])
        assert whole == prompt + reply + "\n"
        assert render(tokenizer, CONVERSATION).startswith(whole)


def test_generation_mask_marks_exactly_the_replies_and_their_end_tokens(tokenizer) -> None:
    out = tokenizer.apply_chat_template(
        CONVERSATION, chat_template=TEMPLATE, return_dict=True, return_assistant_tokens_mask=True
    )
    mask = out["assistant_masks"]
    runs, previous = [], 0
    for token, trained in zip(out["input_ids"], mask, strict=True):
        if trained and not previous:
            runs.append([])
        if trained:
            runs[-1].append(token)
        previous = trained
    assert [tokenizer.decode(run) for run in runs] == [CALL["content"] + "<|im_end|>", END["content"] + "<|im_end|>"]
