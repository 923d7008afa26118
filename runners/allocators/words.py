"""The words of `kvfrontier allocate`: key=value, where commas make a product of cases, as in `kvfrontier plan`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pydantic import ByteSize, TypeAdapter, ValidationError

from kvfrontier.methods import Dense
from kvfrontier.runners import models
from kvfrontier.runners.allocators.allocator import Allocator
from kvfrontier.runners.allocators.buddy import Buddy
from kvfrontier.runners.allocators.first_fit import FirstFit
from kvfrontier.runners.allocators.maximum import Maximum
from kvfrontier.runners.allocators.oracle import Oracle
from kvfrontier.runners.allocators.paged import Paged
from kvfrontier.runners.allocators.pow2 import Pow2
from kvfrontier.runners.allocators.requests import Traffic
from kvfrontier.runners.errors import UsageError, unknown
from kvfrontier.runners.plan import hardware, roofline
from kvfrontier.runners.plan import words as plan_words
from kvfrontier.runners.plan.sizes import footprint
from kvfrontier.runners.record import canonical_json

POLICIES = ("max", "pow2", "oracle", "paged")
PLACES = {"buddy": Buddy, "first_fit": FirstFit}
#: What is simulated where nothing else is asked for. A device, unless memory= is named.
_USUAL = {
    "model": "llama-3-8b", "dtype": "bf16", "requests": "sharegpt", "count": "1000", "seed": "0", "new": "1",
    "prefix": "0", "groups": "1", "policy": ",".join(POLICIES), "place": "buddy", "block": "16", "watermark": "0.01",
    "sharing": "true",
}  # fmt: skip
_DEVICE = "h100-80g"
_KEYS = (*_USUAL, "device", "memory", "max_length", "arrivals")


@dataclass(frozen=True)
class Case:
    """One line: a policy on a memory, and what comes to it.

    model, dtype   whose cache it is; bytes_per_token over all its layers
    device, memory the device, or "" where memory= was named; bytes that the cache may take
    max_length     tokens of the longest text that is served
    place          of a contiguous policy, else None; block, watermark, sharing of a paged one, else None
    note           what of the model's cache these allocators know nothing of, or ""
    """

    model: str
    dtype: str
    bytes_per_token: int
    device: str
    memory: int
    max_length: int
    policy: str
    place: str | None
    block: int | None
    watermark: float | None
    sharing: bool | None
    traffic: Traffic
    note: str

    @property
    def capacity(self) -> int:
        """Tokens for which there is memory."""
        return self.memory // self.bytes_per_token

    def allocator(self) -> Allocator:
        """The policy on an empty memory."""
        if self.policy == "paged":
            assert self.block is not None and self.watermark is not None and self.sharing is not None
            return Paged(self.capacity, self.block, self.watermark, self.sharing)
        assert self.place is not None
        place = PLACES[self.place](self.capacity)
        if self.policy == "oracle":
            return Oracle(self.capacity, place)
        return {"max": Maximum, "pow2": Pow2}[self.policy](self.capacity, place, self.max_length)


def read(words: Sequence[str]) -> list[Case]:
    """The cases that the words ask for, each once, in their order. Raises UsageError, with what to change."""
    values = plan_words.split(words, _USUAL)
    for key in values:
        if key not in _KEYS and not key.startswith("model."):
            raise unknown("key", key, _KEYS)
    if "device" in values and "memory" in values:
        raise UsageError("device= and memory= both say how much memory there is; leave one out")
    if "memory" not in values:
        values.setdefault("device", [_DEVICE])
    return list(dict.fromkeys(_cases(values)))


def _cases(values: dict[str, list[str]]) -> Iterator[Case]:
    for words in plan_words.product(values):
        of_model = [f"{key}={value}" for key, value in words.items() if key == "model" or key.startswith("model.")]
        dtype = plan_words.ALIASES.get(words["dtype"], words["dtype"])
        models.resolve_dtype(dtype)
        config = plan_words.composer()(of_model)
        described = canonical_json({**config.config["model"], "dtype": dtype})
        bytes_per_token, note = _of_a_token(described)
        policy, place = _one_of("policy", words["policy"], POLICIES), _one_of("place", words["place"], PLACES)
        block, watermark = _whole("block", words["block"]), _share("watermark", words["watermark"])
        sharing = _one_of("sharing", words["sharing"], ("true", "false")) == "true"
        paged = policy == "paged"
        case = Case(
            model=config.choices["model"],
            dtype=dtype,
            bytes_per_token=bytes_per_token,
            device=words.get("device", ""),
            memory=_memory(words, described),
            max_length=_whole("max_length", words["max_length"]) if "max_length" in words else _positions(described),
            policy=policy,
            place=None if paged else place,
            block=block if paged else None,
            watermark=watermark if paged else None,
            sharing=sharing if paged else None,
            traffic=Traffic(
                lengths=words["requests"],
                arrivals=words.get("arrivals"),
                count=_whole("count", words["count"]),
                seed=_whole("seed", words["seed"], 0),
                new=_whole("new", words["new"]),
                prefix=_whole("prefix", words["prefix"], 0),
                groups=_whole("groups", words["groups"]),
            ),
            note=note,
        )
        if not case.capacity:
            raise UsageError(f"{case.memory} bytes hold no token of {bytes_per_token} bytes; give more memory")
        yield case


@lru_cache(maxsize=16)
def _of_a_token(model: str) -> tuple[int, str]:
    """Bytes of one token over all layers, and what these do not tell of the model's cache."""
    described = json.loads(model)
    layers = [layer.at(models.resolve_dtype(described["dtype"])) for layer in models.layers(described)]
    held = footprint(Dense(), layers, batch=1, prompt=1).held.payload
    notes = []
    if any(layer.window is not None for layer in layers):
        notes.append("some layers of this model keep a window alone; here every layer keeps every token")
    if models.configuration(described).get_text_config().num_hidden_layers > len(layers):
        notes.append("what layers without attention keep of a sequence is not counted")
    return held, "; ".join(notes)


def _positions(model: str) -> int:
    """Tokens that the model was made for."""
    found = getattr(models.configuration(json.loads(model)).get_text_config(), "max_position_embeddings", None)
    if not found:
        raise UsageError("the model does not say how long a text it takes; add max_length=TOKENS")
    return found


def _memory(words: Mapping[str, str], model: str) -> int:
    """Bytes for the cache: those that are named, or what the weights leave of a device."""
    if "memory" in words:
        try:
            return TypeAdapter(ByteSize).validate_python(words["memory"])
        except ValidationError:
            raise UsageError(f"memory={words['memory']} is no amount; write for example memory=12GiB") from None
    device, weights = hardware.hardware(words["device"]), roofline.anatomy(json.loads(model)).weights
    if weights >= device.memory:
        raise UsageError(
            f"the weights take {weights / 1e9:.1f} GB and {device.name} has {device.memory / 1e9:.1f}; choose a larger "
            "device, or name with memory= what several leave for the cache"
        )
    return device.memory - weights


def _one_of(key: str, value: str, known: Iterable[str]) -> str:
    if value not in known:
        raise unknown(key, value, known)
    return value


def _whole(key: str, value: str, least: int = 1) -> int:
    if not value.isdecimal() or int(value) < least:
        raise UsageError(f"{key}={value} must be a whole number of at least {least}")
    return int(value)


def _share(key: str, value: str) -> float:
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise UsageError(f"{key}={value} must be a share of at least 0 and less than 1")
    return share
