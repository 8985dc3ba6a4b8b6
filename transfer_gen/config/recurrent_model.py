"""The recurrent models that a run can train."""

import dataclasses
from typing import Annotated

from transfer_gen.config import declare, sizes


@declare.strict
@dataclasses.dataclass(unsafe_hash=True)  # A static argument of jit.
class Recurrent:
  """A recurrent model: embedding, cells, an optional dense layer, output.

  It is a language model, or with `encoder` a model that first reads a text and whose
  answer starts from the states after that text.

  Attributes:
    vocab_size: V, the vocabulary size in tokens, at least 1. 0, the default, means the
      tokenizer's size.
    cell: Kind of the recurrent cells: `rnn`, `gru` or `lstm`. Default: `lstm`.
    num_layers: Number of recurrent layers, from 1 to 100. Default: 2.
    embed_width: D, the number of features of the embedding. 0 means no embedding: the
      first layer reads one-hot tokens. Default: 256.
    hidden_width: U, the number of units of each layer, at least 1. Default: 256.
    hidden_widths: Number of units of each layer, where they differ; one number for each
      layer. (), the default, means `hidden_width` for all.
    dense_width: F, the number of units of a dense layer before the output. 0, the
      default, means no such layer.
    dense_activation: Activation of that layer: `relu`, `tanh`, `sigmoid`, `gelu` or
      `linear`. Default: `relu`.
    tied: Whether the output uses the embedding table as its kernel, and so reads D
      features: those of the last layer or of an attention's `attention_output`, or of
      the dense layer. Default: False.
    bias: Whether cells, dense layer and output have biases. Default: True.
    recurrent_bias: Whether the product with the state has a second bias, as in cuDNN. A
      GRU with `reset_after` has it whenever `bias` is True. Default: False.
    forget_bias: For `lstm`: number that is added to the forget gate when it is used, of
      any sign. Default: 1.0.
    gate: Gate function: `sigmoid`; `hard_sigmoid`, clip(0.2 x + 0.5, 0, 1), as in Keras
      1 and 2; or `hard_sigmoid_3`, clip(x / 6 + 0.5, 0, 1), as in Keras 3.
      Default: `sigmoid`.
    reset_after: For `gru`: whether the reset gate acts after the product with the state
      (as in cuDNN) or on the state before it. Default: True.
    bidirectional: Whether cells read in both directions: those of the encoder, each
      direction with U / 2 units, or U with a `bridge`; or those of a language model
      with a `window`, each with U. Default: False.
    attention: Whether the output reads a weighted average over time of the embedding
      and all layers, in place of the last layer's state: an average over the model's
      own past, not over what an encoder read. Default: False.
    window: Number of tokens that each prediction reads, from an empty state; shorter
      texts are padded on the left with `pad_token`. 0, the default, means all tokens
      before it.
    pad_token: Id of the token that pads windows, and encoder inputs up to
      `encoder_length`; at least 0. Default: 0.
    encoder: Whether an encoder with as many layers reads a text first. Default: False.
    encoder_vocab_size: Vocabulary size of the encoder in tokens. 0, the default, means
      V.
    encoder_length: Length in tokens up to which shorter encoder inputs are padded on
      the right; the encoder reads this padding. 0, the default, means no such padding.
    encoder_width: Number of units of each direction of the encoder's layers, where a
      `bridge` leads to the decoder. 0, the default, means that of the decoder's layer.
    bridge: What leads from the encoder's last states to the decoder's first ones:
      `none`, the states themselves; `linear`, an affine map for each layer and state,
      which reads both directions; or `tanh`, the tanh of one. Default: `none`.
    encoder_attention: How the decoder attends to what the encoder read: `none`;
      `additive`, v tanh(W h + M m) with the state h before the step, whose context is
      read by the first layer (Bahdanau et al., 2015); or with the state after the step
      (Luong et al., 2015) `dot`, h m; `general`, h W m; `concat`, the score of
      `additive`; or `sum`, that score without kernels, v tanh(h + m), as in Keras.
      Default: `none`.
    attention_width: A, the number of hidden units of the scores `additive` and
      `concat`. 0, the default, means U of the last layer.
    attention_bias: Which products of the scores `additive` and `concat` have a bias:
      `none`; `key`, the one of what the encoder read; or `both`, also the one of the
      state. Default: `none`.
    attention_factor: Whether a learned number multiplies the scores `dot` and
      `general`, as in Keras. Default: False.
    attention_output: What the output reads: `hidden`, tanh(W h + C c) of state and
      context (Luong et al., 2015, equation 5); `state`, the state after an `additive`
      context; `context`, state and context; or `embed`, the embedding of the last
      token beside both (Bahdanau et al., 2015). Default: `hidden`.
    input_feeding: Whether the first layer also reads the `hidden` output of the step
      before (Luong et al., 2015, section 3.3). Default: False.
    coverage: Whether the scores `additive` and `concat` read the sum of the weights
      that each place was given before (See et al., 2017, equation 11).
      Default: False.
    latent_width: Z, the number of features of a latent between encoder and decoder, see
      `models.latent`. It takes the place of the encoder's last states: the decoder's
      first states are made of it, and its first layer reads it at each step (Bowman et
      al., 2016). 0, the default, means no latent.
    variational: Whether the latent is drawn from a Gaussian that the encoder gives
      (Kingma and Welling, 2014). If False, it is that Gaussian's mean: an autoencoder,
      which has no prior to draw from. Default: True.
    start_token: Id of the token that each answer begins with. -1, the default, means
      the tokenizer's bos.
    encoder_marks: Marks around what the encoder reads: `none`; `eos`, after it; or
      `both`, bos before it and eos after it. Default: `eos`.
    init: Initializer of the kernels, see `models.layers.initializer`.
      Default: `xavier_uniform`.
    dropout: Dropout rate of the input of each layer, in [0, 1). Default: 0.0.
    embed_dropout: Rate at which tokens are dropped, each wherever it stands in a batch.
      This and the next four are those of AWD-LSTM (Merity et al., 2018). Default: 0.0.
    input_dropout: Rate at which features of the embedding are dropped, for all
      positions of a row alike. Default: 0.0.
    hidden_dropout: The same for what layers read beside it: the outputs of the layer
      below, and in the first layer what an attention feeds it. Default: 0.0.
    output_dropout: The same for what the output reads. Default: 0.0.
    weight_dropout: Rate at which entries of the recurrent kernels are dropped, for a
      whole batch alike. Default: 0.0.
    dtype: Computation dtype: `float32`, `bfloat16` or `float16`, which trains with a
      loss scale. Params are float32. Default: `float32`.
    remat: What a layer computes again in the backward pass, so that it need not wait in
      memory: `none`; or `full`, all but the layer's input. It does not act on the
      decoder where that attends in each step. Default: `none`.
  """
  vocab_size: sizes.Vocabulary = 0
  cell: Annotated[str, declare.OneOf("rnn", "gru", "lstm")] = "lstm"
  # Unlike blocks they may all differ, so each is traced by itself.
  num_layers: Annotated[int, declare.Between(1, 100)] = 2
  embed_width: sizes.Width0 = 256
  hidden_width: sizes.Width = 256
  hidden_widths: tuple[sizes.Width, ...] = ()
  dense_width: sizes.Width0 = 0
  dense_activation: Annotated[str, declare.OneOf(
      "relu", "tanh", "sigmoid", "gelu", "linear")] = "relu"
  tied: bool = False
  bias: bool = True
  recurrent_bias: bool = False
  forget_bias: declare.Real = 1.0
  gate: Annotated[str, declare.OneOf(
      "sigmoid", "hard_sigmoid", "hard_sigmoid_3")] = "sigmoid"
  reset_after: bool = True
  bidirectional: bool = False
  attention: bool = False
  window: Annotated[int, declare.Between(0, 2**20)] = 0
  pad_token: declare.Count = 0
  encoder: bool = False
  encoder_vocab_size: sizes.Vocabulary = 0
  encoder_length: Annotated[int, declare.Between(0, 2**20)] = 0
  encoder_width: sizes.Width0 = 0
  bridge: Annotated[str, declare.OneOf("none", "linear", "tanh")] = "none"
  encoder_attention: Annotated[str, declare.OneOf(
      "none", "additive", "dot", "general", "concat", "sum")] = "none"
  attention_width: sizes.Width0 = 0
  attention_bias: Annotated[str, declare.OneOf("none", "key", "both")] = "none"
  attention_factor: bool = False
  attention_output: Annotated[str, declare.OneOf(
      "hidden", "state", "context", "embed")] = "hidden"
  input_feeding: bool = False
  coverage: bool = False
  latent_width: sizes.Width0 = 0
  variational: bool = True
  start_token: declare.NoToken = -1
  encoder_marks: sizes.Marks = "eos"
  init: sizes.Init = "xavier_uniform"
  dropout: declare.Dropout = 0.0
  embed_dropout: declare.Dropout = 0.0
  input_dropout: declare.Dropout = 0.0
  hidden_dropout: declare.Dropout = 0.0
  output_dropout: declare.Dropout = 0.0
  weight_dropout: declare.Dropout = 0.0
  dtype: sizes.Dtype = "float32"
  remat: Annotated[str, declare.OneOf("none", "full")] = "none"

  @property
  def encodes(self) -> bool:
    """Whether the model has an encoder, which reads a text first."""
    return self.encoder

  @property
  def draws(self) -> bool:
    """Whether the model draws a latent, so that its loss is a bound."""
    return self.latent_width > 0 and self.variational

  @property
  def longest(self) -> int | None:
    """Length in tokens of the longest text that the model can read: any."""
    return None

  @property
  def widths(self) -> tuple[int, ...]:
    """Number of units of each layer."""
    return self.hidden_widths or (self.hidden_width,) * self.num_layers

  @property
  def encoder_tokens(self) -> int:
    """Number of tokens that the encoder knows."""
    return self.encoder_vocab_size or self.vocab_size

  @property
  def encoder_ways(self) -> int:
    """Number of directions in which each of the encoder's layers reads."""
    return 1 + (self.encoder and self.bidirectional)

  @property
  def encoder_widths(self) -> tuple[int, ...]:
    """Number of units of each direction of each of the encoder's layers."""
    # Without a bridge the states of both directions together begin the decoder's, which
    # has the full width.
    if self.bridge == "none":
      return tuple(width // self.encoder_ways for width in self.widths)
    return tuple(self.encoder_width or width for width in self.widths)

  @property
  def memory_width(self) -> int:
    """M, the number of features of what the encoder returns at each place."""
    return self.encoder_widths[-1] * self.encoder_ways

  @property
  def attends(self) -> bool:
    """Whether the decoder attends to what the encoder read."""
    return self.encoder_attention != "none"

  @property
  def stepwise(self) -> bool:
    """Whether each step of the decoder needs what the step before attended to."""
    # Otherwise all states are known before any of them attends.
    return self.attends and bool(
        self.encoder_attention == "additive" or self.input_feeding or self.coverage)

  @property
  def score_width(self) -> int:
    """A, the number of hidden units of the attention's scores."""
    return self.attention_width or self.widths[-1]
