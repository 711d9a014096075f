"""The settings by which a network is trained, pruned and quantized."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.setting_types import (
    CHECKED,
    Count,
    Epochs,
    LearningRate,
    Limit,
    Mode,
    Positive,
    RunParameter,
    Share,
    Sparsity,
    UnitShare,
    Weight,
)


@dataclass(frozen=True, config=CHECKED)
class TrainingConfig:
    """The training of the network.

    Attributes:
      epochs: Largest number of passes over the split `train`.
      batch_size: Rows per step.
      learning_rate: Adam's learning rate at the start, from which it falls along a cosine to 0;
        without `patience` to 0.3 of it.
      dropout: Share of inputs dropped in training, at the places that the model's network chooses.
      l2: Weight of the L2 penalty on the dense kernels.
      loss: Name of the Keras loss, of those that fit the task; "" for the task's:
        binary_crossentropy, sparse_categorical_crossentropy or mean_squared_error.
      class_weights: "balanced" for classes that are worth the same in sum, or a weight for each
        class in the order of `classes`; "" if all weigh the same. Predictions are then no longer
        calibrated.
      patience: Epochs without a lower loss on `eval` before training stops and the best epoch is
        kept; 0 trains all epochs and keeps the average of about their second half, which varies
        less from seed to seed.
      seed: Seed of all random choices.
      warm_start: Share of the served model's weights in the initial weights, 0 to 1. See
        docs/backtest.md.
      rows_in_memory: Largest number of rows of a split that Trainer, Pruner and Quantizer hold in
        memory. Of more rows the columns are in temporary files, and each epoch shuffles them in
        parts; 0 for any number.
    """

    epochs: RunParameter[Epochs] = 5
    batch_size: RunParameter[Positive] = 1024
    learning_rate: RunParameter[LearningRate] = 1e-3
    dropout: RunParameter[Annotated[float, Field(ge=0, lt=1)]] = 0.0
    l2: RunParameter[Limit] = 0.0
    loss: str = ""
    class_weights: Literal["", "balanced"] | tuple[Weight, ...] = ""
    patience: RunParameter[Annotated[int, Field(ge=0)]] = 2
    seed: RunParameter[Annotated[int, Field(ge=0, lt=2**32)]] = 7
    warm_start: Share = 0.0
    rows_in_memory: Count = 1_000_000


@dataclass(frozen=True, config=CHECKED)
class PruningConfig:
    """The pruning of the network; see [compression.md](compression.md).

    Attributes:
      target_sparsity: Share of the weights of the dense layers that become zero or go with their
        unit, 0 for none; or "auto" for the highest that costs at most half of
        `compression.max_loss` on `eval`.
      schedule: "polynomial", from none to the target, or "constant".
      frequency: Largest number of steps between two choices of the weights that are zero.
      block_size: Inputs and outputs of a dense layer whose weights become zero together.
      m_by_n: [2, 4] makes 2 of every 4 consecutive weights zero, instead of `target_sparsity`.
      layers: Names or types of layers; none means all dense layers except the output.
      epochs: Passes over `train` in fine-tuning.
      learning_rate: Adam's learning rate at the start, from which it falls to 0.
      distillation: Share of the float model's predictions in what the pruned network learns; the
        rest are labels.
      keep_units: Share of the units of hidden dense layers that are kept; those that matter least
        are removed before weights are pruned, which makes the network smaller and faster.
        `target_sparsity` is then that of the weights that are left. "auto" removes units for half
        of what `target_sparsity` keeps to be zeros.
    """

    target_sparsity: RunParameter[Sparsity] = "auto"
    schedule: Literal["polynomial", "constant"] = "polynomial"
    frequency: Positive = 20
    block_size: tuple[Positive, Positive] = (1, 1)
    m_by_n: tuple[Positive, Positive] | tuple[()] = ()
    layers: tuple[str, ...] = ()
    epochs: RunParameter[Epochs] = 4
    learning_rate: RunParameter[LearningRate] = 3e-3
    distillation: Share = 1.0
    keep_units: RunParameter[UnitShare] = "auto"


@dataclass(frozen=True, config=CHECKED)
class QuantizationConfig:
    """The quantization of the TFLite model; see [compression.md](compression.md).

    Attributes:
      mode: One of the modes, or "auto" for the first of `auto_modes` that loses at most
        `compression.max_loss` on `eval`; float if there is none.
      auto_modes: Modes that "auto" tries, in this order.
      weight_bits: Bits of the 8 that a weight uses; with fewer the file compresses better.
      representative_rows: Training examples in the representative dataset.
      epochs: Passes over `train` in the modes "qat" and "pqat".
      learning_rate: Adam's learning rate at the start, from which it falls to 0.
      distillation: Share of the float model's predictions in what "qat" and "pqat" learn; the rest
        are labels.
    """

    mode: RunParameter[Literal[Mode, "auto"]] = "auto"
    auto_modes: tuple[Mode, ...] = ("int8", "pqat", "dynamic_range", "float16")
    weight_bits: RunParameter[Annotated[int, Field(ge=5, le=8)]] = 8
    representative_rows: Positive = 2000
    epochs: Epochs = 1
    learning_rate: LearningRate = 1e-4
    distillation: Share = 1.0
