"""The settings with which a Keras model was compiled, as arguments of ``training_step``."""

from __future__ import annotations

from typing import Any

import keras

from gensyn_tvm.errors import import_error
from gensyn_tvm.training.clipping import ClipNorm, ClipValue
from gensyn_tvm.training.losses import L1, BinaryCrossEntropyWithLogits, CrossEntropy, Huber, MeanSquaredError
from gensyn_tvm.training.losses.base import Loss
from gensyn_tvm.training.optimizers import SGD, Adam, AdamW, Lion
from gensyn_tvm.training.optimizers.base import Optimizer

#: Settings of Keras' optimizers that have no counterpart, with the values at which they do nothing.
_WITHOUT = {"use_ema": False, "loss_scale_factor": None, "gradient_accumulation_steps": None, "clipnorm": None}
_WORDS = {"mse": "MeanSquaredError", "mae": "MeanAbsoluteError", "huber": "Huber"}
_WORDS |= {"mean_squared_error": "MeanSquaredError", "mean_absolute_error": "MeanAbsoluteError"}


def compiled_settings(model: Any) -> dict[str, Any]:
    """``loss``, ``optimizer`` and ``clip`` for ``training_step``, with the settings of ``model.compile()``.

    Keras' Adam adds its epsilon before the correction of the second moment, ours after it: the settings are equal, the first
    steps differ where gradients are about as small as epsilon. The model has to return logits.

    Raises:
        ImportModelError: the model is not compiled, or has a loss, an optimizer or a setting that has no equal here; all of
            them are named.
    """
    if getattr(model, "optimizer", None) is None or getattr(model, "loss", None) is None:
        raise import_error(
            "the Keras model is not compiled",
            where=model.name,
            found="no loss, or no optimizer",
            expected="both of them",
            remedy="call model.compile(optimizer=…, loss=…), or give them to training_step",
        )
    refused: list[str] = []
    loss, optimizer = _loss(model.loss, refused), _optimizer(model.optimizer, refused)
    clip: Any = None
    if model.optimizer.global_clipnorm is not None:
        clip = ClipNorm(float(model.optimizer.global_clipnorm))
    elif model.optimizer.clipvalue is not None:
        clip = ClipValue(float(model.optimizer.clipvalue))
    if refused:
        raise import_error(
            "the model was compiled with what has no equal here",
            where=model.name,
            found="; ".join(refused),
            expected="losses of docs/losses.md and optimizers of docs/optimizers.md",
            remedy="give training_step one of those",
        )
    return {"loss": loss, "optimizer": optimizer, "clip": clip}


def _loss(loss: Any, refused: list[str]) -> Loss | None:
    if isinstance(loss, str):
        kind = _WORDS.get(loss)
        if kind is None:
            refused.append(f"loss {loss!r} (an object with from_logits=True is needed for classes)")
            return None
        loss = getattr(keras.losses, kind)()
    if not isinstance(loss, keras.losses.Loss):
        refused.append(f"loss {getattr(loss, '__name__', type(loss).__name__)}")
        return None
    name, config = type(loss).__name__, {**loss.get_config(), **getattr(loss, "_fn_kwargs", {})}
    wrong = [] if config["reduction"] == "sum_over_batch_size" else [f"reduction={config['reduction']!r}"]
    if "from_logits" in config and not config["from_logits"]:
        wrong.append("from_logits=False")
    if config.get("axis", -1) != -1:
        wrong.append(f"axis={config['axis']}")
    if config.get("ignore_class") is not None:
        wrong.append(f"ignore_class={config['ignore_class']}")
    smoothing = float(config.get("label_smoothing") or 0.0)
    found: Loss | None = {
        "SparseCategoricalCrossentropy": lambda: CrossEntropy(),
        "CategoricalCrossentropy": lambda: CrossEntropy(label_smoothing=smoothing),
        "BinaryCrossentropy": lambda: BinaryCrossEntropyWithLogits(),
        "MeanSquaredError": lambda: MeanSquaredError(),
        "MeanAbsoluteError": lambda: L1(),
        "Huber": lambda: Huber(float(config["delta"])),
    }.get(name, lambda: None)()
    if name == "BinaryCrossentropy" and smoothing:
        wrong.append(f"label_smoothing={smoothing}")
    if found is None or wrong:
        refused.append(f"loss {name}({', '.join(wrong)})")
    return found


def _optimizer(optimizer: Any, refused: list[str]) -> Optimizer | None:
    name, config = type(optimizer).__name__, optimizer.get_config()
    wrong = [f"{key}={config[key]!r}" for key, nothing in _WITHOUT.items() if config.get(key, nothing) != nothing]
    rate = config["learning_rate"]
    if not isinstance(rate, int | float):
        wrong.append("a learning-rate schedule (gensyn_tvm.training.learning_rates has those)")
        rate = 0.0
    decay = float(config.get("weight_decay") or 0.0)
    if decay and name not in ("AdamW", "Lion"):
        wrong.append(f"weight_decay={decay}")
    betas = (float(config.get("beta_1", 0)), float(config.get("beta_2", 0)))
    moments: dict[str, Any] = {"betas": betas, "eps": float(config.get("epsilon", 0)), "amsgrad": bool(config.get("amsgrad"))}
    found: Optimizer | None = {
        "SGD": lambda: SGD(lr=rate, momentum=float(config["momentum"]), nesterov=bool(config["nesterov"])),
        "Adam": lambda: Adam(lr=rate, **moments),
        "AdamW": lambda: AdamW(lr=rate, weight_decay=decay, **moments),
        "Lion": lambda: Lion(lr=rate, betas=betas, weight_decay=decay),
    }.get(name, lambda: None)()
    if found is None or wrong:
        refused.append(f"optimizer {name}({', '.join(wrong)})")
    return found
