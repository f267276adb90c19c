"""Rows of benchmarks whose columns need more than a name: files that belong to a question, images, encrypted texts.

Input: a row as the Hub or a local copy has it. Output: a row with plain `question`, `answer` and `level`, or None where
the row cannot be asked as text. Written after data set cards and the loaders of other projects; no original was read.
"""

import base64
import binascii
import json
from typing import Any

from tools.errors import DataError

FILE = "attached_file"  # of `Task.metadata`: the name of the file that belongs to the question
Row = dict[str, Any]


def gaia_row(row: Row, spot: str) -> Row:
    """Name the attached file at the end of the question: the agent finds it among its files by that name."""
    name = str(row.get("file_name") or "").strip()
    if not name:
        return row
    asked = next((k for k in ("Question", "question") if row.get(k)), "Question")
    return {**row, asked: f"{str(row.get(asked) or '').strip()}\n\nAttached file: {name}", FILE: name}


def hle_row(row: Row, spot: str) -> Row | None:
    """Leave out a question that is about an image: what is asked is sent as text."""
    return None if row.get("image") else row


def webwalker_row(row: Row, spot: str) -> Row:
    """Return a row with columns in lower case; the difficulty stands inside `info`, which may be JSON in a text."""
    plain = {str(name).lower(): value for name, value in row.items()}
    info = plain.get("info")
    if isinstance(info, str):
        try:
            info = json.loads(info)
        except ValueError as error:
            raise DataError(f"{spot}: `info` is not JSON; mend or remove it") from error
    if isinstance(info, dict):
        lower = {str(name).lower(): value for name, value in info.items()}
        plain["level"] = lower.get("difficulty_level", "")
    return plain


def xbench_row(row: Row, spot: str) -> Row:
    """Decrypt question and answer, which are released as base64 of the text XOR the row's `canary`.

    A row without a canary is plain already.

    Raises:
        DataError: it has one, but its texts are not in that form.
    """
    key = str(row.get("canary") or "").encode()
    if not key:
        return row
    return {
        **row,
        **{name: _decrypted(str(row.get(name) or ""), key, f"{spot}: `{name}`") for name in ("prompt", "answer")},
    }


def _decrypted(text: str, key: bytes, where: str) -> str:
    try:
        data = base64.b64decode(text, validate=True)
        return bytes(byte ^ key[i % len(key)] for i, byte in enumerate(data)).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise DataError(
            f"{where} is not as released (base64, encrypted with `canary`); leave `canary` out of a decrypted copy"
        ) from error
