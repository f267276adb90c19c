"""Solutions that say nothing, and fool judges all the same: "master keys" (arXiv 2507.08794; FACTS.md, pitfall 9).

A verifier is asked whether anything in a solution is wrong, and of nothing one may find nothing wrong. Such texts are
told by their form alone, so that no solution with a step or an answer of any kind is among them.
"""

import re

OPENERS = frozenset(
    {
        "answer",
        "final answer",
        "let me solve this",
        "let me think",
        "lets solve this problem step by step",
        "lets think step by step",
        "reasoning",
        "respuesta",
        "solution",
        "step by step",
        "the answer is",
        "the final answer is",
        "the solution is",
        "thinking process",
        "thought process",
        "かいせつ",
        "解",
    }
)
MAX_LEAD_IN = 60  # characters of a line that ends with a colon and introduces nothing


def is_hollow(solution: str) -> bool:
    """Return whether a solution has neither a step nor an answer: no letter or digit, or an opening and no more."""
    text = re.sub(r"<[^<>]*>|\\boxed\s*\{\s*\}", " ", solution).strip()
    words = " ".join(re.sub(r"[^\w\s]", "", text).lower().split())
    if not words or words in OPENERS or words == "a":
        return True
    leads_in = text.endswith(":") and "\n" not in text and len(text) <= MAX_LEAD_IN
    return leads_in and not any(c.isdigit() for c in text)
