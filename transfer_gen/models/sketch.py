"""A model of drawings: an encoder of points, a latent, and a decoder that draws.

Axes: B batch, T points, U units of the decoder, E units of a direction of the encoder,
Z dimensions of the latent, M Gaussians of a mixture, P states of the pen. Cells are
time-major, all else is batch-major.
"""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from transfer_gen import config as config_lib
from transfer_gen.models import cells
from transfer_gen.models import layers
from transfer_gen.models import outputs
from transfer_gen.models import recurrent_layers

Input = recurrent_layers.Input
DOWN, UP, END = range(3)  # States of the pen behind a point.
_PEN = "pen"
# Name of what the head gives beside the state of the pen, and its sizes behind M.
_MIXTURE: dict[str, tuple[int, ...]] = {
    "mixture_logits": (), "mixture_means": (2,), "mixture_log_scales": (2,),
    "mixture_slants": ()}


def constants(config: config_lib.Sketch) -> dict[str, Any]:
  """Returns what the model computes beside its params and their sizes."""
  return {name: getattr(config, name) for name in (
      "cell", "forget_bias", "variational")}


class Sketch(nn.Module):
  """Points of a drawing to the distribution of the next point.

  Attributes:
    config: The model's config, with `vocab_size` set.

  Params: decoder and head, a `Fan` to the state of the pen, `pen`, and the mixture;
  with a latent also encoder and start, which makes the decoder's first state of the
  latent.
  """
  config: config_lib.Sketch

  def setup(self) -> None:
    """Creates the submodules and params."""
    config = self.config
    latent = ()
    if config.latent_width:
      latent = (Input("latent", "latent", config.latent_width),)
      self.encoder = Encoder(config)
      self.start = layers.Dense(
          (cells.KINDS[config.cell].states, config.hidden_width),
          ("latent", "states", "hidden"), reads=("latent",), kernel_init=config.init,
          dtype=layers.computation_dtype(config.dtype))
    self.decoder = recurrent_layers.Cell(
        config.cells, (*_points(config), *latent), config.hidden_width)
    self.tap = layers.Tap(config.num_layers - 1)
    self.dropout = nn.Dropout(config.dropout)
    self.head = recurrent_layers.Fan(
        Input("", "hidden", config.hidden_width), _outputs(config), config.init)

  def __call__(
      self, inputs: jax.Array, train: bool = False, values: jax.Array | None = None,
      pen_states: jax.Array | None = None, draws: jax.Array | None = None,
  ) -> jax.Array:
    """Reads whole drawings, and gives the distribution of each point and its pen.

    Args:
      inputs: i32[B, T], state of the pen before each point; before the first, down.
      train: Whether dropout acts; it draws from the key `dropout`.
      values: f32[B, T, 2], the offset that leads to each point from the one before.
      pen_states: i32[B, T], state of the pen behind each point, `END` after the last
        one. If this or `values` is None, the drawing is empty.
      draws: u32[B], a number of each drawing, which with the key `latent` decides what
        is drawn for its latent: so that does not depend on the rows beside it. Without
        it, or the key, the latent is the mean of its distribution.

    Returns:
      Logits f32[B, T, P] of the states of the pen behind each point. It gives (see
      `outputs.give`) mixture_logits and mixture_slants f32[B, T, M], mixture_means and
      mixture_log_scales f32[B, T, M, 2] of the offsets, their mean output_mean and the
      logarithm of their variance output_log_var f32[B, T, 2], and if a latent is drawn,
      latent_mean and latent_log_var f32[B, Z].
    """
    if values is None or pen_states is None:
      values = jnp.zeros((*inputs.shape, 2))
      pen_states = jnp.full(inputs.shape, END, jnp.int32)
    latent = self.latent(values, pen_states, draws)
    # What a point is drawn from knows the points before it alone.
    before = jnp.pad(values[:, :-1], ((0, 0), (1, 0), (0, 0)))
    h = self.tap(self.decoder(
        self._read(inputs, before, latent), self.begin(latent, len(inputs))
    ).swapaxes(0, 1))
    mixture = self.head(self.dropout(h, deterministic=not train))
    pen = mixture.pop(_PEN)
    for name, value in {**mixture, **_moments(mixture)}.items():
      outputs.give(self, name, value)
    return pen

  def encoded(
      self, values: jax.Array, pen_states: jax.Array) -> dict[str, jax.Array]:
    """Returns what `Encoder` does of drawings; arguments as of a call."""
    return self.encoder(values, pen_states)

  def latent(
      self, values: jax.Array, pen_states: jax.Array,
      draws: jax.Array | None = None) -> jax.Array | None:
    """Returns the latents f32[B, Z] of drawings, or None; arguments as of a call."""
    config = self.config
    if not config.latent_width:
      return None
    found = {name: value.astype(jnp.float32)
             for name, value in self.encoded(values, pen_states).items()}
    mean, log_var = found["mean"], found.get("log_var")
    if log_var is None:
      return mean
    outputs.give(self, "latent_mean", mean)
    outputs.give(self, "latent_log_var", log_var)
    if draws is None or not self.has_rng("latent"):
      return mean
    return mean + jnp.exp(0.5 * log_var) * drawn(
        self.make_rng("latent"), draws, config.latent_width)

  def begin(self, latent: jax.Array | None, batch: int) -> cells.Carry:
    """Returns the state with which drawings begin.

    Args:
      latent: f32[B, Z]; None for a decoder alone.
      batch: B.
    """
    dtype = layers.computation_dtype(self.config.dtype)
    if latent is None:
      return self.decoder.start(batch, dtype)
    states = jnp.tanh(self.start(latent))
    return tuple(states[:, i] for i in range(states.shape[1]))

  def extend(
      self, carry: cells.Carry, pen: jax.Array, offset: jax.Array,
      latent: jax.Array | None,
  ) -> tuple[cells.Carry, jax.Array, Mapping[str, jax.Array]]:
    """Reads one point of each drawing.

    Args:
      carry: The state before.
      pen: i32[B], state of the pen behind the point.
      offset: f32[B, 2], what led to it.
      latent: As of `begin`.

    Returns:
      The state after it, logits f32[B, P] of the pen behind the next point, and the
      mixture of its offset, as a call gives them, without T.
    """
    carry, h = self.decoder.extend(
        self._read(pen[:, None], offset[:, None], latent),
        jnp.ones((1, len(pen)), bool), carry)
    mixture = self.head(h[0])
    return carry, mixture.pop(_PEN), mixture

  def _read(self, pens, offsets, latent):
    dtype = layers.computation_dtype(self.config.dtype)
    parts = {"": pens.T, "offset": offsets.swapaxes(0, 1).astype(dtype)}
    # One step for all: the cell multiplies it once.
    return parts if latent is None else {
        **parts, "latent": latent[None].astype(dtype)}


class Encoder(nn.Module):
  """Reads a drawing forwards and backwards; the last states give a Gaussian.

  Attributes:
    config: The model's config.

  Params: forward and backward, cells of E units; mean and log_var, affine maps of the
  two last states.
  """
  config: config_lib.Sketch

  def setup(self) -> None:
    """Creates the submodules and params."""
    config = self.config
    read, width = _points(config), config.encoder_width
    self.forward = recurrent_layers.Cell(config.cells, read, width)
    self.backward = recurrent_layers.Cell(config.cells, read, width)
    ends = (Input("", "hidden", width),
            Input(recurrent_layers.BACKWARD, "hidden", width))
    self.mean, self.log_var = (
        recurrent_layers.Affine(ends, config.latent_width, "latent", config.cells)
        for _ in range(2)) if config.variational else (recurrent_layers.Affine(
            ends, config.latent_width, "latent", config.cells), None)
    self.tap = layers.Tap(0)

  # Drawings are turned around within their own lengths. Padding then stands behind them
  # both ways, and the state at a drawing's last point has seen none of it.
  def __call__(
      self, values: jax.Array, pen_states: jax.Array) -> dict[str, jax.Array]:
    """f32[B, T, 2] and i32[B, T] to `mean` and `log_var`, f32[B, Z] each.

    The second is absent if the latent is not drawn.
    """
    counts = (pen_states != END).sum(1)
    last = jnp.maximum(counts - 1, 0)
    steps = jnp.arange(pen_states.shape[1])
    turned = jnp.maximum(last[:, None] - steps[None], 0)  # [B, T]
    dtype = layers.computation_dtype(self.config.dtype)
    values, ends = values.astype(dtype), {}
    for name, cell, points, pens in (
        ("", self.forward, values, pen_states),
        (recurrent_layers.BACKWARD, self.backward,
         jnp.take_along_axis(values, turned[..., None], axis=1),
         jnp.take_along_axis(pen_states, turned, axis=1))):
      h = cell({"": pens.T, "offset": points.swapaxes(0, 1)}, None)  # [T, B, E]
      ends[name] = jnp.take_along_axis(h, last[None, :, None], axis=0)[0]
    if self.tap.is_heard():  # One state of a drawing stands for each of its points.
      both = jnp.concatenate(list(ends.values()), axis=-1)[:, None]
      self.tap(jnp.broadcast_to(both, (*pen_states.shape, both.shape[-1])))
    found = {"mean": self.mean(ends).astype(jnp.float32)}
    return found if self.log_var is None else found | {
        "log_var": self.log_var(ends).astype(jnp.float32)}


def drawn(key: jax.Array, numbers: jax.Array, width: int) -> jax.Array:
  """Returns f32[B, width], normal noise; a row's depends on its number u32[B] alone."""
  return jax.vmap(lambda number: jax.random.normal(
      jax.random.fold_in(key, number), (width,)))(numbers)


def _moments(mixture: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Returns the mean and log variance f32[B, T, 2] of what a mixture draws."""
  weights = jax.nn.softmax(mixture["mixture_logits"])[..., None]
  means = mixture["mixture_means"]
  mean = (weights * means).sum(-2)
  # Of distances from the mean, since a difference of squares could be below 0.
  variance = (weights * (jnp.exp(2 * mixture["mixture_log_scales"])
                         + jnp.square(means - mean[..., None, :]))).sum(-2)
  return {"output_mean": mean, "output_log_var": jnp.log(variance)}


def _outputs(config: config_lib.Sketch) -> tuple[recurrent_layers.Output, ...]:
  """Returns what the head gives: the state of the pen, and the offset's mixture."""
  return (recurrent_layers.Output(_PEN, ("vocab",), (config.vocab_size,)), *(
      recurrent_layers.Output(
          name, ("mixtures", "offset")[:1 + len(more)], (config.mixtures, *more))
      for name, more in _MIXTURE.items()))


def _points(config: config_lib.Sketch) -> tuple[Input, ...]:
  """Returns what a cell reads of a point."""
  return (Input("", "vocab", config.vocab_size), Input("offset", "offset", 2))
