"""What an attention method is. contract.py says it; the rooms hold the methods.

cached.py    selection x store x memory x positions: the method that composes the four axes (axes.py)
selection/   which tokens stay                     stores/      how they are held
memory/      what becomes of those that leave      positions/   where keys are attended
baselines/   dense, recompute                      retrieval/   everything is kept, a part is read
patterns/    sparse patterns, kinds of heads       recurrent/   the past is a matrix
segments/    memory tokens, text memories          sharing/     fewer heads, latents, shared layers
attend/      softmax attention over q, k, v: one function a backend
registry.py  names; per_layer.py: other methods in some layers; sequence.py: state beside the layers'; draws.py: chance
"""

from kvfrontier.methods.axes import Memory, Positions, Selection, Store
from kvfrontier.methods.baselines.dense import Dense
from kvfrontier.methods.baselines.recompute import Recompute, WindowRecompute
from kvfrontier.methods.cached import Cached, Composed
from kvfrontier.methods.contract import Footprint, Method, Run, Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.memory.cam import CaM
from kvfrontier.methods.memory.compressive import Compressive
from kvfrontier.methods.memory.infini import Infini, InfiniDelta
from kvfrontier.methods.memory.merging import LookM
from kvfrontier.methods.memory.moving_average import MovingAverage, MovingAverageWeighted
from kvfrontier.methods.memory.moving_average_window import MovingAverageWindow
from kvfrontier.methods.memory.transformer_xl import TransformerXL
from kvfrontier.methods.patterns.bigbird import BigBird
from kvfrontier.methods.patterns.duo import Duo
from kvfrontier.methods.patterns.longformer import Longformer
from kvfrontier.methods.patterns.moba import MoBA
from kvfrontier.methods.patterns.nsa import NSA
from kvfrontier.methods.patterns.vertical_slash import VerticalSlash
from kvfrontier.methods.per_layer import Layers, PerLayer
from kvfrontier.methods.positions.alibi import ALiBi
from kvfrontier.methods.positions.linear import LinearInterpolation
from kvfrontier.methods.positions.lm_infinite import LMInfinite
from kvfrontier.methods.positions.ntk import NTK
from kvfrontier.methods.positions.self_extend import SelfExtend
from kvfrontier.methods.positions.yarn import YaRN
from kvfrontier.methods.recurrent.based import Based
from kvfrontier.methods.recurrent.cosformer import CosFormer
from kvfrontier.methods.recurrent.deltanet import DeltaNet
from kvfrontier.methods.recurrent.gated_deltanet import GatedDeltaNet
from kvfrontier.methods.recurrent.gla import GLA
from kvfrontier.methods.recurrent.hybrid import Hybrid
from kvfrontier.methods.recurrent.linear import Linear
from kvfrontier.methods.recurrent.performer import Performer
from kvfrontier.methods.recurrent.retnet import RetNet
from kvfrontier.methods.recurrent.rwkv6 import RWKV6
from kvfrontier.methods.recurrent.ssd import SSD
from kvfrontier.methods.registry import build, component, components, entries, get, register
from kvfrontier.methods.retrieval.infllm import InfLLM
from kvfrontier.methods.retrieval.memorizing import Memorizing
from kvfrontier.methods.retrieval.quest import Quest
from kvfrontier.methods.segments.autocompressor import AutoCompressor
from kvfrontier.methods.segments.gist import Gist
from kvfrontier.methods.segments.rag import RAG
from kvfrontier.methods.segments.rmt import RMT
from kvfrontier.methods.segments.summary import Summary
from kvfrontier.methods.selection.adakv import AdaKV
from kvfrontier.methods.selection.expected_attention import ExpectedAttention
from kvfrontier.methods.selection.h2o import H2O
from kvfrontier.methods.selection.key_norm import KeyNorm
from kvfrontier.methods.selection.keydiff import KeyDiff
from kvfrontier.methods.selection.kvzip import KVzip
from kvfrontier.methods.selection.pyramidkv import PyramidKV
from kvfrontier.methods.selection.random import Random
from kvfrontier.methods.selection.snapkv import SnapKV
from kvfrontier.methods.selection.tova import TOVA
from kvfrontier.methods.selection.window import Sinks, Window
from kvfrontier.methods.sharing.cla import CLA
from kvfrontier.methods.sharing.gqa import GQA, MQA
from kvfrontier.methods.sharing.mla import MLA
from kvfrontier.methods.sharing.mla_quantized import MLAQuantized
from kvfrontier.methods.sharing.mla_svd import MLASVD
from kvfrontier.methods.sharing.yoco import YOCO
from kvfrontier.methods.state import Buf, Bytes, Foreign, Host, State
from kvfrontier.methods.stores.fp8 import FP8
from kvfrontier.methods.stores.gear import GEAR
from kvfrontier.methods.stores.kvquant import KVQuant
from kvfrontier.methods.stores.offloaded import Offloaded
from kvfrontier.methods.stores.paged import Paged
from kvfrontier.methods.stores.palu import Palu
from kvfrontier.methods.stores.quantized import Kivi, Quantized
from kvfrontier.methods.stores.rotated import Rotated
from kvfrontier.methods.stores.think import ThinK
from kvfrontier.methods.stores.turboquant import TurboQuant

__all__ = [
    "AdaKV", "ALiBi", "AutoCompressor", "Based", "BigBird", "Buf", "Bytes", "Cached", "CaM", "CLA",
    "Composed", "Compressive", "CosFormer", "DeltaNet", "Dense", "Duo", "ExpectedAttention", "Footprint", "Foreign",
    "FP8", "GatedDeltaNet", "GEAR", "Gist", "GLA", "GQA", "H2O", "Host", "Hybrid", "Infini", "InfiniDelta", "InfLLM",
    "KeyDiff", "KeyNorm", "Kivi", "KVQuant", "KVzip", "Layer", "Layers", "Linear", "LinearInterpolation",
    "LMInfinite", "Longformer", "LookM", "Memorizing", "Memory", "Method", "MLA", "MLAQuantized", "MLASVD", "MoBA",
    "MovingAverage", "MovingAverageWeighted", "MovingAverageWindow", "MQA", "NSA", "NTK", "Offloaded", "Paged", "Palu",
    "Performer", "PerLayer", "Positions", "PyramidKV", "Quantized", "Quest", "RAG", "Random", "Recompute", "RetNet",
    "RMT", "Rotated", "Run", "RWKV6", "Selection", "SelfExtend", "Sinks", "SnapKV", "SSD", "State", "Step", "Store",
    "Summary", "ThinK", "TOVA", "TransformerXL", "TurboQuant", "VerticalSlash", "Window", "WindowRecompute", "YaRN",
    "YOCO", "build", "component", "components", "entries", "get", "register",
]  # fmt: skip
