"""What an attention method is. contract.py says it; the rooms hold the methods.

attend/      softmax attention over q, k, v: one function a backend
cached.py    selection x store x memory x positions: the method that composes (axes.py)
baselines/   dense, recompute
recurrent/   methods whose past is a matrix
registry.py  names
"""

from kvfrontier.methods.baselines.dense import Dense
from kvfrontier.methods.baselines.recompute import Recompute
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint, Method, Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.memory.infini import Infini
from kvfrontier.methods.memory.moving_average import MovingAverage
from kvfrontier.methods.per_layer import Layers, PerLayer
from kvfrontier.methods.recurrent.linear import Linear
from kvfrontier.methods.registry import build, entries, get, register
from kvfrontier.methods.selection.snapkv import SnapKV
from kvfrontier.methods.selection.window import Sinks, Window
from kvfrontier.methods.state import Buf, Bytes, Foreign, Host, State
from kvfrontier.methods.stores.quantized import Kivi

__all__ = [
    "Buf", "Bytes", "Cached", "Dense", "Footprint", "Foreign", "Host", "Infini", "Kivi", "Layer", "Layers",
    "Linear", "Method", "MovingAverage", "PerLayer", "Recompute", "Sinks", "SnapKV", "State", "Step", "Window",
    "build", "entries", "get", "register",
]  # fmt: skip
