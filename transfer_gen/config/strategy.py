"""How a transfer learns, by name."""

import dataclasses


@dataclasses.dataclass
class Strategy:
  """A known way to learn from a source; it writes groups and objective of a run.

  Names, axes and rules stay those of `Run.transfer`; without a plan each leaf comes
  from the leaf of its name, and rows of a vocabulary by their tokens. Where little
  learns, rows of new tokens learn beside it. A field that the name does not read is an
  error.

  Attributes:
    name: `fine_tune`: all learns. `feature_extraction`: what follows the last layer.
      `surgical`: the layers in `learn` (Lee et al., 2023). `discriminative`: each
      layer slower than the one above (Howard and Ruder, 2018, section 3.2).
      `gradual_unfreezing`: one more layer at a time, from the top (section 3.3).
      `l2_sp`: all, held to the source (Li et al., 2018). `lora`: factors of low rank
      (Hu et al., 2021). `distill`: all, with the source as a teacher (Hinton et al.,
      2015). `auto`: what a search finds best, see `train.auto`. Empty: the plan's
      own groups.
    lr_mult: Factor on the run's rate. 0: 10 for `lora`, whose best rate is about
      that much higher (Schulman et al., 2025); else 1.
    frozen: Lowest layers that never learn, of those that would; the embedding is one.
    learn: `surgical`: names of its groups, such as `head`, `layer_3`, `embed`.
    factor: `discriminative`: between the rates of neighbours.
    every: `gradual_unfreezing`: steps from one layer to the next. 0: such that all
      learn from the middle of the run on.
    alpha: `l2_sp`: strength on leaves that have a source.
    beta: `l2_sp`: strength on the others.
    rank: `lora`: of the factors.
    budget: `auto`: steps of the whole search, over all that is tried; those of what
      it chooses, over a third of them, are the run's own first ones. 0: `Train.steps`.
  """
  name: str = ""
  lr_mult: float = 0.0
  frozen: int = 0
  learn: tuple[str, ...] = ()
  factor: float = 2.6
  every: int = 0
  alpha: float = 1e-3
  beta: float = 1e-3
  rank: int = 16
  budget: int = 0
