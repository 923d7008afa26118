"""A compact decoder, trained from scratch: gated short convolutions and attention, as transformers models are written,
so that the bridge serves it like any other and every method works in it unchanged.

    zoology   a convolution, then the mixer; no MLP, no positions (Arora et al. 2023, arXiv:2312.04927, appendix)
    llama     attention and a SwiGLU MLP in every layer, RMS norm, RoPE
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

if TYPE_CHECKING:
    from transformers.cache_utils import Cache

#: cos and sin of a call's positions.
Turn = tuple[Tensor, Tensor]


class CompactConfig(PreTrainedConfig):
    """Sizes of a compact decoder.

    convolutions   indices of the layers that are a gated convolution over `kernel` tokens; the others attend
    mlp            width of a SwiGLU MLP behind every layer, or 0 for none
    positions      rope, or none
    output_norm    an RMS norm of each head's output, as retention, GLA and delta networks have behind theirs
    """

    model_type = "kvfrontier_compact"

    def __init__(
        self,
        vocab_size: int = 256,
        hidden_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 1,
        num_key_value_heads: int | None = None,
        convolutions: tuple[int, ...] = (),
        kernel: int = 3,
        mlp: int = 0,
        positions: str = "none",
        output_norm: bool = False,
        rope_theta: float = 10_000.0,
        tie_word_embeddings: bool = True,
        **rest: Any,
    ) -> None:
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.head_dim = hidden_size // num_attention_heads
        self.convolutions, self.kernel, self.mlp = list(convolutions), kernel, mlp
        self.positions, self.rope_theta, self.output_norm = positions, rope_theta, output_norm
        self.layer_types = ["conv" if i in convolutions else "full_attention" for i in range(num_hidden_layers)]
        super().__init__(**{"tie_word_embeddings": tie_word_embeddings, **rest})


class Rotary(nn.Module):
    """cos and sin [B, T, D] of positions [B, T]; channel i turns with channel i + D / 2."""

    inv_freq: Tensor

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        turns = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        self.register_buffer("inv_freq", config.rope_theta**-turns, persistent=False)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = (position_ids[..., None].float() * self.inv_freq).repeat(1, 1, 2)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def apply_rotary_pos_emb(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """q and k [B, H, T, D] turned; transformers' name, by which the bridge finds it."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    turned = []
    for x in (q, k):
        a, b = x.chunk(2, -1)
        turned.append(x * cos + torch.cat((-b, a), -1) * sin)
    return turned[0], turned[1]


class Attention(nn.Module):
    """Projections around whatever method serves the layer."""

    def __init__(self, config: CompactConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx, self.head_dim = config, layer_idx, config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling, self.is_causal = config.head_dim**-0.5, True
        kv = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.num_attention_heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, config.hidden_size, bias=False)
        self.o_norm = nn.RMSNorm(config.head_dim) if config.output_norm else None

    def forward(self, x: Tensor, turn: Turn | None, cache: Cache | None, mask: Tensor | None) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if turn is not None:
            q, k = apply_rotary_pos_emb(q, k, *turn)
        if cache is not None:
            k, v = cache.update(k, v, self.layer_idx)
        # By the registry alone: without a session there is no method to attend by, and `sdpa` serves.
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation or "sdpa", ALL_ATTENTION_FUNCTIONS["sdpa"]
        )
        out, _ = attend(self, q, k, v, None, dropout=0.0, scaling=self.scaling)
        return self.o_proj((out if self.o_norm is None else self.o_norm(out)).flatten(2))


class GatedConvolution(nn.Module):
    """y_t = W x_t * sum_i c_i x_(t-i): a causal depthwise convolution over the last `kernel` tokens, gated (BaseConv of
    arXiv:2312.04927, section 4). It remembers the kernel - 1 tokens before, in the cache."""

    def __init__(self, config: CompactConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx, self.reach = layer_idx, config.kernel - 1
        self.project = nn.Linear(config.hidden_size, config.hidden_size)
        self.convolve = nn.Conv1d(config.hidden_size, config.hidden_size, config.kernel, groups=config.hidden_size)

    def forward(self, x: Tensor, turn: object, cache: Cache | None, mask: Tensor | None) -> Tensor:
        if mask is not None:  # left padding was never there
            x = x * mask[:, -x.shape[1] :, None].to(x.dtype)
        columns = x.transpose(1, 2)
        state: Any = None if cache is None else cache.layers[self.layer_idx]
        past = (
            state.conv_states[0]
            if state is not None and state.is_conv_states_initialized[0]
            else columns.new_zeros(*columns.shape[:2], self.reach)
        )
        columns = torch.cat((past, columns), 2)
        if state is not None:
            # A slice would keep the whole text alive.
            state.conv_states[0] = columns[:, :, columns.shape[2] - self.reach :].clone()
            state.is_conv_states_initialized[0] = True
        return self.project(x) * self.convolve(columns).transpose(1, 2)


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.mlp, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.mlp, bias=False)
        self.down_proj = nn.Linear(config.mlp, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """A mixer over tokens, and an MLP where there is one, each behind a norm and beside a residual."""

    def __init__(self, config: CompactConfig, layer_idx: int) -> None:
        super().__init__()
        kind = GatedConvolution if layer_idx in config.convolutions else Attention
        self.norm, self.mixer = nn.RMSNorm(config.hidden_size), kind(config, layer_idx)
        self.mlp_norm = nn.RMSNorm(config.hidden_size) if config.mlp else None
        self.mlp = MLP(config) if config.mlp else None

    def forward(self, x: Tensor, turn: Turn | None, cache: Cache | None, mask: Tensor | None) -> Tensor:
        x = x + self.mixer(self.norm(x), turn, cache, mask)
        if self.mlp is not None and self.mlp_norm is not None:
            x = x + self.mlp(self.mlp_norm(x))
        return x


class CompactPreTrained(PreTrainedModel):
    """What transformers must know of both classes below."""

    config_class = CompactConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    _supports_attention_backend = True

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)


class CompactModel(CompactPreTrained):
    """Embeddings, blocks, a norm."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size)
        self.rotary_emb = Rotary(config) if config.positions == "rope" else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        **_: Any,
    ) -> BaseModelOutputWithPast:
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = torch.arange(x.shape[1], device=x.device)[None]
        turn = None if self.rotary_emb is None else self.rotary_emb(x, position_ids)
        for layer in self.layers:
            x = layer(x, turn, past_key_values, attention_mask)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x), past_key_values=past_key_values)  # pyright: ignore[reportArgumentType]


class CompactForCausalLM(CompactPreTrained):
    """The decoder with its language-model head."""

    #: Logits are the hidden states times the head and nothing else.
    plain_head = True
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012  transformers' own name and type

    def __init__(self, config: CompactConfig) -> None:
        super().__init__(config)
        self.model = CompactModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        found = self.model(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return CausalLMOutputWithPast(logits=self.lm_head(found.last_hidden_state[:, kept]))
