"""Training runs: a `Run`, which other configs are parts of, and a `Study` of runs.

A config file's `get_config(arg)` returns a `Run`; flags override its fields
(`--config.optim.lr=3e-4`). `get_study(arg)` returns a `Study`.
"""

import dataclasses
from typing import Annotated, Any

from transfer_gen.config import declare, models
from transfer_gen.config.adapters import Adapter
from transfer_gen.config.data import Data, Decoding, Tokenizer
from transfer_gen.config.sources import Distill, Features, Source
from transfer_gen.config.training import (
    Metric,
    Objective,
    Optim,
    Parallel,
    Strategy,
    Train,
)

# Fields that a config may leave open, and the value that says so, by part and name.
# `run.choices` fills them in.
OPEN = {("tokenizer", "size"): 0, ("data", "length"): 0, ("train", "batch_size"): 0,
        ("train", "steps"): 0, ("train", "eval_every"): 0, ("train", "log_every"): 0,
        ("train", "checkpoint_every"): 0, ("optim", "warmup_steps"): -1,
        ("optim", "lr"): 0}
# What is chosen along with a field of these, and has no value of its own for "open".
_ALONG = {("data", "length"): "buckets", ("train", "batch_size"): "batch_tokens"}


@declare.strict
@dataclasses.dataclass
class Run:
  """One training run.

  Attributes:
    model: The model that is trained: a `Decoder`, an `EncoderDecoder` or a `Recurrent`;
      or `source`, which takes the model of the run's source. Default: `Decoder()`.
    model_changes: For `model="source"`: values of fields in which the model differs
      from its source's, by name. By default there are none.
    data: The texts that it reads. Default: `Data()`.
    tokenizer: How text becomes tokens. Default: `Tokenizer()`.
    encoder_tokenizer: For a model with an encoder: how inputs become tokens, with ids
      of their own; targets are those of `tokenizer`. If None, the default, both sides
      have the same tokenizer.
    objective: What is minimized: terms and their weights. Default: `Objective()`, the
      cross-entropy alone.
    optim: How the learning leaves are updated. Default: `Optim()`.
    train: How long the run trains, and how often it reports, validates and saves.
      Default: `Train()`.
    parallel: How work is divided over devices. Default: `Parallel()`.
    source: The checkpoint that the transfer reads. If None, the default, and without
      `sources`, the run starts from scratch.
    sources: Further checkpoints, by the names that rules give them (`Rule.checkpoint`).
      A flag `--config.sources.NAME.path=W` adds one. By default there are none.
    adapters: Small params beside kernels, see `config.adapters`; by default none. They
      are leaves like any other, owned by the plan's rules and groups; see
      `transfer.groups.low_rank`.
    strategy: What learns, by name; it writes groups, adapters and distillation.
      By default no strategy is named.
    features: Whether and how the output of layers, or of an encoder, that never learn
      is stored. If None, the default, they are computed in each step.
    distill: A teacher, and what the model learns from it. If None, the default, there
      is no teacher.
    transfer: A `TransferPlan`, or a function that takes the final Run and returns one.
      If None, the default, a run with a source copies each leaf from the leaf of its
      name, and rows of a vocabulary by matching tokens; a run without one initializes
      every leaf. All leaves learn, unless a strategy is named: then see `Strategy`.
    decoding: How the trained model writes texts, unless flags of `generate` and
      `evaluate` say otherwise. Default: `Decoding()`.
    remembered: Texts of the source. Each validation then also measures the loss on
      their test split, as `remembered` in metrics.jsonl, in bits per byte: what the run
      forgets while it learns. If None, the default, it is not measured.
    seed: Seed of the initialization, of the order of the data and of dropout; from 0 to
      2**32 - 1. Default: 0.
  """
  # Made anew for each run: parts are not frozen, since flags of the command line set
  # their fields, and two runs must not share one.
  # Any, because what is assembled always has a model here: `source` is replaced when
  # the inputs are read.
  model: Any = dataclasses.field(
      default_factory=models.Decoder,
      metadata={"type": models.Model | Annotated[str, declare.OneOf("source")]})
  model_changes: Annotated[dict[str, Any], declare.FieldsOf((
      models.Decoder, models.EncoderDecoder, models.Recurrent))] = dataclasses.field(
          default_factory=dict)
  data: Data = dataclasses.field(default_factory=Data)
  tokenizer: Tokenizer = dataclasses.field(default_factory=Tokenizer)
  encoder_tokenizer: Tokenizer | None = None
  objective: Objective = dataclasses.field(default_factory=Objective)
  optim: Optim = dataclasses.field(default_factory=Optim)
  train: Train = dataclasses.field(default_factory=Train)
  parallel: Parallel = dataclasses.field(default_factory=Parallel)
  # A field of its own beside `sources`, because flags can override fields of a
  # dataclass, `--config.source.path`, and none of a dict.
  source: Source | None = None
  sources: dict[str, Source] = dataclasses.field(default_factory=dict)
  adapters: tuple[Adapter, ...] = ()
  strategy: Strategy = dataclasses.field(default_factory=Strategy)
  features: Features | None = None
  distill: Distill | None = None
  # Any, because `transfer` imports this folder, which cannot import its plans in turn.
  transfer: Annotated[Any, declare.Holds(
      lambda plan: plan is None or callable(plan) or dataclasses.is_dataclass(plan),
      "that is a TransferPlan, or a function that returns one, or None")] = None
  decoding: Decoding = dataclasses.field(default_factory=Decoding)
  remembered: Data | None = None
  seed: declare.Seed = 0

  def all_sources(self) -> dict[str, Source]:
    """Every source by its name in the plan; "" is the one without a name."""
    return ({"": self.source} if self.source is not None else {}) | self.sources

  def open_fields(self) -> list[tuple[str, str]]:
    """Part and name of each field that is left open, out of `OPEN`."""
    return [(part, name) for (part, name), value in OPEN.items()
            if self.value(part, name) == value
            and not (name == "batch_size" and self.train.batch_tokens)]

  def value(self, part: str, name: str) -> Any:
    """Returns a field of a part, such as `train.steps`."""
    return getattr(getattr(self, part), name)

  def with_values(self, part: str, **values: Any) -> "Run":
    """Returns the run with some fields of a part replaced."""
    return dataclasses.replace(
        self, **{part: dataclasses.replace(getattr(self, part), **values)})

  def with_choices_of(self, other: "Run") -> "Run":
    """Returns the run with what another one has where this one is open."""
    run = self
    for part, name in self.open_fields():
      names = (name, _ALONG.get((part, name), name))
      run = run.with_values(part, **{name: other.value(part, name) for name in names})
    return run


@declare.strict
@dataclasses.dataclass
class Study:
  """Runs that answer a question together.

  Attributes:
    question: One sentence, the title of the report. Required.
    runs: Runs by name, in any order, at least one; a run's source may name another run.
      Required.
    pairs: (treated, control): names of runs whose test losses are compared, document by
      document; at least one pair. Required.
    seeds: Seeds with which each run of a pair is repeated, at least one. All other
      runs, which serve as sources, are trained once, with the first seed.
      Default: (0,).
    fractions: Shares of its training data, in (0, 1], with each of which each run of a
      pair is repeated, as NAME_3, NAME_10 and NAME_100 for (0.03, 0.1, 1.0); each pair
      becomes one of each share, the largest first. All other runs stay one. If empty,
      the default, runs train on what their `Data.fraction` says, and have their names.
    lrs: Learning rates that each run of a pair tries; the one with the best validation
      by `Train.metric` is compared. A run whose strategy is `auto` uses its own, of
      which it searches factors. If empty, the default, all runs use their own.
    budget: `equal`: the runs of a pair train for equally many steps. `converged`: a
      control whose validation loss still falls at the end of its own steps is trained
      with twice as many, and so on up to eight times as many, until it no longer does;
      each treated run is then compared with that one, too. Default: `equal`.
    equal: What the runs of a pair have equally much of: `steps`, of batches of the
      same size; or `tokens` or `flops` of training, for which a treated run gets more
      steps than its control or fewer. Default: `steps`.
    widen: How often such a grid is widened, by a rate three times beyond the edge at
      which the best one of some run lies. All runs that pairs connect try the new rate;
      a control with more steps, see `budget`, has a grid of its own. 0 means never, and
      a grid of a single rate has no edge. Default: 3.
    samples: Number of prompts of the test split that each compared run continues.
      Default: 3.
    accounts: Whether the report shows what each run cost: which leaves learned, the
      size of the optimizer state, and FLOPs. Default: False.
    metrics: Metrics of what compared runs write for the test split, as `Run.decoding`
      says, such as ("bleu", "chrf"); they stand beside the losses in the report, and
      the runs of a pair are compared by them. Default: ().
    remembered: With `accounts`: data of the source; the report then shows how much of
      it each run with a source forgot, and how, see `Run.remembered`. If None, the
      default, forgetting is not measured.
  """
  question: str
  runs: Annotated[dict[declare.Folder, Run], declare.FILLED]
  pairs: Annotated[tuple[tuple[str, str], ...], declare.FILLED]
  seeds: Annotated[tuple[declare.Seed, ...], declare.FILLED] = (0,)
  fractions: tuple[Annotated[float, declare.Between(0, 1, ends="(]")], ...] = ()
  lrs: tuple[declare.Positive, ...] = ()
  budget: Annotated[str, declare.OneOf("equal", "converged")] = "equal"
  equal: Annotated[str, declare.OneOf("steps", "tokens", "flops")] = "steps"
  widen: Annotated[int, declare.Between(0, 20)] = 3
  samples: declare.Count = 3
  accounts: bool = False
  metrics: tuple[Metric, ...] = ()
  remembered: Data | None = None
