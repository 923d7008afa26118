"""Tokenizers of several kinds, a text made on the spot, and a session of transformers' own that forgets at seal."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as kinds
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerFast

from kvfrontier.methods import Dense
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.state import Bytes
from kvfrontier.runners import models, texts
from kvfrontier.runners.models import LoadedModel
from kvfrontier.runners.models.tiny import byte_tokenizer

CHAT_TEMPLATE = (
    "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}</turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)


def _made_text(sentences: int) -> str:
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(300)]
    made = (
        " ".join(rng.choices(words, k=rng.randint(3, 20))).capitalize() + rng.choice(".!?") for _ in range(sentences)
    )
    return "".join(s + ("\n\n" if i % 7 == 6 else " ") for i, s in enumerate(made))


TEXT = _made_text(4000)


@pytest.fixture(autouse=True)
def texts_without_a_network(monkeypatch) -> None:
    """Every name is a text of 260,000 characters, another for each name."""

    def load(name: str) -> texts.Text:
        content = f"{name}. {TEXT}" if name != "short" else "Too short.\n\nBy far.\n"
        return texts.Text(name, content, "public domain", "made", hashlib.sha256(content.encode()).hexdigest())

    monkeypatch.setattr(texts, "load_text", load)


def _wrapped(tokenizer: Tokenizer) -> Any:
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def byte_pairs() -> Any:
    """As GPT-2 and most since: byte-level pairs, nothing before a text."""
    tokenizer = Tokenizer(kinds.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT[:20000], "The special magic numbers are hidden."], trainer)
    return _wrapped(tokenizer)


def sentence_pieces() -> Any:
    """As Llama-2: a space is a letter, one is put before every text, and <s> before that."""
    tokenizer = Tokenizer(kinds.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    every_byte = [f"<0x{b:02X}>" for b in range(256)]
    printable = [chr(c) for c in range(33, 127)]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<unk>", "<s>", "</s>", *every_byte],
        initial_alphabet=printable,
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT[:20000].replace("\n", " ")], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return _wrapped(tokenizer)


def single_bytes() -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "bytes": single_bytes,
    "byte pairs": byte_pairs,
    "sentence pieces": sentence_pieces,
}


@pytest.fixture(scope="session", params=list(TOKENIZERS))
def tokenizer(request) -> Any:
    return TOKENIZERS[request.param]()


@pytest.fixture(scope="session")
def bytes_tokenizer() -> Any:
    return single_bytes()


@pytest.fixture(scope="session")
def tiny() -> LoadedModel:
    loaded = models.load({"kind": "tiny", "device": "cpu"})
    loaded.tokenizer.chat_template = CHAT_TEMPLATE
    return loaded


class StockSession:
    """transformers' own attention and cache, with the calls of a Session. With `keep`, the cache is cut to its last
    `keep` tokens at seal. It has none of the layers that kvfrontier knows, and no share of them."""

    method, layers = Dense(), ()

    def __init__(self, model: Any, keep: int | None = None) -> None:
        self.model, self.keep = model, keep
        self.calls: list[tuple[str, list[int]]] = []
        self.reset()

    def __enter__(self) -> StockSession:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def reset(self) -> None:
        self.cache, self.n = DynamicCache(config=self.model.config), 0
        self.last = torch.empty(0)

    @property
    def n_tokens(self) -> int:
        return self.n

    def state_bytes(self) -> Bytes:
        held: list[Any] = self.cache.layers
        return Bytes(sum(layer.keys.nbytes + layer.values.nbytes for layer in held))

    def footprint(self) -> Footprint:
        return Footprint(self.state_bytes())

    def prefill(self, ids: Tensor, *, chunk: int | None = None, seal: bool = True) -> Tensor:
        self.calls.append(("prefill", ids[0].tolist()))
        for piece in ids.split(chunk or ids.shape[1], dim=1):
            self._feed(piece)
        if seal and self.keep is not None:
            layers: list[Any] = self.cache.layers
            for layer in layers:
                layer.keys, layer.values = layer.keys[:, :, -self.keep :], layer.values[:, :, -self.keep :]
        return self.last

    def decode(self, ids: Tensor) -> Tensor:
        self.calls.append(("decode", ids[0].tolist()))
        return self._feed(ids)[:, -1]

    def forced(self, ids: Tensor) -> Iterator[Tensor]:
        for piece in ids.split(50, dim=1):
            before = self.last[:, None]
            yield torch.cat([before, self._feed(piece)[:, :-1]], dim=1)

    def generate(self, max_new_tokens: int, stop_ids: tuple[int, ...] = ()) -> list[list[int]]:
        answer: list[int] = []
        while len(answer) < max_new_tokens and int(self.last.argmax()) not in stop_ids:
            answer.append(int(self.last.argmax()))
            self._feed(torch.tensor([answer[-1:]]))
        return [answer]

    def _feed(self, ids: Tensor) -> Tensor:
        T, held = ids.shape[1], self.cache.get_seq_length()
        positions = torch.arange(self.n, self.n + T)[None]
        # All that is held is past; only the tokens of this call hide each other's future.
        mask = torch.ones(T, held + T, dtype=torch.bool).tril(held)[None, None]
        logits = self.model(ids, past_key_values=self.cache, position_ids=positions, attention_mask=mask).logits.float()
        self.n += T
        self.last = logits[:, -1]
        return logits


@pytest.fixture
def stock() -> type[StockSession]:
    return StockSession


# Files of published benchmarks, small and made on the spot, with the fields of the real ones.


def _longbench(i: int, **fields: Any) -> dict[str, Any]:
    text = f"{TEXT[: 400 * (i + 1)]} Number {i} is {i} apples."
    about = {"dataset": "made", "language": "en", "all_classes": None, "_id": str(i), "length": len(text.split())}
    return {"input": f"What is number {i}?", "context": text, "answers": [f"{i} apples"], **about, **fields}


def _choices(i: int) -> dict[str, Any]:
    choices = {f"choice_{letter}": f"{letter} of {i} " for letter in "ABCD"}
    length = ("short", "medium", "long")[i % 3]
    about = {"_id": str(i), "domain": "made", "sub_domain": "made", "difficulty": "hard", "length": length}
    return {**about, "question": f" Which, {i}? ", **choices, "answer": "ABCD"[i % 4], "context": TEXT[:900]}


def _infinite(i: int, **fields: Any) -> dict[str, Any]:
    row = {"id": i, "context": f"{TEXT[:800]} {i}", "input": f"What is the key of {i}?", "answer": [str(i)]}
    return {**row, "options": [], **fields}


_OPTIONS = ["red", "green", "blue", "white"]
_LARGEST = "You should answer with one number. The largest number of the list is"
BENCHMARKS: dict[str, Any] = {
    "qasper.jsonl": [_longbench(i) for i in range(6)],
    "trec.jsonl": [_longbench(i, all_classes=["Date", "Other date", "Place"], answers=["Date"]) for i in range(6)],
    "data.json": [_choices(i) for i in range(12)],
    "passkey.jsonl": [_infinite(i) for i in range(6)],
    "longbook_choice_eng.jsonl": [_infinite(i, options=_OPTIONS, answer=["blue"]) for i in range(6)],
    "code_run.jsonl": [_infinite(i, input=f"Return the value of func_{i}(-{i}).", answer=i) for i in range(6)],
    "math_find.jsonl": [_infinite(i, input=_LARGEST, answer=9) for i in range(6)],
    "math_calc.jsonl": [_infinite(i, context="1 + 2 - 4", answer=[1, 3, -1]) for i in range(6)],
    "test_k1800_dep6.jsonl": [
        {"context": json.dumps({f"k{j}": f"v{j}" for j in range(20)}), "question": f"k{i}", "answer": f"v{i}",
         "demos": [[f"k{j}", f"v{j}"] for j in (7, 8, 9)], "num_kvs": 20}
        for i in range(6)
    ],
    "niah_multivalue/validation_131072.jsonl": [
        {"context": TEXT[:700], "query": "odd engine", "type_needle_v": "numbers", "outputs": ["12", "34"]}
        for _ in range(6)
    ],
    "needle_set.json": [
        {
            "id": "0001", "reasoning_type": "made", "system_prompt": "",
            "task_template": "A snippet:\n\n{haystack}\n\nQuestion: {question}",
            "needle": "In truth, {CHAR} lives beside {1}.",
            "questions": {"onehop": "Who has been in {2}?", "twohop": "Who has been in {3}?"},
            "character_set": ["Yuki", "Stuart", "Megan"],
            "tests": {
                "T01": {"input_args": ["the opera", "Dresden", "Saxony"]},
                "T02": {"input_args": ["the tower", "Paris", "France"]},
            },
        }
    ],
    **{f"rand_book_{n}.txt": TEXT.replace(". ", ".\n") for n in range(1, 6)},
}  # fmt: skip


@pytest.fixture(scope="session")
def benchmark_data(tmp_path_factory) -> Path:
    """A folder with them."""
    folder = tmp_path_factory.mktemp("benchmarks")
    for name, content in BENCHMARKS.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(content, list):
            lines = name.endswith(".jsonl")
            content = "".join(f"{json.dumps(row)}\n" for row in content) if lines else json.dumps(content)
        path.write_text(content, encoding="utf-8")
    return folder
