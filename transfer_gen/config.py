"""What a run is: plain typed dataclasses, each field read by somebody.

A config file's `get_config(arg)` returns a `Run`; flags override its fields
(`--config.optim.lr=3e-4`). `get_study(arg)` returns a `Study`.
"""

import dataclasses
from typing import Any

from transfer_gen import config_adapters
from transfer_gen import config_sources
from transfer_gen import config_strategy

# What an adapter is, one name each for people to type.
LoRA, IA3 = config_adapters.LoRA, config_adapters.IA3
Bottleneck, Prefix = config_adapters.Bottleneck, config_adapters.Prefix
Strategy = config_strategy.Strategy
Source = config_sources.Source
Features, Distill = config_sources.Features, config_sources.Distill


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


@dataclasses.dataclass(unsafe_hash=True)  # A static argument of jit.
class Decoder:
  """A decoder-only Transformer.

  Attributes:
    vocab_size: V. 0: the tokenizer's.
    num_layers: Number of blocks.
    width: D, of the residual stream.
    num_heads: H, query heads.
    num_kv_heads: Key and value heads, a divisor of H. 0: H.
    head_dim: K. 0: D / H.
    mlp_width: F. 0: 4 D.
    position: `learned`, `sinusoidal`, `rotary` or `relative`.
    max_length: With learned positions, no longer text can be read.
    position_offset: Row of the learned position table where texts begin; it has
      as many more.
    windows: Tokens that each layer sees, itself included, from the first layer on
      and then again. 0: all; (): all layers all.
    block: `serial`; `parallel`: attention and MLP read the same, each through its
      norm; `parallel_one_norm`: both through one.
    norm: `layer` or `rms`.
    norm_order: `pre`, `post`, or `both`: before each branch and after it.
    norm_epsilon: Added to the variance.
    norm_offset: Added to the norms' scales at run time.
    final_norm: Whether one stands before the output, with `pre` and `both`.
    query_norm: Whether queries and keys have norms, each head by itself.
    activation: `gelu` (by tanh), `gelu_exact`, `relu`, `silu`; with a gate beside:
      `swiglu` (silu), `geglu`, `geglu_exact`.
    tied: Whether the output reads the embedding table.
    bias: Whether kernels and LayerNorms have biases.
    unbiased: Those that have none for all that: of `query`, `key`, `value`, `out`,
      `up`, `gate`, `down` and `norm`.
    init: Of kernels, see `models.layers.initializer`.
    dropout: Rate on the embedding and each residual branch, in [0, 1).
    attention_scale: Factor on the scores. 0: K ** -0.5.
    attention_softcap: Scores are cap tanh(scores / cap). 0: as they are.
    embed_scale: Factor on the embedding.
    logit_scale: Factor on the logits.
    logit_softcap: As of the scores, on the logits.
    rotary_base: Wavelengths are 2 pi base ** (2 i / R).
    rotary_base_window: The same of layers with a window, which have no scaling then.
      0: as the others.
    rotary_dim: R, features of a head that turn, the first ones. 0: K.
    rotary_scaling: For longer texts than were trained on: `none`, `linear`, `llama3`
      or `yarn`, see `models.positions`.
    rotary_factor: How much slower features turn, that do.
    rotary_ramp: `llama3`, `yarn`: from features that turn so often in a text of
      `rotary_length`, all slower, to those that turn so often, none.
    rotary_length: `llama3`, `yarn`: longest text that was trained on first.
    rotary_magnitude: Factor on the features that turn.
    sinusoid_width: Features of one sinusoid table, which repeats up to D. 0: D.
    sinusoid_halves: Whether all its sines come first, not in turns with the cosines.
    relative_buckets: Relative positions: rows of their table, see `models.positions`.
    relative_distance: From so many tokens on, all are in the last bucket.
    embed_norm: Whether a norm stands behind the embedding.
    logit_bias: Whether the output has a bias.
    dtype: Of the computation; params are float32.
  """
  vocab_size: int = 0
  num_layers: int = 4
  width: int = 256
  num_heads: int = 4
  num_kv_heads: int = 0
  head_dim: int = 0
  mlp_width: int = 0
  position: str = "learned"
  max_length: int = 256
  position_offset: int = 0
  windows: tuple[int, ...] = ()
  block: str = "serial"
  norm: str = "layer"
  norm_order: str = "pre"
  norm_epsilon: float = 1e-5
  norm_offset: float = 0.0
  final_norm: bool = True
  query_norm: bool = False
  activation: str = "gelu"
  tied: bool = True
  bias: bool = True
  unbiased: tuple[str, ...] = ()
  init: str = "truncated_normal"
  dropout: float = 0.0
  attention_scale: float = 0.0
  attention_softcap: float = 0.0
  embed_scale: float = 1.0
  logit_scale: float = 1.0
  logit_softcap: float = 0.0
  rotary_base: float = 10000.0
  rotary_base_window: float = 0.0
  rotary_dim: int = 0
  rotary_scaling: str = "none"
  rotary_factor: float = 1.0
  rotary_ramp: tuple[float, float] = (1.0, 4.0)
  rotary_length: int = 0
  rotary_magnitude: float = 1.0
  sinusoid_width: int = 0
  sinusoid_halves: bool = False
  relative_buckets: int = 32
  relative_distance: int = 128
  embed_norm: bool = False
  logit_bias: bool = False
  dtype: str = "float32"


@dataclasses.dataclass(unsafe_hash=True)  # A static argument of jit.
class EncoderDecoder(Decoder):
  """A Transformer that reads a source text first, with layers of their own.

  The fields of a `Decoder` hold for both sides; `num_layers` are the decoder's.

  Attributes:
    encoder_layers: Number of the encoder's blocks. 0: `num_layers`.
    source_vocab_size: Tokens of the source, with a table of their own. 0: V, and
      both sides read one table.
    start_token: What the text behind a source begins with. -1: the tokenizer's bos.
    source_marks: What stands around a source: `none`, `eos` behind it, or `both`, bos
      before it as well.
  """
  encoder_layers: int = 0
  source_vocab_size: int = 0
  start_token: int = -1
  source_marks: str = "eos"


@dataclasses.dataclass(unsafe_hash=True)  # A static argument of jit.
class Recurrent:
  """A recurrent model: embedding, cells, an optional dense layer, output.

  A language model, or with `encoder` one that reads a source text first: the states
  after it are those that the text begins with.

  Attributes:
    vocab_size: V. 0: the tokenizer's.
    cell: `rnn`, `gru` or `lstm`.
    num_layers: Number of recurrent layers.
    embed_width: D, of the embedding. 0: none; the first layer reads one-hot tokens.
    hidden_width: U, of each cell's state.
    hidden_widths: Of each layer, where they differ. (): `hidden_width`.
    dense_width: F, of a dense layer before the output. 0: none.
    dense_activation: `relu`, `tanh`, `sigmoid`, `gelu` or `linear`, after that layer.
    bias: Whether cells, dense layer and output have biases.
    recurrent_bias: Whether the product with the state has a bias of its own as well,
      as in cuDNN; that of a GRU with `reset_after` always has.
    forget_bias: LSTM: added to the forget gate at run time.
    gate: `sigmoid`; `hard_sigmoid`: clip(0.2 x + 0.5, 0, 1), of Keras up to 2;
      `hard_sigmoid_3`: clip(x / 6 + 0.5, 0, 1), of Keras 3.
    reset_after: GRU: whether the reset gate acts after the product with the state.
    bidirectional: Whether cells read both ways: those of the encoder, with U / 2
      units each way, or, in a language model with a `window`, all.
    attention: Whether the output reads a weighted average over time of the embedding
      and of all layers, not the last state.
    window: Each prediction reads so many tokens alone, from an empty state; shorter
      texts are filled on the left with `pad_token`. 0: all that came before.
    pad_token: What fills windows and sources.
    encoder: Whether a source is read first, by as many layers.
    source_vocab_size: Tokens of the source. 0: V.
    source_length: Shorter sources are filled on the right to it. 0: not at all.
    start_token: What the text behind a source begins with. -1: the tokenizer's bos.
    source_marks: What stands around a source: `none`, `eos` behind it, or `both`, bos
      before it as well.
    init: Of kernels, see `models.layers.initializer`.
    dropout: Rate on the input of each layer, in [0, 1).
    dtype: Of the computation; params are float32.
  """
  vocab_size: int = 0
  cell: str = "lstm"
  num_layers: int = 2
  embed_width: int = 256
  hidden_width: int = 256
  hidden_widths: tuple[int, ...] = ()
  dense_width: int = 0
  dense_activation: str = "relu"
  bias: bool = True
  recurrent_bias: bool = False
  forget_bias: float = 1.0
  gate: str = "sigmoid"
  reset_after: bool = True
  bidirectional: bool = False
  attention: bool = False
  window: int = 0
  pad_token: int = 0
  encoder: bool = False
  source_vocab_size: int = 0
  source_length: int = 0
  start_token: int = -1
  source_marks: str = "eos"
  init: str = "xavier_uniform"
  dropout: float = 0.0
  dtype: str = "float32"


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
      None: every leaf starts fresh and learns.
    seed: Of initialisation, order of data and dropout.
  """
  model: Decoder | Recurrent = dataclasses.field(default_factory=Decoder)
  data: Data = dataclasses.field(default_factory=Data)
  tokenizer: Tokenizer = dataclasses.field(default_factory=Tokenizer)
  optim: Optim = dataclasses.field(default_factory=Optim)
  train: Train = dataclasses.field(default_factory=Train)
  parallel: Parallel = dataclasses.field(default_factory=Parallel)
  source: Source | None = None
  sources: dict[str, Source] = dataclasses.field(default_factory=dict)
  adapters: tuple[config_adapters.Adapter, ...] = ()
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
