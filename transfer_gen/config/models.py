"""What a model is: Transformers and recurrent models."""

import dataclasses


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
    encoder_vocab_size: Tokens of the source, with a table of their own. 0: V, and
      both sides read one table.
    start_token: What the text behind a source begins with. -1: the tokenizer's bos.
    encoder_marks: What stands around a source: `none`, `eos` behind it, or `both`, bos
      before it as well.
  """
  encoder_layers: int = 0
  encoder_vocab_size: int = 0
  start_token: int = -1
  encoder_marks: str = "eos"


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
    encoder_vocab_size: Tokens of the source. 0: V.
    encoder_length: Shorter sources are filled on the right to it. 0: not at all.
    start_token: What the text behind a source begins with. -1: the tokenizer's bos.
    encoder_marks: What stands around a source: `none`, `eos` behind it, or `both`, bos
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
  encoder_vocab_size: int = 0
  encoder_length: int = 0
  start_token: int = -1
  encoder_marks: str = "eos"
  init: str = "xavier_uniform"
  dropout: float = 0.0
  dtype: str = "float32"
