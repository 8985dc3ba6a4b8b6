"""Training runs: a `Run`, which other configs are parts of, and a `Study` of runs.

A config file's `get_config(arg)` returns a `Run`; flags override its fields
(`--config.optim.lr=3e-4`). `get_study(arg)` returns a `Study`.
"""

import dataclasses
from typing import Any

from transfer_gen.config import models
from transfer_gen.config.adapters import Adapter
from transfer_gen.config.data import Data, Tokenizer
from transfer_gen.config.sources import Distill, Features, Source
from transfer_gen.config.training import Optim, Parallel, Strategy, Train


@dataclasses.dataclass
class Run:
  """One training run.

  Attributes:
    model: The model that is trained.
    data: The texts that it reads.
    tokenizer: How text becomes tokens.
    optim: How the learning leaves are updated.
    train: How long the run trains, and how often it reports, validates and saves.
    parallel: How work is divided over devices.
    source: The checkpoint that the transfer reads. If None, and without `sources`, the
      run starts from scratch.
    sources: Further checkpoints, by the names that rules give them
      (`Rule.checkpoint`).
    adapters: Small params beside kernels, see `config.adapters`. They are leaves like
      any other, owned by the plan's rules and groups; see `transfer.groups.low_rank`.
    strategy: What learns, by name; it writes groups, adapters and distillation.
    features: Whether and how the hidden states of layers that never learn are stored.
      If None, they are computed in each step.
    distill: A teacher, and what the model learns from it. If None, there is no teacher.
    transfer: A `TransferPlan`, or a function that takes the final Run and returns one.
      If None, every leaf is initialized and learns, unless a strategy is named: then
      see `Strategy`.
    seed: Seed of the initialization, of the order of the data and of dropout.
  """
  model: models.Model = dataclasses.field(default_factory=models.Decoder)
  data: Data = dataclasses.field(default_factory=Data)
  tokenizer: Tokenizer = dataclasses.field(default_factory=Tokenizer)
  optim: Optim = dataclasses.field(default_factory=Optim)
  train: Train = dataclasses.field(default_factory=Train)
  parallel: Parallel = dataclasses.field(default_factory=Parallel)
  source: Source | None = None
  sources: dict[str, Source] = dataclasses.field(default_factory=dict)
  adapters: tuple[Adapter, ...] = ()
  strategy: Strategy = dataclasses.field(default_factory=Strategy)
  features: Features | None = None
  distill: Distill | None = None
  transfer: Any = None
  seed: int = 0

  def all_sources(self) -> dict[str, Source]:
    """Every source by its name in the plan; "" is the one without a name."""
    return ({"": self.source} if self.source is not None else {}) | self.sources


@dataclasses.dataclass
class Study:
  """Runs that answer a question together.

  Attributes:
    question: One sentence, the title of the report.
    runs: Runs by name, in any order; a run's source may name another run.
    pairs: (treated, control): names of runs whose test losses are compared, document by
      document.
    seeds: Seeds with which each run of a pair is repeated. All other runs, which serve
      as sources, are trained once, with the first seed.
    lrs: Learning rates that each run of a pair tries; the one with the best validation
      loss is compared. If empty, each run uses its own.
    samples: Number of prompts of the test split that each compared run continues.
    accounts: Whether the report shows what each run cost: which leaves learned, the
      size of the optimizer state, and FLOPs.
    remembered: With `accounts`: data of the source; the report then shows how much of
      it each run forgot. If None, forgetting is not measured.
  """
  question: str
  runs: dict[str, Run]
  pairs: tuple[tuple[str, str], ...]
  seeds: tuple[int, ...] = (0,)
  lrs: tuple[float, ...] = ()
  samples: int = 3
  accounts: bool = False
  remembered: Data | None = None
