"""Names of methods. A registered method is a factory: a class or a function of hyper-parameters that returns a Method.

    @register("window", family="selection", paper="...", cost="...")
    def Window(window: int = 256) -> Cached: ...

A choice of an axis (`@component("selection", "snapkv")`) is a factory too, and the method `cached` composes four of
them. `layers` gives other methods to some layers, whatever the method. So a method is described by plain data:

    {"name": "cached", "selection": {"name": "snapkv", "budget": 128}, "store": "kivi", "layers": {"0-1": "dense"}}

Methods of other packages register by the entry-point group `kvfrontier.methods`, whose values are such factories.
"""

from __future__ import annotations

import ast
import difflib
import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import pkgutil
import re
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from kvfrontier.methods.contract import Method

F = TypeVar("F", bound=Callable[..., Method])
C = TypeVar("C", bound=Callable[..., Any])

FAMILIES = (
    "baseline", "selection", "store", "memory", "positions", "retrieval", "patterns", "recurrent", "segments",
    "sharing",
)  # fmt: skip
#: The method that composes the four axes, and these.
COMPOSED = "cached"
AXES = ("selection", "store", "memory", "positions")


@dataclass(frozen=True)
class Entry:
    """A registered method.

    name       by which configuration asks for it
    factory    hyper-parameters -> Method
    family     one of FAMILIES
    paper      source, with the equation where there is one; empty for what has none
    cost       the state's size in words: T tokens, d head_dim, w window ...
    tags       fixed or growing; internal or external; lossy or exact; per layer, per head or per sequence;
               and "saves time, not memory" of those that hold as much as dense attention and read less of it
    labelled   all parameters -> a short name
    """

    name: str
    factory: Callable[..., Method]
    family: str
    paper: str
    cost: str
    tags: tuple[str, ...]
    labelled: Callable[[Mapping[str, Any]], str]

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.factory) or "").split("\n")[0]

    @property
    def parameters(self) -> dict[str, Any]:
        """Hyper-parameters and their defaults."""
        return defaults(self.factory)

    def label(self, params: Mapping[str, Any]) -> str:
        """A short name for a row: `kivi2` for {"bits": 2}."""
        return self.labelled({**self.parameters, **params})

    def build(self, params: Mapping[str, Any]) -> Method:
        """The method. Raises ValueError for an unknown parameter, a wrong type or a value that makes no sense."""
        return _call(self.factory, params, f"method {self.name!r}", "method")


def _call(factory: Callable[..., Any], params: Mapping[str, Any], who: str, where: str) -> Any:
    """factory(**params), after its names and types are checked. `where` is the configuration's path to them."""
    _check(factory, params, who, where)
    with _placed(where):
        return factory(**params)


def _check(factory: Callable[..., Any], params: Mapping[str, Any], who: str, where: str) -> None:
    types, known = typing.get_type_hints(factory), defaults(factory)
    for key, value in params.items():
        if key not in known:
            raise ValueError(f"{who} has no parameter {key!r}" + nearest(key, known))
        if not _fits(value, types[key]):
            wanted = getattr(types[key], "__name__", str(types[key]))
            raise ValueError(f"{where}.{key}={value!r} is not of type {wanted}, which {who} takes there")


def defaults(factory: Callable[..., Any]) -> dict[str, Any]:
    """A factory's parameters at their defaults."""
    return {p.name: p.default for p in inspect.signature(factory).parameters.values()}


_entries: dict[str, Entry] = {}


def register(
    name: str,
    *,
    family: str,
    cost: str,
    paper: str = "",
    tags: tuple[str, ...] = (),
    label: Callable[[Mapping[str, Any]], str] | None = None,
) -> Callable[[F], F]:
    """Register a factory under a name. Every parameter needs a default and a type. `label` makes a row's short name of
    the parameters, where the method's name alone would not tell two rows apart."""
    if family not in FAMILIES:
        raise ValueError(f"method {name!r}: unknown family {family!r}" + nearest(family, FAMILIES))

    def add(factory: F) -> F:
        bare = [key for key, value in defaults(factory).items() if value is inspect.Parameter.empty]
        if bare:
            raise ValueError(f"method {name!r}: give {', '.join(bare)} a default, so that it can be run by name alone")
        there = _entries.get(name)
        if there and there.factory.__module__ != factory.__module__:
            raise ValueError(
                f"method {name!r} is registered twice, by {there.factory.__module__} and {factory.__module__}"
            )
        _entries[name] = Entry(name, factory, family, paper, cost, tags, label or (lambda _: name))
        return factory

    return add


_components: dict[str, dict[str, Callable[..., Any]]] = {axis: {} for axis in AXES}


def component(axis: str, name: str) -> Callable[[C], C]:
    """Register one choice of an axis under a name: `method=cached method/selection=snapkv`. As with a method, every
    parameter needs a default (the paper's value) and a type."""

    def add(factory: C) -> C:
        bare = [key for key, value in defaults(factory).items() if value is inspect.Parameter.empty]
        if bare:
            raise ValueError(f"{axis} {name!r}: give {', '.join(bare)} a default, so that it can be chosen by name")
        there = _components[axis].get(name)
        if there and there.__module__ != factory.__module__:
            raise ValueError(f"{axis} {name!r} is registered twice, by {there.__module__} and {factory.__module__}")
        _components[axis][name] = factory
        return factory

    return add


def components(axis: str) -> dict[str, Callable[..., Any]]:
    """The choices of an axis by name."""
    _load_all()
    return dict(_components[axis])


@functools.cache
def _load_all() -> None:
    """Import every module of this package, and the entry points of others."""
    import kvfrontier.methods as package

    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if ".attend." not in module.name and ".kernels." not in module.name:
            importlib.import_module(module.name)
    for point in importlib.metadata.entry_points(group="kvfrontier.methods"):
        point.load()


def entries() -> dict[str, Entry]:
    """All registered methods by name."""
    _load_all()
    return dict(_entries)


def get(name: str) -> Entry:
    """One method. Raises ValueError with the nearest name where there is none."""
    known = entries()
    if name not in known:
        raise ValueError(f"unknown method {name!r}" + nearest(name, known))
    return known[name]


def build(params: Mapping[str, Any]) -> Method:
    """The method that `params` describes: {"name": "kivi", "bits": 2}. Raises ValueError, with what to change."""
    rest, name = _named(params)
    layers = rest.pop("layers", None)
    method = get(name).build(rest)
    if not layers:
        return method
    from kvfrontier.methods.per_layer import Layers, PerLayer

    choices = {}
    for spec, choice in layers.items():
        with _placed(f"method.layers.{spec}"):
            choices[spec] = build(_described(choice))
    default = choices.pop("default", method)
    return PerLayer(default, tuple((Layers(str(spec)), choice) for spec, choice in choices.items()))


@contextmanager
def _placed(where: str) -> Iterator[None]:
    """An error from within names parameters where the configuration has them: `method.rate` is `method.memory.rate`
    where the memory of `cached` says it."""
    try:
        yield
    except ValueError as error:
        if where != "method":
            error.args = (re.sub(r"\bmethod\.(?=\w)", f"{where}.", str(error)),)
        raise


def build_component(axis: str, params: Mapping[str, Any] | str) -> Any:
    """One choice of an axis: "snapkv" or {"name": "snapkv", "budget": 128}. Raises ValueError, with what to change."""
    rest, name = _named(_described(params))
    return _call(_component(axis, name), rest, f"{axis} {name!r}", f"method.{axis}")


def complete(params: Mapping[str, Any]) -> dict[str, Any]:
    """The same description with every default filled in. Raises ValueError where it describes no method."""
    build(params)
    return fill(params)


def fill(params: Mapping[str, Any]) -> dict[str, Any]:
    """As `complete`, but whether the values make a method is left to `build`: ValueError is for names that do not exist
    and values of a wrong type."""
    rest, name = _named(params)
    layers = rest.pop("layers", None)
    entry = get(name)
    _check(entry.factory, rest, f"method {name!r}", "method")
    filled = {"name": name, **entry.parameters, **rest}
    if name == COMPOSED:
        for axis in AXES:
            own, choice = _named(_described(filled[axis]))
            factory = _component(axis, choice)
            _check(factory, own, f"{axis} {choice!r}", f"method.{axis}")
            filled[axis] = {"name": choice, **defaults(factory), **own}
    if layers:
        filled["layers"] = {str(spec): fill(_described(choice)) for spec, choice in layers.items()}
    return filled


def label(params: Mapping[str, Any]) -> str:
    """A short name for a row: `kivi2`, `snapkv+kivi(bits=4)`, `snapkv[0-1: dense]`."""
    rest, name = _named(params)
    layers = rest.pop("layers", None) or {}
    text = _composed_label({**get(name).parameters, **rest}) if name == COMPOSED else get(name).label(rest)
    if "default" in layers:
        text = label(_described(layers["default"]))
    others = [f"{spec}: {label(_described(choice))}" for spec, choice in layers.items() if spec != "default"]
    return f"{text}[{', '.join(others)}]" if others else text


def source_hash(params: Mapping[str, Any]) -> str:
    """sha256 over the source of the files that define what `params` describes, and of every file of this package that
    these import, directly or not. A record's id holds it, so that a changed method is measured again and an unrelated
    change is not."""
    return _source_hash(tuple(sorted(set(_modules(params)))))


def _modules(params: Mapping[str, Any]) -> Iterator[str]:
    """Modules that define the method, its axes and what serves other layers."""
    rest, name = _named(params)
    yield get(name).factory.__module__
    if name == COMPOSED:
        for axis in AXES:
            chosen = {**get(name).parameters, **rest}[axis]
            yield _component(axis, _named(_described(chosen))[1]).__module__
    for choice in (rest.get("layers") or {}).values():
        yield from _modules(_described(choice))


def _named(params: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """All but the name, and the name."""
    rest = dict(params)
    if "name" not in rest:
        raise ValueError("a method needs a name: " + ", ".join(entries()))
    return rest, str(rest.pop("name"))


def _described(choice: Mapping[str, Any] | str) -> Mapping[str, Any]:
    return {"name": choice} if isinstance(choice, str) else choice


def _component(axis: str, name: str) -> Callable[..., Any]:
    known = components(axis)
    if name not in known:
        raise ValueError(f"unknown {axis} {name!r}" + nearest(name, known))
    return known[name]


def _composed_label(params: Mapping[str, Any]) -> str:
    """The axes that are not the usual choice, each with the parameters that are not its defaults."""
    parts = []
    for axis in AXES:
        own, name = _named(_described(params[axis]))
        if name != get(COMPOSED).parameters[axis]:
            usual = defaults(_component(axis, name))
            changed = [f"{key}={value}" for key, value in own.items() if value != usual[key]]
            parts.append(name + (f"({', '.join(changed)})" if changed else ""))
    return "+".join(parts) or COMPOSED


def called(part: Any) -> str:
    """What a person calls a choice of an axis, or a method, in a sentence: `selection 'window'`."""
    alike = [(words, usual) for words, usual in _usual() if type(usual) is type(part)]
    if not alike:
        return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z\d]*", type(part).__name__)).lower()
    # Names may share a class: `kivi` and `quantized` differ in a field.
    names = [f.name for f in fields(part)]
    return max(alike, key=lambda one: sum(getattr(one[1], name) == getattr(part, name) for name in names))[0]


@functools.cache
def _usual() -> tuple[tuple[str, Any], ...]:
    """Every choice of an axis and every method, at its defaults, with what it is called."""
    axes = [(f"{axis} {name!r}", factory) for axis in AXES for name, factory in components(axis).items()]
    return tuple(
        (words, make()) for words, make in [*axes, *((f"method {n!r}", e.factory) for n, e in entries().items())]
    )


def nearest(word: str, known: Iterable[str]) -> str:
    """A tail for an error message: the nearest known name, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; choose one of {', '.join(known)}" if known else ""


def _fits(value: Any, kind: Any) -> bool:
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return value in typing.get_args(kind)
    if origin is typing.Union or origin.__class__.__name__ == "UnionType" or type(kind).__name__ == "UnionType":
        return any(_fits(value, k) for k in typing.get_args(kind))
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return not isinstance(kind, type) or isinstance(value, kind)


def _sources(modules: Iterable[str]) -> dict[str, bytes]:
    """Source by module name: of `modules` and of all modules of this package that they import, directly or not."""
    seen: dict[str, bytes] = {}
    todo = list(modules)
    while todo:
        name = todo.pop()
        # Names and packages' lists of names decide nothing about a method.
        if name not in seen and name not in (_ROOT, f"{_ROOT}.registry"):
            seen[name], imported = _source(name)
            todo += imported
    return seen


_ROOT = "kvfrontier.methods"


@functools.cache
def _source(name: str) -> tuple[bytes, tuple[str, ...]]:
    """A module's source, and the modules of this package that it imports."""
    file = (sys.modules.get(name) or importlib.import_module(name)).__file__
    assert file is not None
    source = Path(file).read_bytes()
    imported = []
    if name == f"{_ROOT}.attend":  # which loads its backends by name
        imported += [f"{name}.{backend}" for backend in sys.modules[name].BACKENDS]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(_ROOT):
            imported += [_defining_module(node.module, alias.name) for alias in node.names]
    return source, tuple(imported)


def _defining_module(module: str, name: str) -> str:
    """Where `from module import name` finds it: a submodule, or the module that defines a re-exported object."""
    if f"{module}.{name}" in sys.modules:
        return f"{module}.{name}"
    found = getattr(getattr(sys.modules[module], name), "__module__", module)
    return found if found.startswith("kvfrontier.methods") else module


@functools.cache
def _source_hash(modules: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for name, source in sorted(_sources(modules).items()):
        digest.update(name.encode() + b"\0" + source + b"\0")
    return digest.hexdigest()
