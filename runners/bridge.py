"""The bridge to transformers: the only file that touches its attention and cache internals.

A causal language model of transformers asks a registry for its attention function, another for its mask, and a cache
object for the past. The bridge registers one function and one mask that is none, and brings a cache that counts tokens
and hands the new keys and values through. What it gives to a session is a model whose every attention layer is a
`Layer`, and a `forward` that calls the session back with q, k and v.

    bridge = Bridge.install(model)          # UnsupportedModel where it cannot serve the model
    logits = bridge.forward(caller, ids=..., positions=..., cache=bridge.new_cache(), ...)
    bridge.remove()                         # the model is as it was, whatever happened in between

Several sessions share one installed bridge; each forward names its caller. Facts that are read from the configuration
(heads, windows, scaling, rotation) are compared with what the model does in its first forward, so that an architecture
that does something else is refused instead of being served wrongly.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from kvfrontier.methods.layer import Layer, Rope
from kvfrontier.methods.state import Foreign
from kvfrontier.runners.errors import UsageError

#: The name under which transformers finds our function. It must contain none of the names that transformers treats
#: specially (sdpa, flash, flex_attention, "/", "paged|").
NAME = "kvfrontier"

#: Arguments of an attention call that change nothing for a causal forward with a cache.
_HARMLESS = {
    "position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states", "output_router_logits",
    "return_dict", "is_causal", "layer_idx", "layer_head_mask", "position_embeddings", "logits_to_keep", "training",
}  # fmt: skip

#: Hybrids whose recurrent layers restart at every call of more than one token, in transformers too.
_ONE_SHOT = {"jamba"}


class UnsupportedModel(UsageError):
    """The bridge cannot serve this model; the sentence says why."""


class Caller(Protocol):
    """Who answers an attention layer during a forward: a session."""

    #: Whether some method reads queries and keys before RoPE.
    unrotated: bool

    def attend(
        self,
        index: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor | None,
        pre: Callable[[], tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Attention output [B, Hq, T, Dv] of the layer with this index."""
        ...

    def latent(self, index: int, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """What a model that caches latents gives its cache; returns what it gets back."""
        ...


# ------------------------------------------------------------------------------------------------ the cache


class _Counting(CacheLayerMixin):
    """An attention layer's place in the cache: it counts tokens and keeps none."""

    is_sliding = False
    supports_early_init = False

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None: ...

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.n += key_states.shape[-2]
        return key_states, value_states

    def get_seq_length(self) -> int:
        return self.n

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.n + query_length, 0

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # its name before transformers 5.20

    def reset(self) -> None:
        self.n = 0

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(
            "the cache of a session cannot be cropped or reordered: the method's state could not follow"
        )

    crop = reorder_cache = batch_repeat_interleave = batch_select_indices = _refuse


@functools.cache
def _counting(stock: type) -> type:
    """`stock`, a layer with convolution or SSM states beside attention, with the attention part counting only."""
    own = {
        "__init__": lambda self: None,
        "_layer_type": None,
        "lazy_initialization": LinearAttentionLayer.lazy_initialization,
    }
    return type(f"Counting{stock.__name__}", (_Counting, stock), own)


class TokenCount(Cache):
    """The cache that a forward is given: tokens are counted, and keys and values pass through.

    Convolution and SSM states of a hybrid stay in transformers' own layers, and are shown as `foreign`.
    """

    caller: Caller | None = None

    def __init__(self, config: Any, index_of: dict[int, int], latents: bool):
        layers: list[Any] = DynamicCache(config=config).layers
        for i, layer in enumerate(layers):
            if isinstance(layer, LinearAttentionCacheLayerMixin) and isinstance(layer, CacheLayerMixin):
                mixed = _counting(type(layer))()
                vars(mixed).update(vars(layer), n=0)
                layers[i] = mixed
            elif isinstance(layer, CacheLayerMixin):
                layers[i] = _Counting()
        super().__init__(layers=layers)
        self._index_of, self._latents = index_of, latents
        self._attention: list[Any] = [layer for layer in layers if isinstance(layer, _Counting)]
        self._recurrent: dict[int, Any] = {
            i: layer for i, layer in enumerate(layers) if isinstance(layer, LinearAttentionCacheLayerMixin)
        }
        self._empty = {i: _copied(vars(layer)) for i, layer in self._recurrent.items()}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.layers[layer_idx].n += key_states.shape[-2]  # pyright: ignore[reportAttributeAccessIssue]
        if self._latents:
            assert self.caller is not None
            return self.caller.latent(self._index_of[layer_idx], key_states, value_states)
        return key_states, value_states

    @property
    def n(self) -> int:
        """Tokens seen."""
        return self._attention[0].n

    @n.setter
    def n(self, tokens: int) -> None:
        for layer in self._attention:
            layer.n = tokens

    @property
    def foreign(self) -> Foreign:
        """The tensors that the model keeps here by itself; references."""
        found: dict[str, Tensor] = {}

        def walk(path: str, value: Any) -> None:
            if isinstance(value, Tensor):
                found[path] = value
            elif isinstance(value, dict):
                for key, item in value.items():
                    walk(f"{path}.{key}", item)
            elif isinstance(value, (list, tuple)):
                for i, item in enumerate(value):
                    walk(f"{path}.{i}", item)

        for i, layer in self._recurrent.items():
            walk(str(i), vars(layer))
        return Foreign(found)

    def save(self) -> dict[int, dict[str, Any]]:
        """A copy of the recurrent layers, as plain dictionaries and tensors."""
        return {i: _copied(vars(layer)) for i, layer in self._recurrent.items()}

    def load(self, saved: dict[int, dict[str, Any]] | None) -> None:
        """What `save` gave; None: as new."""
        for i, layer in self._recurrent.items():
            attributes = vars(layer)
            kept = {name: attributes[name] for name in ("n",) if name in attributes}
            attributes.clear()
            attributes.update(_copied((self._empty if saved is None else saved)[i]), **kept)


def _copied(value: Any) -> Any:
    """A deep copy of nested dictionaries and lists whose leaves are tensors and constants."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(item) for item in value)
    return value


# ------------------------------------------------------------------------------------------------ rotation


def _half_split(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The usual rotation of x [B, H, T, R] by angles [B, T, R]: each dimension with that half a head further."""
    a, b = x.chunk(2, -1)
    return x * cos.unsqueeze(1) + torch.cat((-b, a), -1) * sin.unsqueeze(1)


class ModelRope:
    """The model's own rotary embedding at any position: its module for the angles, its function for the rotation.

    Only the first (or, where latents are cached, the last) dimensions of a head turn where the model rotates a part.
    """

    #: Angles of calls up to this many positions are kept, since all layers of a forward ask for the same.
    KEPT = 1024

    def __init__(self, rotary: nn.Module, rotate: Callable[..., Any], layer_type: str | None, at_end: bool):
        self._rotary, self._options = rotary, {} if layer_type is None else {"layer_type": layer_type}
        self._rotate, self.at_end = _one(rotate), at_end
        self._kept: list[tuple[Tensor, torch.dtype, tuple[Tensor, ...]]] = []
        # Dynamic angles depend on what was asked before.
        self._keeps = "dynamic" not in str(getattr(rotary, "rope_type", ""))
        angles = self._angles(
            torch.empty(0, dtype=torch.float32, device=_device(rotary)), torch.zeros(1, 1, dtype=torch.long)
        )
        self._complex = angles[0].is_complex()
        self.dims = angles[0].shape[-1] * (2 if self._complex else 1)
        still = [torch.ones_like(angles[0]), *(torch.zeros_like(a) for a in angles[1:])]
        shared = not self._turns(self.dims, still)
        if shared:  # each angle stands for two dimensions
            self.dims *= 2
        #: How a pair's one angle stands in what the rotary module gives: once, or twice in halves or neighbours.
        self._layout = "once" if shared or angles[0].is_complex() else self._repeated()
        #: The function writes pairs into halves. A rotation within the new order undoes and repeats it.
        self.reorders = False
        probe = torch.linspace(-1, 1, 3 * self.dims, device=still[0].device).view(1, 3, 1, -1)
        if not isinstance(probe, FakeTensor):
            self.reorders = not torch.equal(self._rotate(probe, *still), probe)
            if self.reorders or (len(still) == 2 and not shared and self._is_half_split(probe)):
                self._rotate = _half_split

    def _repeated(self) -> str:
        """Whether the module's angles repeat in "halves" or in "neighbours"."""
        one = self._angles(torch.empty(0, device=_device(self._rotary)), torch.ones(1, 1, dtype=torch.long))[0]
        neighbours = not isinstance(one, FakeTensor) and not torch.equal(*one.chunk(2, -1))
        return "neighbours" if neighbours else "halves"

    def _attribute(self, name: str) -> Any:
        """An attribute of the rotary module, of the layer's kind where it tells kinds apart."""
        kind = self._options.get("layer_type")
        return getattr(self._rotary, f"{kind}_{name}" if kind else name, None)

    @property
    def frequencies(self) -> Tensor:
        """[R/2] float32, radians a token, falling."""
        found = self._attribute("inv_freq")
        if found is None:
            raise UnsupportedModel(
                f"{type(self._rotary).__name__} shows no frequencies, so that positions can be moved and not stretched"
            )
        return found.float()

    @property
    def trained(self) -> int | None:
        """Positions that the model was made for, or None where it does not say."""
        return getattr(self._rotary, "original_max_seq_len", None)

    def rotate(self, x: Tensor, angles: Tensor, factor: float = 1.0) -> Tensor:
        """Rotate x [B, H, T, D] by angles [B, T, R/2], one a pair, and multiply what turns by `factor`, and by the
        model's own (YaRN) where it has one."""
        angles, size = angles.to(x.device), factor * (self._attribute("attention_scaling") or 1.0)
        if self._complex:
            turned = (torch.polar(torch.full_like(angles, size), angles),)
        else:
            if self._layout == "halves":
                angles = torch.cat((angles, angles), -1)
            elif self._layout == "neighbours":
                angles = angles.repeat_interleave(2, -1)
            turned = tuple((wave * size).to(x.dtype) for wave in (angles.cos(), angles.sin()))
        return self._part(x, lambda part: self._rotate(part, *turned).to(x.dtype))

    def _is_half_split(self, x: Tensor) -> bool:
        """Whether the model's function gives, to the bit, what `_half_split` gives in half as many operations."""
        angle = torch.arange(1.0, 1 + self.dims // 2, device=x.device).repeat(2)[None, None]
        for dtype in (torch.float32, torch.bfloat16):
            y, cos, sin = (t.to(dtype) for t in (x, angle.cos(), angle.sin()))
            if not torch.equal(self._rotate(y, cos, sin), _half_split(y, cos, sin)):
                return False
        return True

    def _turns(self, dims: int, angles: list[Tensor]) -> bool:
        x = torch.zeros(1, 1, 1, dims, device=angles[0].device)
        try:
            return self._rotate(x, *angles).shape == x.shape
        except RuntimeError:
            return False

    def _angles(self, x: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        cheap = (
            self._keeps
            and positions.device.type == "cpu"
            and type(positions) is Tensor
            and positions.shape[-1] <= self.KEPT
            and not torch.is_inference_mode_enabled()
        )
        if cheap:
            for known, dtype, angles in self._kept:
                if dtype == x.dtype and torch.equal(known, positions):
                    return angles
        found = self._rotary(x, positions.to(x.device), **self._options)
        # The rotary module may lie on another device than this layer.
        angles = tuple(a.to(x.device) for a in (found if isinstance(found, tuple) else (found,)))
        if cheap:
            self._kept = [(positions.clone(), x.dtype, angles), *self._kept[:3]]
        return angles

    def _part(self, x: Tensor, turn: Callable[[Tensor], Tensor]) -> Tensor:
        if self.dims == x.shape[-1]:
            return turn(x)
        if self.at_end:
            still, x = x[..., : -self.dims], x[..., -self.dims :]
            return torch.cat((still, turn(x)), -1)
        x, still = x[..., : self.dims], x[..., self.dims :]
        return torch.cat((turn(x), still), -1)

    def apply(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotate x [B, H, T, D] to positions [B, T] (or [1, T])."""
        angles = self._angles(x, positions)
        return self._part(x, lambda part: self._rotate(part, *angles).to(x.dtype))

    def invert(self, x: Tensor, positions: Tensor) -> Tensor:
        """Undo `apply`, up to rounding; also where the angles carry a factor (YaRN)."""
        there = tuple(a if a.is_complex() else a.float() for a in self._angles(x, positions))
        back = (there[0].conj(),) if len(there) == 1 else (there[0], -there[1])
        ones = torch.ones(there[0].shape[0], 1, there[0].shape[1], self.dims, device=x.device)
        square = self._rotate(self._rotate(ones, *there), *back)
        return self._part(x, lambda part: (self._rotate(part.float(), *back) / square).to(x.dtype))


@dataclass(frozen=True)
class UnknownRope:
    """Stands where the model rotates in a way that the bridge cannot repeat: methods that need it are refused."""

    reason: str

    def apply(self, x: Tensor, positions: Tensor) -> Tensor:
        raise UnsupportedModel(self.reason)

    invert = apply

    def rotate(self, x: Tensor, angles: Tensor, factor: float = 1.0) -> Tensor:
        raise UnsupportedModel(self.reason)

    @property
    def frequencies(self) -> Tensor:
        raise UnsupportedModel(self.reason)

    trained = None


def _device(module: nn.Module) -> torch.device:
    return next((b.device for b in module.buffers()), torch.device("cpu"))


def _one(rotate: Callable[..., Any]) -> Callable[..., Tensor]:
    """A modelling file's rotary function, of q and k together or of one tensor, as a function of x [B, H, T, D]."""
    parameters = list(inspect.signature(rotate).parameters)
    if "freqs_cis" in parameters:
        return lambda x, freqs: rotate(x, x, freqs)[0]
    if parameters[1] == "cos":
        return lambda x, cos, sin: rotate(x, cos, sin, unsqueeze_dim=1)
    # No heads in the other place: it costs nothing.
    return lambda x, cos, sin: rotate(x, x[:, :0], cos, sin)[0]


#: Names by which modelling files know their rotary function.
_ROTATE = ("apply_rotary_pos_emb", "apply_rotary_pos_emb_interleave", "apply_rotary_emb")


# ------------------------------------------------------------------------------------------------ what is global


@dataclass
class _Installed:
    """A change of something that several bridges may share (a configuration, a modelling file): undone by the last."""

    undo: Callable[[], None]
    count: int = 0


_changes: dict[tuple[Any, ...], _Installed] = {}
_bridges: dict[int, Bridge] = {}
_running: ContextVar[_Forward | None] = ContextVar("kvfrontier_forward", default=None)


def _change(key: tuple[Any, ...], do: Callable[[], Callable[[], None]]) -> Callable[[], None]:
    """Do a shared change once; returns what gives it back."""
    if key not in _changes:
        _changes[key] = _Installed(do())
    _changes[key].count += 1

    def give_back() -> None:
        change = _changes[key]
        change.count -= 1
        if not change.count:
            del _changes[key]
            change.undo()

    return give_back


def _register() -> Callable[[], None]:
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _no_mask)

    def undo() -> None:
        AttentionInterface._global_mapping.pop(NAME)
        AttentionMaskInterface._global_mapping.pop(NAME)

    return undo


def _point(config: Any) -> Callable[[], None]:
    before = config._attn_implementation_internal
    config._attn_implementation_internal = NAME

    def undo() -> None:
        config._attn_implementation_internal = before

    return undo


def _tap(file: Any, name: str) -> Callable[[], None]:
    """Let a running forward see the calls of a modelling file's rotary function."""
    rotate = getattr(file, name)

    @functools.wraps(rotate)
    def tapped(*args: Any, **kwargs: Any) -> Any:
        out = rotate(*args, **kwargs)
        forward = _running.get()
        if forward is not None and forward.tapping:
            forward.rotated.append((args, out if isinstance(out, tuple) else (out,)))
        return out

    setattr(file, name, tapped)
    return lambda: setattr(file, name, rotate)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """What transformers calls for every attention layer."""
    forward = _running.get()
    if forward is None:
        raise RuntimeError(
            "this model, or one that shares its configuration, was called outside its session; use the session's "
            "prefill and decode, or leave the `with` first"
        )
    return forward.attention(module, query, key, value, attention_mask, kwargs)


def _no_mask(*args: Any, mask_function: Callable[..., Any] | None = None, **kwargs: Any) -> None:
    """Methods know what is causal and what a window is. The first forward notes which patterns the model asked for."""
    forward = _running.get()
    if forward is not None and forward.checking and mask_function is not None:
        forward.windows_asked.add(_window(mask_function, forward.bridge.mask_windows))


def _window(mask_function: Callable[..., Any], expected: set[int | None]) -> int | None:
    """The window of a mask pattern, None for a plain causal one."""

    def sees(q: int, kv: int) -> bool:
        return bool(mask_function(*(torch.tensor(i) for i in (0, 0, q, kv))))

    far = 1 << 40
    if not sees(3, 4):
        for window in expected - {None}:
            assert window is not None
            if sees(far, far - window + 1) and not sees(far, far - window):
                return window
        if sees(far, 0):
            return None
    raise UnsupportedModel(
        "this model masks attention in a pattern of its own, beyond causal order and a sliding window"
    )


# ------------------------------------------------------------------------------------------------ one forward


class _Forward:
    """One forward of the model: which layers have called, and what the tap has seen since the last of them."""

    def __init__(self, bridge: Bridge, caller: Caller, positions: Tensor, checking: bool):
        self.bridge, self.caller, self.positions, self.checking = bridge, caller, positions, checking
        self.tapping = checking or caller.unrotated
        self.rotated: list[tuple[tuple[Any, ...], tuple[Any, ...]]] = []
        self.called = 0
        self.windows_asked: set[int | None] = set()

    def attention(
        self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any, kwargs: dict[str, Any]
    ) -> tuple[Tensor, None]:
        index = self.bridge.index_of.get(module)
        if index is None:
            raise RuntimeError(f"{type(module).__name__} is not a layer of the model that this session runs")
        rotated, self.rotated = self.rotated, []
        if mask is not None:
            raise UnsupportedModel(
                f"{type(module).__name__} builds an attention mask of its own, which methods cannot follow"
            )
        if self.checking:
            self.bridge.check(index, q, k, v, kwargs, rotated, self.positions)
        self.called += 1
        sinks = kwargs.get("s_aux")
        if self.caller.unrotated:
            pre = functools.partial(self.bridge.unrotated, index, q, k, rotated, self.positions)
        else:
            pre = functools.partial(self.bridge.unrotated, index, q, k, (), self.positions)
            del rotated
        return self.caller.attend(index, q, k, v, sinks, pre).transpose(1, 2), None


# ------------------------------------------------------------------------------------------------ the bridge


class Bridge:
    """What is installed on one model.

    layers          one `Layer` for each attention layer, in order
    max_positions   how many positions the model was made for, or None where it does not say
    learned_positions   positions are a table of the model: beyond it there is nothing
    recurrent       the model has layers with states of their own (a hybrid)
    one_shot        why the model takes a prompt in one call only, or None
    latents         the model caches latents (MLA)
    """

    def __init__(self, model: PreTrainedModel):
        config, stock = _servable(model)
        self.model, self._config, self._count = model, config, 0
        modules = _attention_modules(model)
        self._place = {i: module.layer_idx for i, module in enumerate(modules)}
        self.index_of: dict[nn.Module, int] = {module: i for i, module in enumerate(modules)}
        windows = [
            getattr(stock[m.layer_idx], "sliding_window", None) if m.layer_idx < len(stock) else None for m in modules
        ]
        ropes = _Ropes(model, config)
        self.layers: list[Layer] = []
        for i in range(len(modules)):
            self.layers.append(_layer(model, config, modules, i, windows[i], self.layers, ropes))
        self.latents = any(layer.latent for layer in self.layers)
        self.windows = {layer.window for layer in self.layers}
        #: Windows that a mask may have: models make those of their configuration also where no layer uses them.
        self.mask_windows = self.windows | {getattr(config, "sliding_window", None)}
        self._checked = False
        self._good_ropes: set[tuple[type, Rope]] = set()
        self.recurrent = any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in stock)
        self.one_shot = (
            f"{config.model_type} restarts its recurrent layers at every call of more than one token"
            if config.model_type in _ONE_SHOT
            else None
        )
        self.max_positions: int | None = getattr(config, "max_position_embeddings", None)
        self.learned_positions = all(layer.rope is None for layer in self.layers) and self.max_positions is not None
        parameters = inspect.signature(model.forward).parameters
        self._keeps_logits = "logits_to_keep" in parameters
        self.takes_positions = "position_ids" in parameters
        self._undo: list[Callable[[], None]] = []

    # -------------------------------------------------------------------------------- installing

    @classmethod
    def install(cls, model: PreTrainedModel) -> Bridge:
        """The bridge of this model; each call must be met by one `remove`. Raises UnsupportedModel."""
        bridge = _bridges.get(id(model))
        if bridge is None:
            bridge = cls(model)
            try:
                bridge._install()
            except BaseException:
                bridge._restore()
                raise
            _bridges[id(model)] = bridge
        bridge._count += 1
        return bridge

    @property
    def checked(self) -> bool:
        """Whether a first forward has shown that the model does what its configuration says."""
        return self._checked

    def _install(self) -> None:
        self._undo.append(_change(("interfaces",), _register))
        configs: dict[int, Any] = {id(module.config): module.config for module in self.index_of}
        configs[id(self._config)] = self._config
        for module in self.model.modules():
            # The model above the layers makes the masks, by its own configuration.
            if isinstance(module, PreTrainedModel) and any(m in self.index_of for m in module.modules()):
                configs[id(module.config)] = module.config
        for key, config in configs.items():
            self._undo.append(_change(("config", key), functools.partial(_point, config)))
        files = {type(module).__module__: sys.modules[type(module).__module__] for module in self.index_of}
        for file_name, file in files.items():
            for name in _ROTATE:
                if callable(getattr(file, name, None)):
                    self._undo.append(_change(("tap", file_name, name), functools.partial(_tap, file, name)))

    def remove(self) -> None:
        """Give the model back; the last of several sessions restores it."""
        self._count -= 1
        if not self._count:
            del _bridges[id(self.model)]
            self._restore()

    def _restore(self) -> None:
        with contextlib.ExitStack() as stack:
            for undo in self._undo:
                stack.callback(undo)
        self._undo = []

    # -------------------------------------------------------------------------------- running

    def new_cache(self, latents: bool = False) -> TokenCount:
        """An empty cache for one session; with `latents`, the caller's hook sees what the model caches."""
        return TokenCount(self._config, {place: i for i, place in self._place.items()}, latents)

    def forward(
        self,
        caller: Caller,
        cache: TokenCount,
        positions: Tensor,
        *,
        ids: Tensor | None = None,
        embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        keep: int | Tensor | None = 1,
        hidden: bool = False,
    ) -> Tensor:
        """One forward of the model over new tokens.

        positions [B, T]; ids [B, T] or embeds [B, T, hidden]; attention_mask [B, seen + T] for a hybrid's padded rows.
        Returns logits [B, keep, V] of the last `keep` positions (None: all; [n]: of these places of the call), or with
        `hidden` the last hidden states.
        """
        checking = not self._checked and not isinstance(positions, FakeTensor)
        forward = _Forward(self, caller, positions, checking)
        options: dict[str, Any] = {"past_key_values": cache, "use_cache": True, "return_dict": True}
        options["input_ids" if embeds is None else "inputs_embeds"] = ids if embeds is None else embeds
        if self.takes_positions:
            options["position_ids"] = positions
        if attention_mask is not None:
            options["attention_mask"] = attention_mask
        if self._keeps_logits and keep is not None and not hidden:
            options["logits_to_keep"] = keep
        cache.caller = caller
        token = _running.set(forward)
        try:
            if hidden:
                return self.model.base_model(**options).last_hidden_state
            logits = self.model(**options).logits
        finally:
            _running.reset(token)
            cache.caller = None
        if forward.called != len(self.layers):
            raise UnsupportedModel(
                f"{type(self.model).__name__} called attention {forward.called} times for its {len(self.layers)} "
                "attention layers; a method serves one call a layer"
            )
        if checking:
            self._finish_check(forward)
        if isinstance(keep, Tensor):
            return logits if self._keeps_logits else logits[:, keep]
        return logits if keep is None else logits[:, -keep:]

    def unrotated(self, index: int, q: Tensor, k: Tensor, rotated: Any, positions: Tensor) -> tuple[Tensor, Tensor]:
        """q and k before RoPE: what went into the model's rotary function where it gave these, else rotated back."""
        before: dict[int, Tensor] = {}
        for args, out in rotated:
            for given, gained in zip(args, out, strict=False):
                before[id(gained)] = given
        rope = self.layers[index].rope
        if rope is None:
            return q, k
        return tuple(before[id(x)] if id(x) in before else rope.invert(x, positions) for x in (q, k))  # pyright: ignore[reportReturnType]

    # -------------------------------------------------------------------------------- the first forward

    def check(
        self, index: int, q: Tensor, k: Tensor, v: Tensor, kwargs: dict[str, Any], rotated: Any, positions: Tensor
    ) -> None:
        """Compare what the model hands over with what its configuration says."""
        layer = self.layers[index]
        who = type(layer.module).__name__
        said = (layer.hq, layer.hkv, layer.hkv, layer.d, layer.d, layer.dv, layer.dtype)
        does = (q.shape[1], k.shape[1], v.shape[1], q.shape[3], k.shape[3], v.shape[3], k.dtype)
        if said != does:
            raise UnsupportedModel(
                f"{who} {index} was read as (Hq, Hkv, Hkv, D, D, Dv, dtype) {said} from its configuration, and gives "
                f"{does}"
            )
        for name, value in kwargs.items():
            if name in ("scaling", "softcap", "s_aux"):
                continue
            if name == "sliding_window":
                if value is not None and value != layer.window:
                    raise UnsupportedModel(
                        f"{who} {index} attends in a window of {value}; its cache says {layer.window}"
                    )
            elif name == "dropout":
                if value:
                    raise UnsupportedModel(
                        f"{who} drops attention weights while training; set attention_dropout to 0 or call model.eval()"
                    )
            elif name == "is_causal":
                if value is False:
                    raise UnsupportedModel(f"{who} attends in both directions")
            elif name not in _HARMLESS and value is not None and value is not False:
                raise UnsupportedModel(f"{who} hands {name!r} to attention, which methods do not know")
        scale = kwargs.get("scaling")
        rope = self._check_rope(layer, k, rotated, positions)
        self.layers[index] = replace(
            layer, scale=layer.d**-0.5 if scale is None else float(scale), softcap=kwargs.get("softcap"), rope=rope
        )

    def _check_rope(self, layer: Layer, k: Tensor, rotated: Any, positions: Tensor) -> Rope | None:
        rope = layer.rope
        if layer.source is not None:
            return rope
        if not rotated:
            return None
        given, gained = rotated[-1][0], rotated[-1][1]
        before, after = given[len(gained) - 1], gained[-1]
        if not isinstance(rope, ModelRope):
            return rope or UnknownRope(
                f"{type(layer.module).__name__} rotates keys by a rotary embedding that the bridge does not find"
            )
        few = min(4, k.shape[2])
        x, positions = k[:, :, :few].detach(), positions[:, :few]
        if after.shape[1:3] != k.shape[1:3] and after.shape[1] == k.shape[2]:  # [B, T, H, D]
            before, after = before.transpose(1, 2), after.transpose(1, 2)
        before, after = before[:, :, :few].detach(), after[:, :, :few].detach()
        if (type(layer.module), rope) in self._good_ropes:
            return rope
        unknown = UnknownRope(
            f"{type(layer.module).__name__} changes keys after their rotation, so that they cannot be moved"
        )
        part = x if after.shape[-1] == x.shape[-1] else x[..., -rope.dims :] if rope.at_end else x[..., : rope.dims]
        if part.shape[-1] != after.shape[-1] or not _close(part, after.expand_as(part)):
            return unknown
        back = rope.invert(x, positions)
        if not _close(rope.apply(back, positions), x):
            return unknown
        if not rope.reorders:
            back = (
                back
                if after.shape[-1] == x.shape[-1]
                else back[..., -rope.dims :]
                if rope.at_end
                else back[..., : rope.dims]
            )
            if not _close(back, before.expand_as(back)):
                return unknown
        self._good_ropes.add((type(layer.module), rope))
        return rope

    def _finish_check(self, forward: _Forward) -> None:
        unseen = self.windows - forward.windows_asked
        if forward.windows_asked and unseen:
            raise UnsupportedModel(
                f"{type(self.model).__name__} is configured with windows {sorted(w or 0 for w in self.windows)} (0: "
                f"none), and its masks have {sorted(w or 0 for w in forward.windows_asked)}"
            )
        self._checked = True


def _close(a: Tensor, b: Tensor) -> bool:
    tolerance = 1e-3 if a.dtype == torch.float32 else 6e-2
    return torch.allclose(
        a.float(), b.float(), atol=tolerance * float(b.float().abs().max().clamp(min=1e-6)), rtol=tolerance
    )


# ------------------------------------------------------------------------------------------------ reading a model


def _servable(model: Any) -> tuple[Any, list[Any]]:
    """The text configuration of a model that can be served, and the layers of the cache that transformers would give it
    (which know the windows); raises UnsupportedModel with the reason."""
    name = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise UnsupportedModel(f"{name} is not a transformers model; load it with AutoModelForCausalLM")
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{name} is an encoder-decoder; only decoders (causal language models) can be served")
    if model.get_output_embeddings() is None:
        raise UnsupportedModel(f"{name} has no language-model head; load it with AutoModelForCausalLM")
    if not model._can_set_attn_implementation():
        raise UnsupportedModel(
            f"{name} computes attention in its own code and not through transformers' AttentionInterface, so no method "
            "could take its place"
        )
    config = model.config.get_text_config(decoder=True)
    types = set(getattr(config, "layer_types", None) or ())
    if "chunked_attention" in types or getattr(config, "attention_chunk_size", None):
        raise UnsupportedModel(
            f"{name} attends in chunks (as Llama-4 does), which is neither full attention nor a window"
        )
    if not getattr(config, "is_causal", True) or getattr(config, "use_bidirectional_attention", False):
        raise UnsupportedModel(f"{name} is configured to attend in both directions")
    known = (DynamicLayer, DynamicSlidingWindowLayer)
    stock: list[Any] = DynamicCache(config=config).layers
    for layer in stock:
        attends, recurs = isinstance(layer, CacheLayerMixin), isinstance(layer, LinearAttentionCacheLayerMixin)
        if (attends and not recurs and type(layer) not in known) or (
            recurs and not isinstance(layer, LinearAttentionLayer)
        ):
            raise UnsupportedModel(
                f"{name} keeps a cache of its own kind ({type(layer).__name__}), which no method can stand for"
            )
    return config, stock


def _attention_modules(model: PreTrainedModel) -> list[Any]:
    """The decoder's attention modules, in order of their layers."""
    decoder = model.get_decoder()
    found: list[Any] = [
        m
        for m in (decoder or model).modules()
        if isinstance(getattr(m, "layer_idx", None), int) and _asks_interface(type(m))
    ]
    found.sort(key=lambda m: m.layer_idx)
    if not found:
        raise UnsupportedModel(
            f"{type(model).__name__} has no attention layer that asks transformers' AttentionInterface"
        )
    if len({m.layer_idx for m in found}) != len(found):
        raise UnsupportedModel(
            f"{type(model).__name__} has several attentions in one layer (cross-attention?), and a state is one a layer"
        )
    return found


@functools.cache
def _asks_interface(cls: type) -> bool:
    forward = cls.__dict__.get("forward") or getattr(cls, "forward", None)
    try:
        return "ALL_ATTENTION_FUNCTIONS" in inspect.getsource(forward)  # pyright: ignore[reportArgumentType]
    except (OSError, TypeError):
        return False


def _layer(
    model: PreTrainedModel,
    config: Any,
    modules: list[Any],
    i: int,
    window: int | None,
    before: list[Layer],
    ropes: _Ropes,
) -> Layer:
    module = modules[i]
    source = None
    if getattr(module, "is_kv_shared_layer", False):
        kind = getattr(module, "layer_type", None)
        source = max(
            j for j in range(i) if before[j].source is None and getattr(modules[j], "layer_type", None) == kind
        )
        window = before[source].window
    hq = getattr(module, "num_heads", None) or config.num_attention_heads
    groups = getattr(module, "num_key_value_groups", None)
    hkv = hq // groups if groups else getattr(module, "num_key_value_heads", None) or hq
    own = (getattr(module, name, None) for name in ("qk_head_dim", "q_head_dim", "head_dim", "head_size"))
    d = next((int(n) for n in own if n), config.hidden_size // config.num_attention_heads)
    latent = None
    if getattr(module, "kv_lora_rank", None):
        hkv = hq  # latents are expanded for every head
        latent = module.kv_lora_rank, module.qk_rope_head_dim
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    return Layer(
        index=i,
        count=len(modules),
        hq=hq,
        hkv=hkv,
        d=d,
        dv=getattr(module, "v_head_dim", None) or d,
        scale=float(getattr(module, "scaling", None) or d**-0.5),
        window=window,
        softcap=getattr(module, "attn_logit_softcapping", None) if _passes_softcap(type(module)) else None,
        source=source,
        latent=latent,
        dtype=model.dtype if weight is None else weight.dtype,
        device=model.device if weight is None else weight.device,
        rope=ropes.of(module),
        hidden=model.get_input_embeddings().weight.shape[1],  # pyright: ignore[reportArgumentType, reportIndexIssue]
        module=module,
    )


@functools.cache
def _passes_softcap(cls: type) -> bool:
    return "softcap=" in inspect.getsource(cls.forward)  # pyright: ignore[reportAttributeAccessIssue]


def _outwards(model: nn.Module, path: str) -> Iterator[nn.Module]:
    """The module at `path` and what it stands in, from the inside out."""
    while path:
        yield model.get_submodule(path)
        path = path.rpartition(".")[0]
    yield model


class _Ropes:
    """The rotations of a model, one for each rotary module, function and kind of layer."""

    def __init__(self, model: PreTrainedModel, config: Any):
        self._model, self._config = model, config
        self._paths = {module: path for path, module in model.named_modules()}
        self._known: dict[Any, ModelRope] = {}

    def of(self, module: Any) -> Rope | None:
        """The layer's rotation, or None. Where the first forward shows that a layer has none, it is corrected then."""
        above = _outwards(self._model, self._paths[module])
        rotary = next((r for m in above if isinstance(r := getattr(m, "rotary_emb", None), nn.Module)), None)
        file = sys.modules[type(module).__module__]
        names = [name for name in _ROTATE if callable(getattr(file, name, None))]
        if rotary is None or not names or getattr(module, "use_rope", True) in (False, 0):
            return None
        if getattr(self._config, "position_embedding_type", "rope") in ("nope", "learned", "absolute"):
            return None
        if len(names) > 1:
            interleaved = bool(getattr(self._config, "rope_interleave", True))
            names = [n for n in names if n.endswith("interleave") == interleaved] or names
        layer_type = None
        if "layer_type" in inspect.signature(rotary.forward).parameters:
            layer_type = getattr(module, "layer_type", None) or self._config.layer_types[module.layer_idx]
        key = (rotary, names[0], layer_type)
        if key not in self._known:
            rotate = inspect.unwrap(getattr(file, names[0]))
            self._known[key] = ModelRope(rotary, rotate, layer_type, hasattr(module, "qk_rope_head_dim"))
        return self._known[key]
