"""What a run is: plain typed dataclasses, each field read by somebody.

A config file's `get_config(arg)` returns a `Run`; flags override its fields
(`--config.optim.lr=3e-4`). `get_study(arg)` returns a `Study`.
"""

import dataclasses
from typing import Any

from transfer_gen.config import adapters as config_adapters
from transfer_gen.config import models
from transfer_gen.config import sources as config_sources
from transfer_gen.config import strategy as config_strategy


@dataclasses.dataclass
class Data:
  """Where text comes from and how it becomes rows of tokens.

  Attributes:
    name: `python_docs`, `docstring_summary`, another TFDS data set
      (`tfds:NAME`), or `files` for the paths below.
    train: Paths of the training data, comma-separated globs (`files` only):
      `.txt` (a document a line; see `paragraphs` and `whole_files`), `.jsonl`,
      `.csv`, `.tsv`. Two line-aligned files: `corpus.en|corpus.de`.
    validation: The same for validation; empty: split off from `train` by hash.
    test: The same for the test split.
    input_field: Column of the input of a pair; empty: a language model on
      `target_field` alone.
    target_field: Column of the text that is learned.
    whole_files: Plain text: one document a file, not one a line.
    paragraphs: Plain text: a document ends at blank lines, not at each line's end.
    normalize: Unicode normal form: NFC, NFKC, NFD, NFKD or none.
    newline: `fold`: \\r\\n and \\r become \\n, white space at ends of lines and blank
      lines around a document go; `keep`: all of it stays, and so does the line end
      (or the blank lines) that ends a document.
    min_chars: Shorter documents (pairs: shorter sides) are dropped and counted.
    max_chars: Longer ones too; 0: no limit.
    length: T, tokens a row. Language models are packed to it; longer pairs are
      dropped and counted.
    buckets: Pairs: row lengths up to `length` that they are padded to, e.g.
      (32, 64); `length` is always one.
    fraction: Share of the training documents, in (0, 1]; nested: those of 0.1
      are among those of 0.3.
    seed: Picks the fraction and the order.
  """
  name: str = "python_docs"
  train: str = ""
  validation: str = ""
  test: str = ""
  input_field: str = ""
  target_field: str = "text"
  whole_files: bool = False
  paragraphs: bool = False
  normalize: str = "NFC"
  newline: str = "fold"
  min_chars: int = 1
  max_chars: int = 0
  length: int = 128
  buckets: tuple[int, ...] = ()
  fraction: float = 1.0
  seed: int = 0


@dataclasses.dataclass
class Tokenizer:
  """How text becomes tokens.

  Attributes:
    kind: `bytes`; `characters` or `bpe`, trained on the training split; `file`:
      a `tokenizer.json`, a SentencePiece `.model` or a run's `tokenizer/`;
      `alphabet`: the characters of a text and nothing else, no special token.
    size: `bpe`: number of tokens, special ones included.
    path: `file`, `alphabet`: where it is.
  """
  kind: str = "bpe"
  size: int = 2048
  path: str = ""


@dataclasses.dataclass
class Optim:
  """How the learning leaves are updated.

  Attributes:
    name: `adamw`, `adafactor`, `sgd` or `lion`.
    lr: Peak learning rate; a group's `lr_mult` multiplies it.
    schedule: After the warm-up: `cosine`, `linear`, `inverse_sqrt`, `constant`.
    warmup_steps: Linear from 0.
    end_factor: `cosine` and `linear` end at `lr * end_factor`.
    weight_decay: Not on leaves of one dimension (norms and biases).
    b1: Decay of the first moment (SGD: momentum).
    b2: Decay of the second moment.
    clip_norm: Largest global norm of the gradient of what learns. 0: no limit.
    accumulate: Micro-batches a step; divides the batch size.
  """
  name: str = "adamw"
  lr: float = 1e-3
  schedule: str = "cosine"
  warmup_steps: int = 50
  end_factor: float = 0.1
  weight_decay: float = 0.01
  b1: float = 0.9
  b2: float = 0.98
  clip_norm: float = 1.0
  accumulate: int = 1


@dataclasses.dataclass
class Train:
  """How long, and what is written when.

  Attributes:
    steps: Updates.
    batch_size: B, rows a step over all devices.
    log_every: Steps between two lines of metrics.
    eval_every: Steps between two validations; the last step always validates.
    checkpoint_every: Steps between two checkpoints; the last is always kept.
    patience: Validations without a better loss after which the run stops. 0:
      never.
  """
  steps: int = 1000
  batch_size: int = 16
  log_every: int = 50
  eval_every: int = 200
  checkpoint_every: int = 200
  patience: int = 0


@dataclasses.dataclass
class Parallel:
  """Devices.

  Attributes:
    mode: `jit` over a mesh, or `pmap` (data parallel).
    data: Devices along the batch. 0: those that are left.
    fsdp: Devices that share each param (and divide the batch as well).
    tensor: Devices that share heads, hidden units and vocabulary.
  """
  mode: str = "jit"
  data: int = 0
  fsdp: int = 1
  tensor: int = 1


@dataclasses.dataclass
class Run:
  """One training run.

  Attributes:
    model: What is trained.
    data: What it reads.
    tokenizer: Text to tokens.
    optim: Updates.
    train: Length and rhythm.
    parallel: Devices.
    source: What a transfer reads; None: the run starts from scratch.
    sources: Further checkpoints, by the names that rules give them
      (`Rule.checkpoint`).
    adapters: Small params beside kernels, see `config_adapters`; leaves like any
      other, which the plan's rules and groups own, see `transfer.groups.low_rank`.
    strategy: What learns, by name; it writes groups, adapters and distillation.
    features: Whether, and how, the hidden states of what never learns are stored.
    distill: A teacher, and what is matched to it.
    transfer: A `TransferPlan`, or a function of the final Run that returns one.
      None: every leaf starts fresh and learns; under a strategy, see there.
    seed: Of initialisation, order of data and dropout.
  """
  model: models.Decoder | models.Recurrent = dataclasses.field(default_factory=models.Decoder)
  data: Data = dataclasses.field(default_factory=Data)
  tokenizer: Tokenizer = dataclasses.field(default_factory=Tokenizer)
  optim: Optim = dataclasses.field(default_factory=Optim)
  train: Train = dataclasses.field(default_factory=Train)
  parallel: Parallel = dataclasses.field(default_factory=Parallel)
  source: config_sources.Source | None = None
  sources: dict[str, config_sources.Source] = dataclasses.field(default_factory=dict)
  adapters: tuple[config_adapters.Adapter, ...] = ()
  strategy: config_strategy.Strategy = dataclasses.field(default_factory=config_strategy.Strategy)
  features: config_sources.Features | None = None
  distill: config_sources.Distill | None = None
  transfer: Any = None
  seed: int = 0

  def all_sources(self) -> dict[str, config_sources.Source]:
    """Every source by its name in the plan; "" is the one without a name."""
    return ({"": self.source} if self.source is not None else {}) | self.sources


@dataclasses.dataclass
class Study:
  """Runs that answer a question together.

  Attributes:
    question: One sentence, the report's title.
    runs: Runs by name, in any order; a run's source may name another.
    pairs: (treated, control): whose test losses are compared, document by
      document.
    seeds: Each run that a pair names is repeated with each; the others (sources)
      run once, with the first.
    lrs: Learning rates that each run of a pair tries; the best by validation
      loss stands for it. Empty: the run's own.
    samples: Prompts of the test split that each compared run continues.
    accounts: Whether the report tells what each run cost: what learned, the size of
      the optimiser's state, FLOPs.
    remembered: With accounts: the source's data, to tell what each run forgot of it.
  """
  question: str
  runs: dict[str, Run]
  pairs: tuple[tuple[str, str], ...]
  seeds: tuple[int, ...] = (0,)
  lrs: tuple[float, ...] = ()
  samples: int = 3
  accounts: bool = False
  remembered: Data | None = None
