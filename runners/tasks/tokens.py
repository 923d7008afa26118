"""Text to token ids, piece by piece.

A prompt is put together from pieces that are tokenized apart, so that its length is exact by construction and the
same ids can be given to the model in one call or in two. Ids define a sample; its text is only their decoding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from kvfrontier.runners.errors import UsageError

#: Templates that print today's date would change a prompt's length from one day to the next.
_FIXED_DATE = datetime(2026, 1, 1)

_MARK = "\N{LEFT WHITE CORNER BRACKET}here\N{RIGHT WHITE CORNER BRACKET}"


def encode(tokenizer: Any, text: str) -> list[int]:
    """Ids of `text` as it stands: no bos, no eos."""
    return list(tokenizer.encode(text, add_special_tokens=False))


def encode_inside(tokenizer: Any, pieces: Sequence[str]) -> list[list[int]]:
    """Ids of each piece as it is tokenized in the middle of a text.

    Some tokenizers put a space before whatever begins a text. So each piece is tokenized behind an anchor that it
    does not merge with (a letter before white space, a line's end before anything else), and the anchor's ids are
    cut off; where it does merge, the piece is tokenized alone.
    """
    anchors = ["a" if piece[:1].isspace() else "\n" for piece in pieces]
    heads = {anchor: encode(tokenizer, anchor) for anchor in set(anchors)}
    joined = tokenizer([a + piece for a, piece in zip(anchors, pieces, strict=True)], add_special_tokens=False)
    result = []
    for piece, anchor, ids in zip(pieces, anchors, joined["input_ids"], strict=True):
        head = heads[anchor]
        result.append(list(ids[len(head) :]) if list(ids[: len(head)]) == head else encode(tokenizer, piece))
    return result


def opening_ids(tokenizer: Any) -> list[int]:
    """What this tokenizer puts before any text (bos, usually), where no chat template does."""
    bare, full = encode(tokenizer, "a"), list(tokenizer.encode("a"))
    starts = (i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare)
    return full[: next(starts, 0)]


def chat_halves(tokenizer: Any, before: str, after: str) -> tuple[str, str]:
    """A user's message `before` + ... + `after` in the model's chat template, cut where the dots are; the second half
    ends where the model's answer begins. Raises UsageError where the tokenizer has no template."""
    rendered = _rendered(tokenizer, [("user", before + _MARK + after)], answer_begins=True)
    halves = rendered.split(_MARK)
    if len(halves) != 2:
        raise UsageError(
            f"this model's chat template shows a message {len(halves) - 1} times; set task.chat_template=false"
        )
    return halves[0], halves[1]


def chat_turn(tokenizer: Any, message: str) -> str:
    """What stands between an assistant's answer and its next one, where a user says `message` between them. Raises
    UsageError where the tokenizer has no template."""
    first, second = _MARK, _MARK.replace("here", "there")
    conversation = [("user", "a"), ("assistant", first), ("user", message), ("assistant", second)]
    rendered = _rendered(tokenizer, conversation, answer_begins=False)
    if rendered.count(first) != 1 or rendered.count(second) != 1:
        raise UsageError("this model's chat template does not show every answer once; set task.chat_template=false")
    return rendered.partition(first)[2].partition(second)[0]


def _rendered(tokenizer: Any, conversation: Sequence[tuple[str, str]], *, answer_begins: bool) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise UsageError("this model's tokenizer has no chat template; set task.chat_template=false")
    return tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in conversation],
        tokenize=False,
        add_generation_prompt=answer_begins,
        date_string=_FIXED_DATE.strftime("%d %b %Y"),
        strftime_now=_FIXED_DATE.strftime,
    )


def stop_ids(tokenizer: Any, rules: Sequence[str]) -> tuple[int, ...]:
    """Token ids that end an answer. Rules: "eos" (the tokenizer's end of a text or turn), "newline" (every token
    whose text holds one)."""
    ids: set[int] = set()
    if "eos" in rules:
        if tokenizer.eos_token_id is not None:
            ids.add(tokenizer.eos_token_id)
        # Ends of a turn by another name: chat models often name only one of them as eos.
        ids |= {i for name, i in tokenizer.get_added_vocab().items() if name in _END_OF_TURN}
    if "newline" in rules:
        # As byte-level vocabularies, sentencepiece's bytes, and plain ones write it.
        ids |= {i for name, i in tokenizer.get_vocab().items() if "\u010a" in name or "\n" in name or name == "<0x0A>"}
    return tuple(sorted(ids))


_END_OF_TURN = {"<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|end_of_text|>", "<|endoftext|>", "</s>"}


def tokenizer_hash(tokenizer: Any) -> str:
    """12 hex digits of what makes ids out of text: vocabulary, rules and chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules = {"class": type(tokenizer).__name__, "vocab": tokenizer.get_vocab()}
    else:
        # Padding and truncation are left behind by earlier calls and change nothing here.
        rules = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("padding", "truncation")}
    text = json.dumps([rules, getattr(tokenizer, "chat_template", None)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
