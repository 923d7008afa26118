"""A random little Llama and a tokenizer of bytes, made on the spot: for tests, and to try things out in a second."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch

from kvfrontier.runners.environment import resolve_device
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.models.loaded import LoadedModel, ready, resolve_dtype


@dataclass(frozen=True)
class Tiny:
    """Parameters of the model; equal parameters give equal weights. Its text is noise, and its cost is real."""

    name: str = "tiny"
    dtype: str = "float32"
    device: str = "auto"
    seed: int = 0
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    hidden: int = 64
    intermediate: int = 128
    max_context: int = 8192
    rope_theta: float = 10_000.0

    def configuration(self) -> Any:
        """transformers' configuration; raises UsageError where the sizes do not fit together."""
        from transformers import LlamaConfig

        for key in ("layers", "heads", "kv_heads", "head_dim", "hidden", "intermediate", "max_context"):
            if getattr(self, key) < 1:
                raise UsageError(f"model.{key}={getattr(self, key)}: at least 1")
        if self.heads % self.kv_heads:
            raise UsageError(f"model.kv_heads={self.kv_heads} does not divide model.heads={self.heads}")
        if self.head_dim % 2:
            raise UsageError(f"model.head_dim={self.head_dim}: rotary positions turn pairs, so it must be even")
        tokenizer = byte_tokenizer()
        return LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            max_position_embeddings=self.max_context,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            # The usual 0.02 leaves attention all but uniform at this width, and wrong positions unseen.
            initializer_range=self.hidden**-0.5,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )

    def tokenizer(self) -> Any:
        """The tokenizer of bytes."""
        return byte_tokenizer()

    def load(self) -> LoadedModel:
        """The model; raises UsageError where the sizes do not fit together."""
        from transformers import LlamaForCausalLM

        device, dtype, config = resolve_device(self.device), resolve_dtype(self.dtype), self.configuration()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = LlamaForCausalLM(config)
        revision = _content_hash(model)
        return ready(
            model.to(dtype=dtype),  # pyright: ignore[reportCallIssue]
            byte_tokenizer(),
            device=device,
            name=self.name,
            revision=revision,
            license_name="none: random weights",
        )


def byte_tokenizer() -> Any:
    """One token a byte, then <bos> and <eos> (258 in all); nothing is put around a text unasked. In its chat template a
    message is a line."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<bos>", "<eos>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<eos>",
        chat_template="{% for message in messages %}{{ message['content'] }}\n{% endfor %}",
        clean_up_tokenization_spaces=False,
    )


def _content_hash(model: torch.nn.Module) -> str:
    content = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        content.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return content.hexdigest()
