"""How a model is trained: optimizer, length, devices, and what learns."""

import dataclasses
from typing import Annotated

from transfer_gen.config import declare, metric_names, objective

# Named here, so that a run finds all that is about training in one module.
Objective, Term = objective.Objective, objective.Term
Schedule = Annotated[
    str, declare.OneOf("cosine", "linear", "slanted", "inverse_sqrt", "constant")]
Metric = metric_names.Named
_Devices = Annotated[int, declare.Between(1, 2**20)]
_MeshAxis = Annotated[str, declare.OneOf("data", "fsdp", "tensor", "none")]


@declare.strict
@dataclasses.dataclass
class Optim:
  """How the learning leaves are updated.

  Attributes:
    name: Kind of the optimizer: `adamw`, `adafactor`, `sgd` or `lion`.
      Default: `adamw`.
    lr: Peak learning rate, at least 0. Each group multiplies it by its `lr_mult`. 0
      means that it is chosen, for `adamw`, from the width of the model and from whether
      anything is transferred, see `run.choices`. Default: 0.001.
    schedule: Decay after the warm-up: `cosine`, `linear`, `slanted`, `inverse_sqrt` or
      `constant`. Each group's schedule spans from its first update to the end of the
      run. `slanted` is linear on both sides of its peak, and begins as low as it ends
      (Howard and Ruder, 2018, section 3.2, with a warm-up of a tenth of the steps and
      `end_factor=1/32`); of a group that starts late, the warm-up is as short as the
      rest of the run. Default: `cosine`.
    warmup_steps: Number of steps in which the learning rate rises linearly to its peak,
      at least 0. The first update already uses lr / (warmup_steps + 1). 0 means no
      warm-up, and -1 a twentieth of `Train.steps`, at most 1000; a tenth for `slanted`,
      whose first update uses `lr * end_factor`. Default: 50.
    end_factor: Share of the peak at which the schedules `cosine`, `linear` and
      `slanted` end, at least 0: they end at `lr * end_factor`. Default: 0.1.
    weight_decay: Strength of the weight decay, at least 0. With `adamw` and `lion` each
      step takes this share, times the learning rate, off a value; with `sgd` it enters
      the gradient, before the momentum; with `adafactor` the learning rate does not
      scale it. It acts on all leaves but those that `Group.no_decay` matches: unless
      the group says otherwise, biases and scales of norms. Default: 0.01.
    b1: For `adamw` and `lion`: decay of the first moment per step; for `sgd`: momentum.
      In [0, 1). Default: 0.9.
    b2: For `adamw` and `lion`: decay of the second moment per step (of the momentum in
      `lion`). In [0, 1). Default: 0.98.
    clip_norm: Largest global norm of the gradient of all leaves that learn; larger
      gradients are scaled down to it. At least 0; 0 means no limit. Default: 1.0.
    accumulate: Number of micro-batches that each batch is divided into, of which one at
      a time is in memory; at least 1 and a divisor of `Train.batch_size`. The update is
      that of the whole batch. Default: 1.
  """
  name: Annotated[str, declare.OneOf("adamw", "adafactor", "sgd", "lion")] = "adamw"
  lr: Annotated[float, declare.Between(0, declare.LARGE, "0 to have it chosen")] = 1e-3
  schedule: Schedule = "cosine"
  warmup_steps: Annotated[int, declare.Between(
      -1, declare.MOST, "-1 to have it chosen")] = 50
  end_factor: declare.Weight = 0.1
  weight_decay: declare.Weight = 0.01
  b1: declare.Decay = 0.9
  # As in Vaswani et al. (2017, section 5.3), below the 0.999 of Kingma and Ba (2015).
  b2: declare.Decay = 0.98
  clip_norm: declare.Weight = 1.0
  accumulate: declare.Number = 1


@declare.strict
@dataclasses.dataclass
class Train:
  """How long a run trains, and how often it reports, validates and saves.

  Attributes:
    steps: Number of updates; 0 means chosen from data and devices, see `run.choices`.
      Default: 1000.
    batch_size: B, the number of rows per update, over all devices; 0 means as many as
      `batch_tokens` allows. Default: 16.
    batch_tokens: With `batch_size=0`: number of tokens per update, padding included.
      Rows of each length come in batches of as many as that, a multiple of 8. 0, the
      default, means chosen from the devices.
    log_every: Steps between two lines of metrics; 0 means a fiftieth of `steps`.
      Default: 50.
    eval_every: Steps between two validations; 0 means a twentieth of `steps`. The last
      step always validates. Default: 200.
    checkpoint_every: Steps between two checkpoints; 0 means a twentieth of `steps`. The
      last step always saves one. One that is due at a validation is saved before it, so
      that nothing is lost there. Default: 200.
    keep: Number of the newest checkpoints that stay, at least 1. Default: 2.
    keep_every: Checkpoints whose step is a multiple of this stay as well; 0, the
      default, keeps none of them for that.
    keep_best: Number of best params that stay, at least 1: those of the best
      validation, and those that were the best before it. Default: 1.
    patience: Number of validations in a row without a better one after which the run
      stops, at least 0; 0, the default, means that it never stops early.
    metric: What validations are compared by, for the best checkpoint and for
      `patience`: `loss`, the default, or a metric of the texts that the model writes
      for the documents of validation, such as `bleu`, `chrf`, `rougeL` or
      `exact_match`; the evaluation page of the documentation lists them. The texts are
      written as `Run.decoding` says.
    metric_documents: Number of documents of validation, the first ones, that such a
      metric looks at, at least 0; 0 means all. Default: 200.
    ema: Decay per step of a moving average of the params, in [0, 1), such as 0.999; see
      `train.ema`. 0, the default, means that none is kept.
    ema_validates: With `ema`: whether validations measure the average, so that the best
      params, which `evaluate`, `generate` and `convert` read, are averages. If False,
      they measure the params themselves. Default: True.
  """
  steps: declare.Chosen = 1000
  batch_size: Annotated[int, declare.Between(0, 2**20, "0 to have it chosen")] = 16
  batch_tokens: declare.Chosen = 0
  log_every: declare.Chosen = 50
  eval_every: declare.Chosen = 200
  checkpoint_every: declare.Chosen = 200
  keep: declare.Number = 2
  keep_every: declare.Count = 0
  keep_best: declare.Number = 1
  patience: declare.Count = 0
  metric: metric_names.Judge = metric_names.LOSS
  metric_documents: declare.Count = 200
  ema: declare.Decay = 0.0
  ema_validates: bool = True

  def rows(self, length: int) -> int:
    """Returns B for rows of a length in tokens."""
    # A multiple of 8, so that the usual numbers of devices and parts divide it.
    return self.batch_size or max(8, self.batch_tokens // length // 8 * 8)


@declare.strict
@dataclasses.dataclass
class Parallel:
  """How work is divided over devices.

  Attributes:
    mode: `jit` divides work over a mesh of devices; `pmap` divides the batch alone.
      Default: `jit`.
    data: Number of devices along the batch, at least 0; 0, the default, means all that
      the other two fields leave.
    fsdp: Number of devices that each hold a part of every param, at least 1; they
      divide the batch as well. Default: 1.
    tensor: Number of devices that divide heads, hidden units and vocabulary, at least
      1. Default: 1.
    rules: Pairs of a logical axis and a mesh axis, `data`, `fsdp` or `tensor`, such as
      `(("kv", "tensor"),)`, which come before the defaults. A dimension takes the
      first mesh axis that is given to its axis, divides it, and has not divided another
      dimension of the leaf; after `none` it stays whole. By default, `tensor` divides
      `vocab`, `heads`, `kv_heads`, `mlp`, `hidden` and `memory`, and `fsdp` divides
      `embed`, or else the largest dimension that it can. Default: ().
    devices: Number of devices that the run is for, at least 0; 0, the default, means
      those that there are. `plan` plans for any number, and `train` refuses any other
      than there are.
    memory_gb: Memory of a device in GB (10**9 bytes), at least 0; a run that needs more
      is refused. 0, the default, means what the device says that it has; CPUs say
      nothing, and have no limit.
  """
  mode: Annotated[str, declare.OneOf("jit", "pmap")] = "jit"
  # 0 takes what is left, so that one config runs on any number of devices.
  data: Annotated[int, declare.Between(0, 2**20)] = 0
  fsdp: _Devices = 1
  tensor: _Devices = 1
  rules: tuple[tuple[declare.Filled, _MeshAxis], ...] = ()
  devices: Annotated[int, declare.Between(0, 2**20)] = 0
  memory_gb: declare.Weight = 0.0


@declare.strict
@dataclasses.dataclass
class Strategy:
  """A published way to learn from a source; it writes a run's groups and objective.

  Rules and axes stay those of `Run.transfer`. Without a plan each leaf is copied from
  the leaf of the same name, and rows of a vocabulary by matching tokens. Strategies
  that freeze most leaves let the rows of new tokens learn as well. Setting a field that
  the named strategy does not read is an error.

  Attributes:
    name: `fine_tune`: all leaves learn. `feature_extraction`: only what follows the
      last layer learns. `surgical`: only the groups in `learn` (Lee et al., 2023).
      `discriminative`: each layer learns more slowly than the one above it (Howard and
      Ruder, 2018, section 3.2). `gradual_unfreezing`: layers start to learn one after
      another, from the top (section 3.3). `ulmfit`: both at once. `l2_sp`: all leaves
      learn, under a penalty on their distance from the source (Li et al., 2018).
      `lora`: low-rank factors learn (Hu et al., 2021). `distill`: all leaves learn,
      with the source as teacher (Hinton et al., 2015). `auto`: what a search finds
      best, see `study.auto`. If empty, the plan's own groups hold. Default: empty.
    lr_mult: Factor on the run's learning rate, at least 0; 0, the default, means 10 for
      `lora`, whose best rate is about that much higher (Schulman et al., 2025), and 1
      for all others.
    frozen: Number of lowest layers that never learn although the strategy would let
      them, at least 0; the embedding counts as one. Default: 0.
    learn: For `surgical`: names of the groups that learn, such as `head`, `layer_3` or
      `embed`. Default: ().
    factor: For `discriminative` and `ulmfit`: ratio of the learning rates of
      neighboring layers, above 0. Default: 2.6, as in the paper.
    every: For `gradual_unfreezing` and `ulmfit`: steps from one layer's start to the
      next, at least 0; 0, the default, means that all layers learn from the middle of
      the run on, and for `ulmfit` at the latest: there it is a tenth of the steps,
      which is one pass over the data where `Train.steps` is chosen for a source.
    alpha: For `l2_sp`: strength of the penalty on leaves that have a source, at least
      0. Default: 0.001.
    beta: For `l2_sp`: strength of the penalty on all other leaves, at least 0.
      Default: 0.001.
    rank: For `lora`: rank of the factors, at least 1. Default: 16.
    budget: For `auto`: number of steps of the whole search, over all candidates, at
      least 0; 0, the default, means `Train.steps`. The steps of the chosen candidate,
      over a third of them, are at the same time the first steps of the run.
  """
  name: Annotated[str, declare.OneOf(
      "", "fine_tune", "feature_extraction", "surgical", "discriminative",
      "gradual_unfreezing", "ulmfit", "l2_sp", "lora", "distill", "auto")] = ""
  lr_mult: declare.Weight = 0.0
  frozen: declare.Count = 0
  learn: tuple[declare.Filled, ...] = ()
  factor: declare.Positive = 2.6
  every: declare.Count = 0
  alpha: declare.Weight = 1e-3
  beta: declare.Weight = 1e-3
  rank: declare.Rank = 16
  # Steps and not candidates, so that the cost of a search is known before it starts.
  budget: declare.Count = 0
