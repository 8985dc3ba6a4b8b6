"""Drawings out of a run: of its own, after others, and between two of them.

Axes: n drawings, B of them at a time, N points of a drawing, Z dimensions of a latent.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.generate import drawing
from transfer_gen.models import sketch
from transfer_gen.run import trained as trained_lib

Trained = trained_lib.Trained


def freely(
    trained: trained_lib.Trained, decoding: config_lib.Decoding, batch_size: int = 64
) -> list[np.ndarray]:
  """Draws `decoding.num` drawings, from latents out of the prior if there is one.

  Args:
    trained: A run of a model of drawings.
    decoding: `num`, `temperature`, `seed` and `max_tokens`, the largest number of
      points (0: that of the run's rows), are read.
    batch_size: Number of drawings that are drawn at a time.

  Returns:
    Points f32[N, 3] of each drawing, in the unit of the run's data. The seed and its
    number alone decide a drawing.

  Raises:
    errors.UserError: If the run has a latent that cannot be drawn.
  """
  model = trained.run.model
  numbers = np.arange(decoding.num)
  latents = None
  if model.latent_width:
    if not model.variational:
      raise errors.UserError(
          f"{trained.workdir}: the model is a plain autoencoder, whose latent has no"
          " distribution to draw from. Give --prompts=FILE with drawings.")
    latents = drawing.prior(decoding.seed, jnp.asarray(numbers), model.latent_width)
  return _drawn(trained, latents, numbers, decoding, batch_size)


def after(
    trained: trained_lib.Trained, texts: Sequence[str], decoding: config_lib.Decoding,
    batch_size: int = 64) -> list[np.ndarray]:
  """Draws others again, each `decoding.num` times, from the means of their latents.

  Args:
    trained: As of `freely`.
    texts: The drawings, see `data.notation`.
    decoding: As of `freely`.
    batch_size: As of `freely`.

  Raises:
    errors.UserError: If the model has no encoder, or a text is no drawing.
  """
  latents = np.repeat(_encoded(trained, texts), decoding.num, axis=0)
  return _drawn(trained, latents, np.arange(len(latents)), decoding, batch_size)


def between(
    trained: trained_lib.Trained, texts: Sequence[str], count: int,
    decoding: config_lib.Decoding, batch_size: int = 64) -> list[np.ndarray]:
  """Draws `count` drawings that lead from one to another.

  Args:
    trained: As of `freely`.
    texts: The two.
    count: At least 2; the first and the last are of the two themselves.
    decoding: As of `freely`; `num` is not read.
    batch_size: As of `freely`.

  Raises:
    errors.UserError: As `after`; or if there are not two drawings.
  """
  if len(texts) != 2:
    raise errors.UserError(
        "--interpolate draws from one drawing to another, and --prompts has"
        f" {len(texts)}. Give a file with two.")
  first, last = jnp.asarray(_encoded(trained, texts))
  # All with the same noise, so that they differ in their latent alone.
  return _drawn(trained, drawing.between(first, last, count), np.zeros(count, int),
                decoding, batch_size)


def _encoded(trained: trained_lib.Trained, texts: Sequence[str]) -> np.ndarray:
  """Returns the means f32[n, Z] of the latents of drawings."""
  if not trained.run.model.latent_width:
    raise errors.UserError(
        f"{trained.workdir}: the model is a decoder alone, which reads no drawing."
        " Leave --prompts out.")
  tokenizer: Any = trained.tokenizer  # That of drawings.
  points = [tokenizer.scaled(text) for text in texts]
  # Rounded up, because each length is a program of its own.
  length = 1 << max(map(len, points)).bit_length()
  values = np.zeros((len(points), length, 2), np.float32)
  pens = np.full((len(points), length), sketch.END, np.int32)
  for i, one in enumerate(points):
    values[i, :len(one)], pens[i, :len(one)] = one[:, :2], one[:, 2]
  encode = drawing.encoder(trained.model)
  return np.asarray(encode({"params": tree.unflatten(trained.params)}, values, pens))


def _drawn(trained, latents, numbers, decoding, batch_size) -> list[np.ndarray]:
  length = decoding.max_tokens or trained.run.data.length
  draw = drawing.program(trained.model, length)
  keys = drawing.keys(decoding.seed, jnp.asarray(numbers))
  scale = trained.tokenizer.scale
  variables, found = {"params": tree.unflatten(trained.params)}, []
  for start in range(0, len(numbers), batch_size):
    # Every batch is full, so that all are of one program.
    rows = np.arange(start, start + batch_size) % len(numbers)
    offsets, pens = map(np.asarray, draw(
        variables, None if latents is None else jnp.asarray(latents)[rows], keys[rows],
        jnp.float32(decoding.temperature)))
    for i in range(min(batch_size, len(numbers) - start)):
      count = int((pens[i] != sketch.END).sum())
      found.append(np.concatenate(
          [offsets[i, :count] * scale, pens[i, :count, None]], 1).astype(np.float32))
  return found
