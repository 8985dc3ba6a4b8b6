"""Recurrent models: embedding, cells, an optional dense layer, output.

Axes: B batch, T position, S position in what an encoder reads, W window, K branches, D
embedding width, U hidden width, F dense width, V vocabulary. Between embedding and
output all is time-major.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from transfer_gen import config as config_lib
from transfer_gen.config import names
from transfer_gen.models import cells
from transfer_gen.models import layers
from transfer_gen.models import recurrent_config
from transfer_gen.models import recurrent_layers

# GELU is the tanh approximation, as in the decoder.
_ACTIVATIONS = {"relu": nn.relu, "tanh": jnp.tanh, "sigmoid": nn.sigmoid,
                "gelu": nn.gelu, "linear": lambda x: x}

constants = recurrent_config.constants

# Of fixed size, whatever the length of the text: what a Transformer's cache is not.
Cache = dict[str, Any]


class Recurrent(nn.Module):
  """Tokens to logits of the next token.

  Attributes:
    config: The model's config, with `vocab_size` set.

  Params: embed (if it has a width), layer_0 ..., attention and encoder (if there is
  one), dense (if it has a width), head (with a tied table at most its bias).
  """
  config: config_lib.Recurrent

  # `top` lists what the next layer reads, by part, axis and size. A layer above makes
  # one kernel for each entry, so that each kernel has one logical axis to grow along.
  def setup(self) -> None:
    """Creates the submodules and params."""
    config = self.config
    recurrent_config.check(config)
    if config.embed_width:
      self.embed = layers.Embed(
          config.vocab_size, config.embed_width,
          dtype=layers.computation_dtype(config.dtype))
    self.blocks = _stack(config, config.vocab_size)
    self.dropout = nn.Dropout(config.dropout)
    self.embed_dropout = nn.Dropout(config.embed_dropout)
    self.output_dropout = nn.Dropout(config.output_dropout, broadcast_dims=(1,))
    if config.encoder:
      self.encoder = Encoder(config)
    top = self.blocks[-1].outputs()
    if config.attention:
      top = (recurrent_layers.Input("embed", "embed", config.embed_width), *(
          part for i, block in enumerate(self.blocks)
          for part in block.outputs(names.layer(i))))
      self.attention = recurrent_layers.Average(top)
    if config.dense_width:
      self.dense = recurrent_layers.Affine(top, config.dense_width, "mlp", config)
      top = (recurrent_layers.Input("", "mlp", config.dense_width),)
    self.head = _output(config, top)

  def __call__(
      self, inputs: jax.Array, train: bool = False,
      encoder_inputs: jax.Array | None = None,
      encoder_counts: jax.Array | None = None,
      positions: jax.Array | None = None,
  ) -> jax.Array:
    """Reads whole rows, each from an empty state or the state after its encoder input.

    Args:
      inputs: i32[B, T]. Shorter rows are padded on the right; since no position sees
        later ones, padding changes no logits before it.
      train: Whether dropout acts; it draws from the key `dropout`.
      encoder_inputs: For models with an encoder: i32[B, S], padded on the right.
      encoder_counts: i32[B], in [0, S]: the number of each row's encoder inputs that
        are not padding. If None, S.
      positions: i32[B, T], for rows that hold several documents: the number of inputs
        before each one that belong to the same document. Each document is read from an
        empty state. If None, each row is one document.

    Returns:
      Logits dtype[B, T, V].
    """
    if self.config.window:
      return self._by_windows(inputs, train, positions)
    carries = [None] * len(self.blocks)
    if self.config.encoder:
      carries = self._encoded(encoder_inputs, encoder_counts, train)
    begins = None if positions is None else positions.T == 0  # [T, B]
    top, seen = self._read(inputs.T, train, carries, begins)
    if self.config.attention:
      start = recurrent_layers.nothing_averaged(
          self.attention.inputs, inputs.shape[0])
      _, top = self.attention.extend(
          seen, jnp.ones(inputs.T.shape, bool), start, begins)
    return self._logits(
        {name: x.swapaxes(0, 1) for name, x in top.items()}, train)

  def encode(
      self, encoder_inputs: jax.Array, encoder_counts: jax.Array, length: int) -> Cache:
    """Reads encoder inputs and returns the cache with which an answer begins.

    Args:
      encoder_inputs: i32[B, S], padded on the right.
      encoder_counts: i32[B], in [0, S]: the number of each row's encoder inputs that
        are not padding.
      length: Number of later inputs; ignored, since a state has a fixed size.
    """
    del length
    carries = self._encoded(encoder_inputs, encoder_counts, train=False)
    return {"position": jnp.zeros(encoder_inputs.shape[:1], jnp.int32),
            **{names.layer(i): carry for i, carry in enumerate(carries)}}

  def init_cache(self, batch: int, length: int) -> Cache:
    """Returns an empty cache for `extend`.

    Args:
      batch: B.
      length: Number of later inputs; ignored, since a state has a fixed size.

    Returns:
      `position` i32[B], the number of tokens of each row; for each layer its carry, h
      dtype[B, U] and in an LSTM also c; and what the attention keeps. A model with a
      window keeps `window` i32[B, W] instead, the last tokens.
    """
    del length
    config = self.config
    cache: Cache = {"position": jnp.zeros((batch,), jnp.int32)}
    if config.window:
      return cache | {"window": jnp.full(
          (batch, config.window), config.pad_token, jnp.int32)}
    dtype = layers.computation_dtype(config.dtype)
    states = cells.KINDS[config.cell].states
    for i, width in enumerate(config.widths):
      cache[names.layer(i)] = (jnp.zeros((batch, width), dtype),) * states
    if config.attention:
      cache["attention"] = recurrent_layers.nothing_averaged(
          self.attention.inputs, batch)
    return cache

  # With a window, each row's last W tokens begin at its count, behind the tokens that
  # fall out of the window and before the row's padding.
  def extend(
      self, inputs: jax.Array, counts: jax.Array, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    """Reads the next tokens of each row, a prompt or a single one.

    Args:
      inputs: i32[B, T], padded on the right.
      counts: i32[B], in [1, T]: the number of each row's inputs that are not padding.
      cache: The cache of what was read before.

    Returns:
      Logits dtype[B, V] after each row's last token, and the cache that follows.
    """
    kept: Cache = {"position": cache["position"] + counts}
    if self.config.window:
      tokens = jnp.concatenate([cache["window"], inputs], axis=1)
      last = jnp.arange(self.config.window, dtype=jnp.int32)[None] + counts[:, None]
      kept["window"] = jnp.take_along_axis(tokens, last, axis=1)
      return self._after_window(kept["window"], train=False), kept
    steps = jnp.arange(inputs.shape[1], dtype=jnp.int32)
    valid = steps[:, None] < counts[None]  # [T, B]
    x = self._embedded(inputs.T)
    seen = {"embed": x[""]}
    for i, block in enumerate(self.blocks):
      name = names.layer(i)
      kept[name], x = block.extend(x, valid, cache[name])
      seen[name] = x[""]
    if self.config.attention:
      kept["attention"], x = self.attention.extend(seen, valid, cache["attention"])
    # The carry stood still after a row's last token, and so did its output.
    return self._logits({name: y[-1] for name, y in x.items()}, train=False), kept

  def lengthen(self, cache: Cache, slots: int) -> Cache:
    """Returns the cache as it is, since a state has a fixed size."""
    del slots
    return cache

  def fork(self, cache: Cache, branches: int) -> Cache:
    """Returns a cache whose rows branch into K texts, with states dtype[B, K, ...]."""
    return jax.tree.map(lambda x: jnp.repeat(x[:, None], branches, axis=1), cache)

  def branch(
      self, tokens: jax.Array, parents: jax.Array, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    """Reads the next token of each of the texts into which a row branches.

    Args:
      tokens: i32[B, K].
      parents: i32[B, K], the branch whose text each of them continues.
      cache: What `fork` or the last `branch` returned.

    Returns:
      Logits dtype[B, K, V], and the cache that follows.
    """
    def continued(x):
      return jax.vmap(lambda row, index: row[index])(x, parents).reshape(
          -1, *x.shape[2:])

    logits, kept = self.extend(
        tokens.reshape(-1, 1), jnp.ones(tokens.size, jnp.int32),
        jax.tree.map(continued, cache))
    return logits.reshape(*tokens.shape, -1), jax.tree.map(
        lambda x: x.reshape(*tokens.shape, *x.shape[1:]), kept)

  # Without an embedding, tokens stay whole numbers: the product of a one-hot vector
  # with a kernel is a row of it, which the cell looks up.
  def _embedded(self, tokens, train=False):
    return _embedded(self, self.config.vocab_size, tokens, train)

  def _read(self, tokens, train, carries, begins=None):
    """i32[T, B] to the outputs of the last layer, and those of all by name."""
    x = self._embedded(tokens, train)
    seen = {"embed": x[""]}
    for i, (block, carry) in enumerate(zip(self.blocks, carries)):
      x = block(x, train, carry, begins)
      seen |= {out.part: part for out, part in zip(
          block.outputs(names.layer(i)), x.values())}
    return x, seen

  # Each window starts from an empty state, so neighbors share nothing, and T windows of
  # W tokens cost W times as much as one pass. They are rows of one batch.
  def _by_windows(self, inputs, train, positions):
    """Predicts every position from its own window, all windows at once."""
    width, (batch, length) = self.config.window, inputs.shape
    tokens = jnp.pad(inputs, ((0, 0), (width - 1, 0)),
                     constant_values=self.config.pad_token)
    index = jnp.arange(length)[:, None] + jnp.arange(width)[None]  # [T, W]
    windows = tokens[:, index]  # [B, T, W]
    if positions is not None:
      # The last place of a window is its own position, and what is further back than
      # the document's beginning belongs to another one.
      distances = jnp.arange(width - 1, -1, -1)[None, None]
      windows = jnp.where(
          distances <= positions[..., None], windows, self.config.pad_token)
    logits = self._after_window(windows.reshape(-1, width), train)
    return logits.reshape(batch, length, -1)

  # The backward cell ends at the first token of a window, so the state that has seen
  # all of it stands there, and that of the forward cell at the last.
  def _after_window(self, tokens, train):
    """i32[B, W] to logits dtype[B, V] of what follows."""
    top, seen = self._read(tokens.T, train, [None] * len(self.blocks))
    if self.config.attention:
      return self._logits(self.attention(seen), train)
    return self._logits({
        name: x[0 if name == recurrent_layers.BACKWARD else -1]
        for name, x in top.items()}, train)

  def _encoded(self, encoder_inputs, counts, train):
    recurrent_config.check_encoder(encoder_inputs)
    if counts is None:
      counts = jnp.full(encoder_inputs.shape[:1], encoder_inputs.shape[1], jnp.int32)
    return self.encoder(encoder_inputs, counts, train)

  # Dropout acts on what a layer reads, the dense layer and the output included, as in
  # `recurrent_layers.Layer`.
  def _logits(self, parts, train):
    drop = lambda parts: {
        name: self.dropout(x, deterministic=not train) for name, x in parts.items()}
    if self.config.dense_width:
      x = self.dense(drop(parts))
      parts = {"": _ACTIVATIONS[self.config.dense_activation](x)}
    parts = {name: self._locked(x, train) for name, x in drop(parts).items()}
    if not self.config.tied:
      return self.head(parts)
    logits = self.embed.attend(parts[""])
    return self.head(logits) if self.head else logits

  # A window is read for one prediction: its output has no positions to share a mask.
  def _locked(self, x, train):
    rows = x if x.ndim == 3 else x[:, None]
    return self.output_dropout(rows, deterministic=not train).reshape(x.shape)


class Encoder(nn.Module):
  """Maps encoder inputs to the states after them.

  Attributes:
    config: Of the model.

  Params: embed (if it has a width), layer_0 ....
  """
  config: config_lib.Recurrent

  def setup(self) -> None:
    """Creates the submodules and params."""
    config = self.config
    size = config.encoder_tokens
    if config.embed_width:
      self.embed = layers.Embed(
          size, config.embed_width, dtype=layers.computation_dtype(config.dtype))
    self.embed_dropout = nn.Dropout(config.embed_dropout)
    self.blocks = _stack(config, size, ways=1 + config.bidirectional)

  def __call__(
      self, encoder_inputs: jax.Array, counts: jax.Array, train: bool
  ) -> list[cells.Carry]:
    """Reads encoder inputs.

    Args:
      encoder_inputs: i32[B, S], padded on the right.
      counts: i32[B]: how many of a row's are no padding; up to `encoder_length`,
        `pad_token` is read in its place.
      train: Whether dropout acts.

    Returns:
      A layer, its carry, dtype[B, U] each.
    """
    config = self.config
    # Some published encoders were trained without a mask and have read their padding.
    # Up to `encoder_length` it is read here too, and beyond that never.
    more = max(0, config.encoder_length - encoder_inputs.shape[1])
    tokens = jnp.pad(encoder_inputs, ((0, 0), (0, more))).T  # [S, B]
    steps = jnp.arange(tokens.shape[0], dtype=jnp.int32)[:, None]
    tokens = jnp.where(steps < counts[None], tokens, config.pad_token)
    valid = steps < jnp.maximum(counts, config.encoder_length)[None]
    x, carries = _embedded(self, config.encoder_tokens, tokens, train), []
    for block in self.blocks:
      carry, x = block.summarize(x, valid, train)
      carries.append(carry)
    return carries


# A tied table is the kernel already, and only what it lacks becomes a module.
def _output(config, top) -> Any:
  """Returns the output layer: a kernel, or with a tied table at most a bias."""
  if config.tied:
    return layers.Bias(config.vocab_size, "vocab") if config.bias else None
  return recurrent_layers.Affine(top, config.vocab_size, "vocab", config)


# A token that is dropped is dropped wherever it stands, as if its row of the table were
# zeros (Merity et al., 2018, section 4.3). A tied output still reads the whole table.
def _embedded(module, size, tokens, train):
  """Returns what the first layer of a module reads for i32[...], as its parts."""
  if not module.config.embed_width:
    return {"": tokens}
  x = module.embed(tokens)
  if train and module.config.embed_dropout:
    kept = module.embed_dropout(jnp.ones((size,), x.dtype), deterministic=False)
    x *= jnp.take(kept, tokens, mode="clip")[..., None]
  return {"": x}


# An encoder with two ways halves its cells, because the two states together begin the
# decoder's, which has the full width.
def _stack(config, vocab_size, ways=1):
  """Returns the layers; each reads the outputs of the one below it."""
  both = ways == 2 or (config.bidirectional and not config.encoder)
  inputs = (recurrent_layers.Input("", "embed", config.embed_width),)
  if not config.embed_width:
    inputs = (recurrent_layers.Input("", "vocab", vocab_size),)
  blocks = []
  for i, width in enumerate(config.widths):
    blocks.append(recurrent_layers.Layer(
        config, inputs, width // ways, both, name=names.layer(i)))
    inputs = blocks[-1].outputs()
  return blocks
