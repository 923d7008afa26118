"""What a training begins from: random weights, a model trained with dense attention first, or a pretrained one.

The last two are uptraining: a method takes dense attention's place in a model that knows no other, and some steps of
training show how far quality comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kvfrontier.methods import Dense
from kvfrontier.runners import models
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import content_hash
from kvfrontier.runners.train.build import build
from kvfrontier.runners.train.plan import Planned
from kvfrontier.runners.train.trainer import Trainer

#: What adapters are put on, by the names that transformers gives them.
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


def beginning(one: Planned, checkpoints: Path) -> tuple[Callable[[], Any], float | None]:
    """What gives the model as it begins, as often as it is asked; and for uptraining its validation loss with dense
    attention, else None."""
    config, begins, lora = one.config, one.config["begins"], one.settings.lora
    options = {"seed": config["seed"], "dtype": config["dtype"], "device": config["device"]}
    if begins == "scratch":
        return lambda: build(config["model"], one.task.tokens, **options), None
    if begins == "pretrained":

        def load() -> Any:
            chosen = {**config["model"], "dtype": config["dtype"], "device": config["device"]}
            return models.load(chosen).model.requires_grad_(True)

        return _adapted(load, lora), _dense(one, load(), steps=1, lr=one.settings.lr[0], file=None).validated()
    trainer = _dense(
        one, build(config["model"], one.task.tokens, **options), steps=one.settings.before, lr=one.settings.lr[0],
        file=checkpoints / f"dense-{_shared(one)}.pt",
    )  # fmt: skip
    trainer.run()
    weights = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}

    def again() -> Any:
        made = build(config["model"], one.task.tokens, **options)
        made.load_state_dict(weights)
        return made

    return _adapted(again, lora), trainer.validated()


def _dense(one: Planned, model: Any, steps: int, lr: float, file: Path | None) -> Trainer:
    settings = one.settings.model_copy(update={"steps": steps, "every": None, "stop": None})
    return Trainer(model, Dense(), one.task, settings, lr, one.config["seed"], file=file, identity=_shared(one))


def _adapted(make: Callable[[], Any], rank: int | None) -> Callable[[], Any]:
    """Where a rank is given, the model with low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685) on its
    attention's projections, which alone are trained beside the method's own parts. Raises UsageError without peft."""
    if rank is None:
        return make
    try:
        from peft import LoraConfig, inject_adapter_in_model  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError("train.lora needs peft; install it with: pip install 'kvfrontier[peft]'") from error

    def adapted() -> Any:
        model = make().requires_grad_(False)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(_PROJECTIONS)), model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name)
        return model

    return adapted


def _shared(one: Planned) -> str:
    """Names what all methods of a sweep begin from."""
    cell = one.asked[0].cell
    task = {k: v for k, v in one.task.parameters().items() if k not in ("test", "examples", "lengths")}
    return content_hash([cell.model, cell.dtype, cell.device, cell.seed, task, one.settings.decisive])[:12]
