"""The models that a run can train: Transformers and recurrent models.

Fields hold what the user chose, and many allow 0 for "derived from other fields".
The properties return the values that then hold; they are no fields, so neither JSON
nor flags contain them.
"""

import dataclasses
from typing import Annotated

from transfer_gen.config import declare, recurrent_model, sizes, sketch_model

# Their fields fill files of their own; they are models, too, so they are named here.
Recurrent = recurrent_model.Recurrent
Sketch = sketch_model.Sketch


# Hashable, because a model is a static argument of jit, and yet not frozen, because
# flags of the command line set single fields.
@declare.strict
@dataclasses.dataclass(unsafe_hash=True)
class Decoder:
  """A decoder-only Transformer.

  Attributes:
    vocab_size: V, the vocabulary size in tokens, at least 1. 0, the default, means the
      tokenizer's size.
    num_layers: Number of blocks, from 1 to 1000. Default: 4.
    width: D, the number of features of the residual stream, at least 1. Default: 256.
    num_heads: H, the number of query heads, at least 1. It divides D unless `head_dim`
      is set. Default: 4.
    num_kv_heads: Number of key and value heads, a divisor of H. Fewer than H is
      grouped-query attention. 0, the default, means H.
    head_dim: K, the number of features of each head. 0, the default, means D / H.
    mlp_width: F, the number of hidden units of the MLP. 0, the default, means 4 D.
    position: How the model knows positions: `learned`, `sinusoidal`, `rotary` or
      `relative`. Default: `learned`.
    max_length: Number of learned positions in tokens, at least 1. With
      `position="learned"` the model cannot read longer texts; other positions have no
      limit and ignore it. Default: 256.
    position_offset: Row of the learned position table at which texts begin, at least 0.
      The table has this many rows more. Default: 0.
    windows: Number of latest tokens that each layer sees, itself included; 0 means all.
      The tuple repeats over the layers. (), the default, means that every layer sees
      all.
    block: `serial`: attention, then MLP. `parallel`: both read the same input, each
      through its own norm. `parallel_one_norm`: both through one norm. The last two
      need `norm_order="pre"`. Default: `serial`.
    norm: `layer` for LayerNorm or `rms` for RMSNorm. Default: `layer`.
    norm_order: Where norms stand: `pre`, before each branch; `post`, after each
      residual sum; or `both`, before and after each branch. Default: `pre`.
    norm_epsilon: Number that is added to the variance or mean square, above 0.
      Default: 1e-05.
    norm_offset: Number that is added to the norms' scales when they are used, of any
      sign. Default: 0.0.
    final_norm: Whether a norm stands before the output. It has no effect with
      `norm_order="post"`, where the last block ends with its own norm. Default: True.
    query_norm: Whether queries and keys are normalized, each head by itself.
      Default: False.
    activation: Activation of the MLP: `gelu` (tanh approximation), `gelu_exact`, `relu`
      or `silu`; or with a gate `swiglu` (gate by silu), `geglu` or `geglu_exact`.
      Default: `gelu`.
    tied: Whether the output uses the embedding table as its kernel. Default: True.
    bias: Whether kernels and LayerNorms have biases. Default: True.
    unbiased: Parts without a bias although `bias` is True, out of `query`, `key`,
      `value`, `out`, `up`, `gate`, `down` and `norm`. Default: ().
    init: Initializer of the kernels, see `models.layers.initializer`.
      Default: `truncated_normal`.
    dropout: Dropout rate of the embedding and of each residual branch, in [0, 1).
      Default: 0.0.
    attention_scale: Factor on the attention scores. 0, the default, means K ** -0.5.
    attention_softcap: If above 0, scores become cap * tanh(scores / cap), so that they
      stay between -cap and cap. 0, the default, means no cap.
    embed_scale: Factor on the output of the embedding. Default: 1.0.
    logit_scale: Factor on the logits. Default: 1.0.
    logit_softcap: If above 0, logits become cap * tanh(logits / cap), so that they stay
      between -cap and cap. 0, the default, means no cap.
    rotary_base: Base of the rotary wavelengths, 2 pi base ** (2 i / R) tokens; above 0.
      Default: 10000.0.
    rotary_base_window: Base in layers that have a window, where no scaling applies.
      0, the default, means that these layers turn like the others.
    rotary_dim: R, the number of features of each head that are turned, the first ones;
      even, at most K. 0, the default, means K.
    rotary_scaling: Change of the wavelengths for texts longer than those of the first
      training: `none`, `linear`, `llama3` or `yarn`, see `models.positions`.
      Default: `none`.
    rotary_factor: Factor by which `rotary_scaling` lengthens wavelengths, above 0.
      Default: 1.0.
    rotary_ramp: For `llama3` and `yarn`: two numbers of turns within `rotary_length`
      tokens, above 0 and rising. Features that turn less often than the first are
      scaled in full, those that turn more often than the second are not, and those
      between in part. Default: (1.0, 4.0).
    rotary_length: For `llama3` and `yarn`, which need it: length in tokens of the
      longest text of the first training, at least 1. Default: 0.
    rotary_magnitude: Factor on the features that are turned. Default: 1.0.
    sinusoid_width: Number of features of one sinusoid table, which is repeated up to D;
      a divisor of D. 0, the default, means D.
    sinusoid_halves: Whether all sines come first and then all cosines. If False, the
      default, they alternate.
    relative_buckets: For `relative`: number of buckets of distances, even, at least 4.
      Default: 32.
    relative_distance: For `relative`: distance in tokens from which on all distances
      share the last bucket; above half of `relative_buckets`. Default: 128.
    token_types: Number of rows of a table of kinds of tokens, as BERT has for the two
      texts of a pair. Its row 0 is added to each token; no text here has the other
      kinds. 0, the default, means no such table.
    embed_norm: Whether a norm follows the embedding. Default: False.
    transform: Whether a dense layer of D units with the activation of the MLP, and a
      norm, stand before the output, as in BERT. Default: False.
    logit_bias: Whether the output has a bias. Default: False.
    dtype: Computation dtype: `float32`, `bfloat16` or `float16`, which trains with a
      loss scale. Params are float32. Default: `float32`.
    remat: What a block computes again in the backward pass, so that it need not wait in
      memory: `none`; `full`, all but the block's input; `dots`, all but what products
      give; or `dots_with_no_batch_dims`, all but what products with kernels give, so
      also the scores of attention. Default: `none`.
    attention_implementation: What computes the attention of more than one token:
      `einsum`, products and a softmax of this package; or `fused`, which needs
      `attention_softcap=0`: cuDNN's flash attention on GPUs where dtype and sizes
      allow, and elsewhere XLA's. Default: `einsum`.
  """
  vocab_size: sizes.Vocabulary = 0
  num_layers: sizes.Layers = 4
  width: sizes.Width = 256
  num_heads: sizes.Heads = 4
  num_kv_heads: Annotated[int, declare.Between(0, 2**16)] = 0
  head_dim: sizes.Width0 = 0
  mlp_width: sizes.Hidden = 0
  position: Annotated[str, declare.OneOf(
      "learned", "sinusoidal", "rotary", "relative")] = "learned"
  max_length: sizes.Positions = 256
  position_offset: Annotated[int, declare.Between(0, 2**24)] = 0
  windows: tuple[declare.Count, ...] = ()
  block: Annotated[str, declare.OneOf(
      "serial", "parallel", "parallel_one_norm")] = "serial"
  norm: Annotated[str, declare.OneOf("layer", "rms")] = "layer"
  norm_order: Annotated[str, declare.OneOf("pre", "post", "both")] = "pre"
  norm_epsilon: declare.Positive = 1e-5
  norm_offset: declare.Real = 0.0
  final_norm: bool = True
  query_norm: bool = False
  activation: Annotated[str, declare.OneOf(
      "gelu", "gelu_exact", "relu", "silu", "swiglu", "geglu", "geglu_exact")] = "gelu"
  tied: bool = True
  bias: bool = True
  unbiased: tuple[Annotated[str, declare.OneOf(
      "query", "key", "value", "out", "up", "gate", "down", "norm")], ...] = ()
  init: sizes.Init = "truncated_normal"
  dropout: declare.Dropout = 0.0
  attention_scale: declare.Real = 0.0
  attention_softcap: declare.Weight = 0.0
  embed_scale: declare.Real = 1.0
  logit_scale: declare.Real = 1.0
  logit_softcap: declare.Weight = 0.0
  rotary_base: declare.Positive = 10000.0
  rotary_base_window: declare.Weight = 0.0
  rotary_dim: sizes.Width0 = 0
  rotary_scaling: Annotated[str, declare.OneOf(
      "none", "linear", "llama3", "yarn")] = "none"
  rotary_factor: declare.Positive = 1.0
  rotary_ramp: tuple[declare.Positive, declare.Positive] = (1.0, 4.0)
  rotary_length: declare.Count = 0
  rotary_magnitude: declare.Real = 1.0
  sinusoid_width: sizes.Width0 = 0
  sinusoid_halves: bool = False
  relative_buckets: Annotated[int, declare.Between(4, 2**20)] = 32
  relative_distance: declare.Number = 128
  token_types: Annotated[int, declare.Between(0, 2**16)] = 0
  embed_norm: bool = False
  transform: bool = False
  logit_bias: bool = False
  dtype: sizes.Dtype = "float32"
  remat: Annotated[str, declare.OneOf(
      "none", "full", "dots", "dots_with_no_batch_dims")] = "none"
  attention_implementation: Annotated[
      str, declare.OneOf("einsum", "fused")] = "einsum"

  @property
  def encodes(self) -> bool:
    """Whether the model has an encoder, which reads a text first."""
    return False

  @property
  def draws(self) -> bool:
    """Whether the model draws a latent, so that its loss is a bound."""
    return False

  @property
  def prefix(self) -> int:
    """Number of positions before those of tokens."""
    return 0

  @property
  def longest(self) -> int | None:
    """Length in tokens of the longest text that the model can read; None if any."""
    return self.max_length if self.position == "learned" else None

  @property
  def kv_heads(self) -> int:
    """G, the number of key and value heads."""
    return self.num_kv_heads or self.num_heads

  @property
  def head_size(self) -> int:
    """K, the number of features of each head."""
    return self.head_dim or self.width // self.num_heads

  @property
  def mlp_size(self) -> int:
    """F, the number of hidden units of the MLP."""
    return self.mlp_width or 4 * self.width

  @property
  def score_scale(self) -> float:
    """Factor on the attention scores."""
    return self.attention_scale or self.head_size ** -0.5

  @property
  def rotary_size(self) -> int:
    """R, the number of features of each head that rotary positions turn."""
    return self.rotary_dim or self.head_size

  @property
  def window_rotary_base(self) -> float:
    """Base of the rotary wavelengths in layers that have a window."""
    return self.rotary_base_window or self.rotary_base

  @property
  def sinusoid_size(self) -> int:
    """Number of features of one sinusoid table."""
    return self.sinusoid_width or self.width

  @property
  def ends_with_norm(self) -> bool:
    """Whether the stack of blocks has a norm of its own at its end."""
    # Blocks of `post` end with a norm already; a second one would follow it directly.
    return self.final_norm and self.norm_order != "post"

  def window(self, layer: int) -> int:
    """Number of tokens that a layer sees, counted from 0; 0 means all."""
    # Published models alternate layers with and without a window in a fixed rhythm.
    return self.windows[layer % len(self.windows)] if self.windows else 0


@declare.strict
@dataclasses.dataclass(unsafe_hash=True)  # A static argument of jit.
class Encoder(Decoder):
  """A Transformer that sees a text as a whole, such as BERT (Devlin et al., 2019).

  Its output says which token stands at each position, also where the input has a mask,
  so it writes no text; a pair can be warm-started from it, see `sources.Pair`.

  Attributes:
    head: Whether there is an output over tokens. If False, the model returns what its
      last layer does, and `tied`, `transform` and `logit_bias` have no effect.
      Default: True.
  """
  head: bool = True


@declare.strict
@dataclasses.dataclass(unsafe_hash=True)  # A static argument of jit.
class EncoderDecoder(Decoder):
  """A Transformer with an encoder that reads one text and a decoder that answers it.

  The fields of a `Decoder` hold for both sides, unless the encoder has its own;
  `num_layers` is the decoder's.

  Attributes:
    encoder: Fields of the encoder, where it differs from the decoder in more than depth
      and vocabulary. Its `dropout`, `dtype`, `init`, `remat` and
      `attention_implementation` are the pair's, and it has no output. If its width
      differs, a dense layer leads from one to the other. If None, the default, both
      sides have the same fields.
    shared: Whether the encoder runs the decoder's blocks, seeing both ways and without
      cross-attention (RoBERTaShare: Rothe et al., 2020). Default: False.
    encoder_layers: Number of the encoder's blocks. 0, the default, means `num_layers`.
    encoder_vocab_size: Vocabulary size in tokens of the encoder's own embedding table.
      0, the default, means that both sides share one table of V rows.
    start_token: Id of the token that each answer begins with. -1, the default, means
      the tokenizer's bos.
    encoder_marks: Marks around what the encoder reads: `none`; `eos`, after it; or
      `both`, bos before it and eos after it. Default: `eos`.
    latent_width: Z, the number of features of a latent between encoder and decoder, see
      `models.latent`. It is made of the mean of what the encoder returns, and the
      decoder sees it in place of what the encoder read. 0, the default, means no
      latent.
    variational: As for `Recurrent`. Default: True.
    latent: How the decoder sees the latent: `prefix`, as positions before its tokens;
      or `added`, to each of its inputs. Default: `prefix`.
    latent_prefix: For `prefix`: number of these positions, at least 1. Default: 1.
  """
  encoder: Encoder | None = None
  shared: bool = False
  encoder_layers: Annotated[int, declare.Between(0, 1000)] = 0
  encoder_vocab_size: sizes.Vocabulary = 0
  start_token: declare.NoToken = -1
  encoder_marks: sizes.Marks = "eos"
  latent_width: sizes.Width0 = 0
  variational: bool = True
  latent: Annotated[str, declare.OneOf("prefix", "added")] = "prefix"
  latent_prefix: Annotated[int, declare.Between(1, 1024)] = 1

  @property
  def encodes(self) -> bool:
    """Whether the model has an encoder, which reads a text first."""
    return True

  @property
  def draws(self) -> bool:
    """Whether the model draws a latent, so that its loss is a bound."""
    return self.latent_width > 0 and self.variational

  @property
  def prefix(self) -> int:
    """Number of positions before those of tokens."""
    return self.latent_prefix if self.latent_width and self.latent == "prefix" else 0

  @property
  def encoder_depth(self) -> int:
    """Number of the encoder's blocks."""
    if self.encoder is not None:
      return self.encoder.num_layers
    return self.encoder_layers or self.num_layers

  @property
  def encoder_longest(self) -> int | None:
    """Length in tokens of the longest text that the encoder can read; None if any."""
    return (self.encoder or self).longest

  @property
  def encoder_tokens(self) -> int:
    """Number of tokens that the encoder knows."""
    return self.encoder_vocab_size or self.vocab_size


Model = Decoder | Recurrent | Sketch  # An Encoder or EncoderDecoder is a Decoder.


def dropouts(model: Model) -> dict[str, float]:
  """Returns the rates of dropout that are above 0, by the names of their fields."""
  return {name: rate for name, rate in vars(model).items()
          if name.endswith("dropout") and rate > 0}
