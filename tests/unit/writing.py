"""A stand-in for the decoding engine whose replies are a function of the prompt's text; ids are a tiny tokenizer's."""

from typing import Any

from agents.policy import PolicyChat
from agents.requests import Completion, Request
from tests.unit.tiny import TEMPLATE, tiny_tokenizer

END = 2
TOKENIZER = tiny_tokenizer()


class Writer:
    """Answers a prompt by `write(text, how often it was asked before)`, an exception is raised; keeps the prompts."""

    def __init__(self, write: Any) -> None:
        """Take the function."""
        self.write = write
        self.prompts: list[str] = []

    async def generate(self, request: Request) -> Completion:
        """Reply, each token at a log-probability of -0.25."""
        prompt = text(request.prompt)
        self.prompts.append(prompt)
        reply = self.write(prompt, self.prompts.count(prompt) - 1)
        if isinstance(reply, Exception):
            raise reply
        ids = [*TOKENIZER(reply, add_special_tokens=False)["input_ids"], END]
        return Completion(tuple(ids), tuple(-0.25 for _ in ids), "stop")


def text(ids: Any) -> str:
    """Return what ids say, control tokens included."""
    return str(TOKENIZER.decode(list(ids)))


def policy_chat(writer: Writer) -> PolicyChat:
    """Return the policy's chat model over a writer."""
    return PolicyChat.model_construct(engine=writer, tokenizer=TOKENIZER, model_id="policy", template=TEMPLATE)
