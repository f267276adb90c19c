"""The confidence of a verdict, read from the log-probabilities of its word as generated.

Input: a verdict-stage reply with `tokens`, `logprobs` and `top_logprobs` in its response metadata (`agents/chat.py`).
Output: p(true) / (p(true) + p(false)) at the position where the word begins. Every alternative there that begins, or is
begun by, one of the two words counts towards it ("t", "true", " True", "true</"), so that the number does not depend on
how a tokenizer cuts the word.
"""

import math
import re
from collections.abc import Mapping, Sequence

from langchain_core.messages import AIMessage

_VERDICT_WORD = re.compile(r"<verdict>\s*(true|false)", re.IGNORECASE)


def verdict_confidence(message: AIMessage) -> float | None:
    """Return p(true) / (p(true) + p(false)) of the last verdict in a reply.

    Args:
        message: A reply of a chat model; `response_metadata` holds `tokens` (strings), `logprobs` (natural logarithms,
            one a token) and `top_logprobs` (token string to logarithm, one mapping a token).

    Returns:
        A number in [0, 1], or None where there is no verdict word or no log-probability.
    """
    meta = message.response_metadata
    tokens, tops, chosen = meta.get("tokens"), meta.get("top_logprobs"), meta.get("logprobs")
    if not tokens or not tops:
        return None
    place = verdict_position(tokens)
    if place is None or place[0] >= len(tops):
        return None
    index, prefix = place
    alternatives = dict(tops[index])
    if chosen and index < len(chosen):
        alternatives.setdefault(tokens[index], chosen[index])  # a sampled token may lie outside the top ones
    return true_share(alternatives, prefix)


def verdict_position(tokens: Sequence[str]) -> tuple[int, str] | None:
    """Return the index of the token in which the last verdict word begins, and what it holds before the word."""
    found = list(_VERDICT_WORD.finditer("".join(tokens)))
    if not found:
        return None
    word_start = found[-1].start(1)
    start = 0
    for index, token in enumerate(tokens):
        if start + len(token) > word_start:
            return index, token[: word_start - start]
        start += len(token)
    return None


def true_share(alternatives: Mapping[str, float], prefix: str = "") -> float | None:
    """Return p(true) / (p(true) + p(false)) over alternative tokens, None where neither word has any mass.

    Args:
        alternatives: Token string to log-probability.
        prefix: What stands in the token before the word; alternatives without it are no verdict.
    """
    mass = {"true": 0.0, "false": 0.0}
    for token, logprob in alternatives.items():
        if not token.startswith(prefix):
            continue
        piece = token[len(prefix) :].strip().lower()
        for word in mass:
            if piece and (word.startswith(piece) or piece.startswith(word)):
                mass[word] += math.exp(logprob)
    total = mass["true"] + mass["false"]
    return mass["true"] / total if total > 0 else None
