"""The model of drawings that a run can train; see `config.models` for the others."""

import dataclasses
from typing import Annotated

from transfer_gen.config import declare, recurrent_model, sizes

Recurrent = recurrent_model.Recurrent


@declare.strict
@dataclasses.dataclass(unsafe_hash=True)  # A static argument of jit.
class Sketch:
  """A recurrent model of drawings, sequences of strokes of a pen.

  It is sketch-rnn of Ha and Eck (2018), "A Neural Representation of Sketch Drawings",
  with plain cells: an encoder reads a drawing both ways into a latent, from which a
  decoder draws. It needs `Tokenizer(kind="strokes")`.

  Attributes:
    vocab_size: Number of states of the pen. 0, the default, means the tokenizer's:
      down, up, and the end of the drawing.
    cell: Kind of the recurrent cells: `rnn`, `gru` or `lstm`. Default: `lstm`.
    hidden_width: U, the number of units of the decoder, at least 1. Default: 512.
    encoder_width: E, the number of units of each direction of the encoder, at least 1.
      Default: 256.
    latent_width: Z, the number of dimensions of the latent. 0 means neither a latent
      nor an encoder: a decoder alone, which draws without anything given.
      Default: 128.
    variational: Whether the latent is drawn around what the encoder found, so that the
      prior can be drawn from; otherwise it is what the encoder found (an autoencoder).
      Default: True.
    mixtures: M, the number of Gaussians that the next point is drawn from, at least 1.
      Default: 20.
    forget_bias: For `lstm`: number that is added to the forget gate when it is used, of
      any sign. Default: 1.0.
    init: Initializer of the kernels, see `models.layers.initializer`.
      Default: `xavier_uniform`.
    dropout: Dropout rate of the decoder's states before the output, in [0, 1).
      Default: 0.0.
    dtype: Computation dtype: `float32`, `bfloat16` or `float16`. Params, and what the
      output computes, are float32. Default: `float32`.
  """
  vocab_size: sizes.Vocabulary = 0
  cell: Annotated[str, declare.OneOf("rnn", "gru", "lstm")] = "lstm"
  hidden_width: sizes.Width = 512
  encoder_width: sizes.Width = 256
  latent_width: sizes.Width0 = 128
  variational: bool = True
  mixtures: Annotated[int, declare.Between(1, 2**16)] = 20
  forget_bias: declare.Real = 1.0
  init: sizes.Init = "xavier_uniform"
  dropout: declare.Dropout = 0.0
  dtype: sizes.Dtype = "float32"

  @property
  def encodes(self) -> bool:
    """Whether the model reads another text first: no, its encoder reads the drawing."""
    return False

  @property
  def longest(self) -> int | None:
    """Number of points of the longest drawing that the model can read: any."""
    return None

  @property
  def num_layers(self) -> int:
    """Number of layers whose states a teacher's are matched with, see `widths`."""
    return len(self.widths)

  @property
  def widths(self) -> tuple[int, ...]:
    """Number of features of each layer: of the encoder, if there is one; the decoder.

    The encoder's are the last states of its two directions.
    """
    return (*((2 * self.encoder_width,) if self.latent_width else ()),
            self.hidden_width)

  @property
  def draws(self) -> bool:
    """Whether the model draws a latent, so that its loss is a bound."""
    return self.latent_width > 0 and self.variational

  @property
  def cells(self) -> Recurrent:
    """What its cells have in common, as the parts of recurrent models read it."""
    return Recurrent(
        vocab_size=self.vocab_size, cell=self.cell, forget_bias=self.forget_bias,
        init=self.init, dtype=self.dtype)
