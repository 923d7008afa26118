"""Any causal language model that transformers knows, from a folder or from the hub."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors import SafetensorError

from kvfrontier.runners.cache import digest
from kvfrontier.runners.environment import resolve_device
from kvfrontier.runners.errors import UsageError, unknown
from kvfrontier.runners.models.loaded import LoadedModel, quiet_transformers, ready, resolve_dtype
from kvfrontier.runners.progress import working

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
#: Files of the hub's snapshot: of a model that is run, of its tokenizer alone, and of one that is planned.
_WHOLE = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "README.md")
_TOKENIZER = ("*.json", "*.model", "*.txt", "*.jinja")
_CONFIGURATION = ("config.json",)
#: How accelerate may spread layers over GPUs.
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Pretrained:
    """`path` is a folder in the layout of `save_pretrained`, or a name on the hub; `revision` is the hub's.

    `architecture` is what of its configuration decides shapes: with it, planning asks neither folder nor hub.
    `device_map` (auto, balanced, balanced_low_0, sequential) lets accelerate put its layers on several GPUs.
    """

    name: str = "hf"
    path: str | None = None
    revision: str | None = None
    architecture: dict[str, Any] | None = None
    device_map: str | None = None
    dtype: str = "float32"
    device: str = "auto"

    def load(self) -> LoadedModel:
        """The model; raises UsageError for a folder that holds none, and for a hub that cannot be asked."""
        device, dtype = resolve_device(self.device), resolve_dtype(self.dtype)
        folder, name, commit = self._find()
        return load_folder(folder, dtype=dtype, device=device, name=name, revision=commit, device_map=self._map(device))

    def _map(self, device: str) -> str | None:
        if self.device_map is None:
            return None
        if self.device_map not in DEVICE_MAPS:
            raise unknown("model.device_map", self.device_map, DEVICE_MAPS)
        if device != "cuda":
            raise UsageError(f"model.device_map={self.device_map} needs device=cuda, and this is {device}")
        return self.device_map

    def tokenizer(self) -> Any:
        """The model's tokenizer; of a hub's model, its files alone are downloaded."""
        return load_tokenizer(self._find(_TOKENIZER)[0])

    def configuration(self) -> Any:
        """transformers' configuration: what `architecture` says, else the config.json that `path` is, holds or names;
        of a hub's model that file alone is downloaded."""
        if self.architecture is not None:
            return build_configuration(self.architecture)
        file = Path(self.path or "").expanduser()
        return read_configuration(file.parent if file.name == "config.json" else self._find(_CONFIGURATION)[0])

    def _find(self, patterns: Sequence[str] = _WHOLE) -> tuple[Path, str, str | None]:
        """The model's folder, its name, and the hub's commit where it is from there."""
        if not self.path:
            raise UsageError("model=hf needs model.path, a folder with a model or the name of one on the hub")
        folder = Path(self.path).expanduser()
        if folder.exists():
            if self.revision:
                raise UsageError(f"model.revision={self.revision} is the hub's, and {folder} is a folder; leave it out")
            return folder, folder.resolve().name, None
        if not _HUB_NAME.fullmatch(self.path):
            raise UsageError(f"model.path={self.path}: there is no such folder")
        snapshot, commit = _download(self.path, self.revision, patterns)
        return snapshot, self.path, commit


def build_configuration(architecture: Mapping[str, Any]) -> Any:
    """transformers' configuration of a model type and the values in which it differs from the type's defaults."""
    from transformers import AutoConfig

    values = dict(architecture)
    try:
        return AutoConfig.for_model(values.pop("model_type", None), **values)
    except ValueError as error:
        reason = str(error).strip().split("\n")[0]
        raise UsageError(f"model.architecture is none that transformers knows: {reason[:200]}") from error


def read_configuration(folder: Path) -> Any:
    """transformers' configuration of the model in a folder. Raises UsageError where there is none."""
    from transformers import AutoConfig

    if not (folder / "config.json").exists():
        raise UsageError(f"{folder} has no config.json; give a folder that transformers' save_pretrained wrote")
    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer that `save_pretrained` left in `folder`. Raises UsageError where there is none."""
    from transformers import AutoTokenizer

    try:
        # Never code that a folder brings: transformers would ask on the terminal.
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()
        raise UsageError(
            f"{folder} holds no tokenizer that transformers can load: {(reason or [repr(error)])[0]}"
        ) from error


def load_folder(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: str,
    name: str,
    revision: str | None = None,
    license_name: str | None = None,
    device_map: str | None = None,
) -> LoadedModel:
    """The model and the tokenizer that `save_pretrained` left in `folder`.

    Without a revision it is the hash of the weights and of config.json; without a license, what README.md says.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights = _weights(folder)
    try:
        with working(f"loading {name}"), quiet_transformers():
            # Never code that a folder brings: transformers would ask on the terminal.
            options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            options |= {"device_map": device_map} if device_map else {}
            loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True, **options)
            model, found = loaded
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = str(error).strip().splitlines()
        raise UsageError(
            f"{folder} holds no causal language model that transformers can load: {reason[0] if reason else error!r}"
        ) from error
    if missing := sorted(found["missing_keys"]):
        # transformers would go on with random numbers in their place.
        raise UsageError(f"{folder} lacks {len(missing)} weights of {name} (first {missing[0]}); download it in full")
    return ready(
        model,
        tokenizer,
        device=None if device_map else device,
        name=name,
        revision=revision or _content_hash([*weights, folder / "config.json"]),
        license_name=license_name or _license(folder),
    )


def _weights(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"model.path={folder} is a file; give the folder that holds config.json and the weights")
    if not (folder / "config.json").exists():
        raise UsageError(f"{folder} has no config.json; give a folder that transformers' save_pretrained wrote")
    for pattern in _WEIGHTS:
        if found := sorted(folder.glob(pattern)):
            return found
    raise UsageError(f"{folder} has no weights (looked for {' and '.join(_WEIGHTS)}); download the model in full")


def _content_hash(files: list[Path]) -> str:
    content = "".join(f"{file.name} {digest(file)}\n" for file in files)
    return hashlib.sha256(content.encode()).hexdigest()


def _license(folder: Path) -> str:
    """The `license:` line of a model card's header."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.exists() else ""
    header = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    line = re.search(r"^license:\s*(\S+)", header[1], re.MULTILINE) if header else None
    return line[1] if line else "not stated"


def _download(name: str, revision: str | None, patterns: Sequence[str]) -> tuple[Path, str]:
    """The hub's snapshot of a model, as a folder, and its commit; from the hub's own cache where it is out of reach."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    patterns = list(patterns)
    try:
        info = HfApi().model_info(name, revision=revision, timeout=10)
        names = [file.rfilename for file in info.siblings or ()]
        if "*.safetensors" in patterns and not any(name.endswith(".safetensors") for name in names):
            patterns.append("pytorch_model*.bin")
        with quiet_transformers(not Console(stderr=True).is_terminal):
            folder = snapshot_download(name, revision=info.sha, allow_patterns=patterns)
    except GatedRepoError as error:
        raise UsageError(f"{name} is gated: accept its terms on the hub and log in (`hf auth login`)") from error
    except RevisionNotFoundError as error:
        raise UsageError(f"model.revision={revision}: {name} has no such branch, tag or commit on the hub") from error
    except RepositoryNotFoundError as error:
        raise UsageError(
            f"model.path={name}: no folder here and no model on the hub has that name; is it private? `hf auth login`"
        ) from error
    except (HfHubHTTPError, HTTPError, OSError) as unreachable:
        try:
            folder = snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=True)
        except LocalEntryNotFoundError:
            raise UsageError(
                f"model.path={name}: no folder here has that name, and the hub cannot be asked ({unreachable}); "
                f"give a folder, or download it where there is a network and copy it here"
            ) from unreachable
    return Path(folder), Path(folder).name
