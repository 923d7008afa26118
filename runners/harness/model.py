"""What lm-evaluation-harness asks: its `hf` model, whose every prompt is compressed by a method.

The harness tokenizes, truncates, batches and cuts answers as for its own `hf` model, of which this is a kind. A prompt
is read and sealed (the harness hands over context and question as one text, so a query-aware method sees both), and
what follows is decoded: the continuation that is scored, or what is generated. Text without a prompt
(`loglikelihood_rolling`) is scored from its first token on: only methods that compress while they read lose anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]
from lm_eval.utils import simple_parse_args_string  # pyright: ignore[reportMissingImports]
from torch import Tensor
from tqdm import tqdm

from kvfrontier.methods import Method
from kvfrontier.runners import cell as cells
from kvfrontier.runners.decoding import Sampling, StopStrings
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.models import LoadedModel
from kvfrontier.runners.plan import words
from kvfrontier.runners.session import Session
from kvfrontier.runners.tasks.task import States

#: Keys of the harness's `hf` model, and ours for the same.
_ALIASES = {
    "pretrained": "model.path",
    "revision": "model.revision",
    "max_length": "context",
    "chunk": "protocol.chunk",
}
_DTYPES = {"auto": None, **words.ALIASES}


class KVFrontierLM(HFLM):
    """A causal language model of the harness that attends by a method.

    loaded       model and tokenizer
    open         a session for prompts of so many tokens, and the method that serves it
    max_length   tokens of a prompt and what follows it; longer ones lose their beginning, as in the harness
    chunk        tokens of a prompt a forward; None: all
    seed         of sampled answers
    """

    def __init__(
        self,
        loaded: LoadedModel,
        method: Callable[[int], Method],
        *,
        max_length: int | None = None,
        chunk: int | None = 512,
        seed: int = 0,
        **options: Any,
    ) -> None:
        # The harness gives the tokenizer a padding token.
        super().__init__(
            pretrained=loaded.model,
            tokenizer=loaded.tokenizer,
            max_length=min(max_length or loaded.max_context, loaded.max_context),
            **options,
        )
        self._method, self._chunk, self._seed = method, chunk, seed
        #: What the states held, prompt by prompt.
        self.states = States()

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> KVFrontierLM:
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: dict[str, Any] | None = None
    ) -> KVFrontierLM:
        """From --model_args: the keys of `kvfrontier run` (model, method, method.window, budget, dtype, device, seed,
        chunk), and of the harness pretrained, revision and max_length. A budget is solved for each prompt's length."""
        asked, harness = dict(arg_dict), {k: v for k, v in (additional_config or {}).items() if v is not None}
        options = {key: harness[key] for key in ("batch_size", "max_batch_size") if key in harness}
        # The harness asks for cuda:0 where nobody asks for anything, and its own models take what there is.
        if "device" in harness and (torch.cuda.is_available() or not str(harness["device"]).startswith("cuda")):
            asked.setdefault("device", harness["device"])
        if "pretrained" in asked:
            asked = {"model": "hf", **asked}
        asked["dtype"] = _DTYPES.get(str(asked.get("dtype")), asked.get("dtype"))
        given = {_ALIASES.get(key, key): "null" if value is None else value for key, value in asked.items()}
        if asked["dtype"] is None:
            del given["dtype"]
        composed = words.composer()([f"{key}={value}" for key, value in given.items()]).config
        cell = cells.describe(composed)
        loaded = cells.load(cell, composed["model"])

        return cls(
            loaded,
            cells.method_at(cell, composed["model"]),
            max_length=cell.context if "context" in given else None,
            chunk=cell.protocol["chunk"],
            seed=cell.seed,
            **options,
        )

    # What the harness asks for.

    @torch.no_grad()
    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """Sums of log-probabilities of continuations, and whether each is the most likely one. Continuations of one
        context share its prefill."""
        by_context: dict[tuple[int, ...], list[int]] = {}
        for i, (_, context, continuation) in enumerate(requests):
            kept = (context + continuation)[-(self.max_length + 1) : -len(continuation)]
            if not kept:
                raise UsageError(
                    f"a continuation of {len(continuation)} tokens leaves no prompt in max_length={self.max_length}; "
                    "raise it"
                )
            by_context.setdefault(tuple(kept), []).append(i)
        found: dict[int, tuple[float, bool]] = {}
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running loglikelihood requests") as bar:
            for context, members in by_context.items():
                with Session(self.model, self._method(len(context))) as session:
                    session.prefill(self._row(context), chunk=self._chunk)
                    self.states.sealed(session)
                    for i in members:
                        child = session.fork()
                        found[i] = _scored(child, self._row(requests[i][2]))
                        self.states.scored(child)
                        if requests[i][0] is not None:
                            self.cache_hook.add_partial("loglikelihood", requests[i][0], found[i])
                        bar.update(1)
        return [found[i] for i in range(len(requests))]

    @torch.no_grad()
    def _model_generate(
        self,
        context: Tensor,
        max_length: int,
        stop: list[str],
        attention_mask: Tensor | None = None,
        do_sample: bool | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        **others: Any,
    ) -> Tensor:
        """Token ids [B, T + new] of left-padded prompts [B, T] and what they are continued with."""
        if others:
            raise UsageError(f"generation settings {', '.join(others)} are not served; leave them out")
        rows, T = context.shape
        mask = torch.ones_like(context) if attention_mask is None else attention_mask
        sampling = Sampling(temperature or 1.0, top_k or None, top_p, self._seed) if do_sample else None
        strings = StopStrings(self.tokenizer, [text for text in stop if text])
        # Rows whose budgets come to other settings are served apart.
        groups: dict[Method, list[int]] = {}
        for b, tokens in enumerate(mask.sum(1).tolist()):
            groups.setdefault(self._method(tokens), []).append(b)
        said: dict[int, list[int]] = {}
        for method, members in groups.items():
            longest = int(mask[members].sum(1).max())
            with Session(self.model, method) as session:
                session.prefill(
                    context[members, T - longest :],
                    chunk=self._chunk,
                    attention_mask=mask[members, T - longest :] if len(members) > 1 else None,
                )
                if len(members) == 1:
                    self.states.sealed(session)
                how: dict[str, Any] = (
                    {"choose": sampling.start([str(context[b].tolist()) for b in members])} if sampling else {}
                )
                new = session.generate(max_length - T, self._stop_ids(), ended=strings, **how)
                said.update(zip(members, new, strict=True))
                if len(members) == 1:
                    self.states.scored(session)
        width = max(map(len, said.values()))
        padding = self.tokenizer.pad_token_id
        new = [said[b] + [padding] * (width - len(said[b])) for b in range(rows)]
        return torch.cat([context, context.new_tensor(new).reshape(rows, width)], 1)

    def _stop_ids(self) -> set[int]:
        """Ends of a text, as the `hf` model takes them."""
        own = self.model.generation_config.eos_token_id
        several = own if isinstance(own, (list, tuple)) else [own]
        return {i for i in (self.tokenizer.eos_token_id, *several) if i is not None}

    def _row(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor([list(ids)], device=self.model.device)


def _scored(session: Session, ids: Tensor) -> tuple[float, bool]:
    """The log-probability of a continuation [1, T], and whether each of its tokens is the most likely. Its last token
    is not fed."""
    pieces = list(session.forced(ids[:, :-1])) if ids.shape[1] > 1 else []
    assert session.last_logits is not None
    log_p = torch.cat([*pieces, session.last_logits[:, None]], 1).log_softmax(-1)
    total = log_p.gather(2, ids[..., None].to(log_p.device)).sum()
    return float(total), bool((log_p.argmax(-1) == ids.to(log_p.device)).all())
