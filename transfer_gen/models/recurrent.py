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
from transfer_gen.models import averages
from transfer_gen.models import encoder_attention
from transfer_gen.models import latent as latent_lib
from transfer_gen.models import recurrent_encoder

# GELU is the tanh approximation, as in the decoder.
_ACTIVATIONS = {"relu": nn.relu, "tanh": jnp.tanh, "sigmoid": nn.sigmoid,
                "gelu": nn.gelu, "linear": lambda x: x}

# Of fixed size, whatever the length of the text: what a Transformer's cache is not.
Cache = dict[str, Any]
_MEMORY = encoder_attention.MEMORY

constants = recurrent_encoder.constants


class Recurrent(nn.Module):
  """Tokens to logits of the next token.

  Attributes:
    config: The model's config, with `vocab_size` set.

  Params: embed (if it has a width), layer_0 ..., attention (of either kind), encoder
  and latent (if there is one), dense (if it has a width), head (with a tied table at
  most its bias).
  """
  config: config_lib.Recurrent

  # `top` lists what the next layer reads, by part, axis and size. A layer above makes
  # one kernel for each entry, so that each kernel has one logical axis to grow along.
  def setup(self) -> None:
    """Creates the submodules and params."""
    config = self.config
    recurrent_encoder.check(config)
    self.embed: Any = recurrent_encoder.table(config, config.vocab_size)
    self.blocks = recurrent_encoder.stack(
        config, config.vocab_size, config.widths,
        both=config.bidirectional and not config.encoder,
        fed=(*encoder_attention.fed(config), *latent_lib.fed(config)),
        bridged=config.bridge != "none")
    self.dropout = nn.Dropout(config.dropout)
    self.embed_dropout = nn.Dropout(config.embed_dropout)
    self.output_dropout = nn.Dropout(config.output_dropout, broadcast_dims=(1,))
    if config.encoder:
      self.encoder = recurrent_encoder.Encoder(config)
    if config.latent_width:
      self.latent = latent_lib.Recurrent(config)
    top, attention = self.blocks[-1].outputs(), None
    if config.attention:
      top = (recurrent_encoder.Input("embed", "embed", config.embed_width), *(
          part for i, block in enumerate(self.blocks)
          for part in block.outputs(names.layer(i))))
      attention = averages.Average(top)
    if config.attends:
      top = encoder_attention.outputs(config)
      attention = encoder_attention.Attention(config)
    self.attention: Any = attention
    self.tops = tuple(read.part for read in top)
    if config.dense_width:
      self.dense = recurrent_encoder.Affine(top, config.dense_width, "mlp", config)
      top = (recurrent_encoder.Input("", "mlp", config.dense_width),)
    self.head = recurrent_encoder.output(config, top)

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
        empty state. If None, each row is one document. Not for models with an encoder,
        which reads one text for each row.

    Returns:
      Logits dtype[B, T, V].

    Raises:
      errors.UserError: If there are no encoder inputs, or positions beside them.
    """
    if self.config.window:
      return self._by_windows(inputs, train, positions)
    carries: list[Any] = [None] * len(self.blocks)
    latents = None
    if self.config.latent_width:
      recurrent_encoder.check_one_document(positions)
      latents = self.posterior(encoder_inputs, encoder_counts, train)
      carries = self.latent.start(latents)
    elif self.config.encoder:
      recurrent_encoder.check_one_document(positions)
      carries, memory = self._encoded(encoder_inputs, encoder_counts, train)
      if self.config.attends:
        top = self._attended(inputs.T, train, carries, memory)
        return self._logits(
            {name: x.swapaxes(0, 1) for name, x in top.items()}, train)
    begins = None if positions is None else positions.T == 0  # [T, B]
    top, seen = self._read(inputs.T, train, carries, begins, latents)
    if self.config.attention:
      start = averages.nothing_averaged(
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

    Returns:
      As `init_cache`, and with an attention over what was read `memory` and what its
      steps keep, see `encoder_attention.Attention`; or `latent`, see `begin`.
    """
    if self.config.latent_width:
      return self.begin(self.posterior(encoder_inputs, encoder_counts), length)
    carries, memory = self._encoded(encoder_inputs, encoder_counts, train=False)
    cache = {"position": jnp.zeros(encoder_inputs.shape[:1], jnp.int32),
             **{names.layer(i): carry for i, carry in enumerate(carries)}}
    if not self.config.attends:
      return cache
    return cache | {_MEMORY: memory, **self.attention.start(memory)}

  def encoded(
      self, encoder_inputs: jax.Array, encoder_counts: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    """Returns what the encoder gives the rest of the model, see `beginnings.Encoder`.

    Args:
      encoder_inputs: i32[B, S], padded on the right.
      encoder_counts: i32[B], as for `encode`.
      train: Whether dropout acts.

    Returns:
      See `recurrent_encoder.handed_on`.
    """
    carries, top = self.encoder(encoder_inputs, encoder_counts, train)
    return recurrent_encoder.handed_on(carries, top if self.config.attends else None)

  def posterior(
      self, encoder_inputs: jax.Array | None, encoder_counts: jax.Array | None,
      train: bool = False) -> jax.Array:
    """Returns the latent of what the encoder reads, dtype[B, Z], see `latent`."""
    tokens, counts = recurrent_encoder.counted(encoder_inputs, encoder_counts)
    found = self.encoded(tokens, counts, train)
    return self.latent(
        recurrent_encoder.carries_of(self.config, found), tokens, counts)

  def begin(self, latents: jax.Array, length: int) -> Cache:
    """Returns the cache with which the text of each latent begins.

    Args:
      latents: float[B, Z].
      length: Number of later inputs; ignored, since a state has a fixed size.

    Returns:
      As `init_cache`, and `latent` dtype[B, Z].
    """
    del length
    latents = self.latent.cast(latents)
    return {"position": jnp.zeros(latents.shape[:1], jnp.int32),
            latent_lib.NAME: latents,
            **{names.layer(i): carry
               for i, carry in enumerate(self.latent.start(latents))}}

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
    for i, carry in enumerate(recurrent_encoder.empty(config, batch)):
      cache[names.layer(i)] = carry
    if config.attention:
      cache["attention"] = averages.nothing_averaged(
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
    if self.config.attends:
      logits, after = self._extended(inputs.T, counts, cache)
      return logits, kept | after
    x = self._embedded(inputs.T, latents=cache.get(latent_lib.NAME))
    kept |= {name: cache[name] for name in cache if name == latent_lib.NAME}
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
    """Returns a cache whose rows branch into K texts, with states dtype[B, K, ...].

    What an encoder read is not repeated: all branches of a row attend to it.
    """
    forked = lambda x: jnp.repeat(x[:, None], branches, axis=1)
    return {name: kept if name == _MEMORY else jax.tree.map(forked, kept)
            for name, kept in cache.items()}

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

    memory = {name: kept for name, kept in cache.items() if name == _MEMORY}
    own = {name: kept for name, kept in cache.items() if name != _MEMORY}
    logits, kept = self.extend(
        tokens.reshape(-1, 1), jnp.ones(tokens.size, jnp.int32),
        jax.tree.map(continued, own) | memory)
    return logits.reshape(*tokens.shape, -1), memory | {
        name: jax.tree.map(lambda x: x.reshape(*tokens.shape, *x.shape[1:]), part)
        for name, part in kept.items() if name != _MEMORY}

  def _embedded(self, tokens, train=False, latents=None):
    x = recurrent_encoder.embedded(self.embed, self.embed_dropout, tokens, train)
    return x if latents is None else x | {
        latent_lib.NAME: jnp.broadcast_to(latents[None], (len(tokens), *latents.shape))}

  def _read(self, tokens, train, carries, begins=None, latents=None):
    """i32[T, B] to the outputs of the last layer, and those of all by name."""
    x = self._embedded(tokens, train, latents)
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
        name: x[0 if name == recurrent_encoder.BACKWARD else -1]
        for name, x in top.items()}, train)

  def _encoded(self, encoder_inputs, counts, train):
    """Returns each layer's first carry, and the memory; {} if nothing attends to it."""
    tokens, counts = recurrent_encoder.counted(encoder_inputs, counts)
    found = self.encoded(tokens, counts, train)
    carries = [block.first(carry) for block, carry in zip(
        self.blocks, recurrent_encoder.carries_of(self.config, found))]
    if not self.config.attends:
      return carries, {}
    top = found[recurrent_encoder.TOP]
    valid = recurrent_encoder.places(self.config, counts, top.shape[1])
    return carries, self.attention.read(top, valid)

  def _attended(self, tokens, train, carries, memory):
    """i32[T, B] to what the output reads, dtype[T, B, ...] by part."""
    if self.config.stepwise:
      x = self._embedded(tokens, train)
      _, found = self.attention.run(
          self.blocks, x, {"states": carries, **self.attention.start(memory)}, memory,
          train=train)
      return found | {"embed": x[""]}
    top, seen = self._read(tokens, train, carries)
    return self.attention(top[""], memory) | {"embed": seen["embed"]}

  # The outputs of rows that have ended are those of steps which count for nothing.
  def _extended(self, tokens, counts, cache):
    """i32[T, R] to logits dtype[R, V], and what changes in the cache."""
    valid = jnp.arange(tokens.shape[0], dtype=jnp.int32)[:, None] < counts[None]
    layers = [names.layer(i) for i in range(len(self.blocks))]
    x, memory = self._embedded(tokens), cache[_MEMORY]
    after, found = self.attention.run(
        self.blocks, x, {**cache, "states": [cache[name] for name in layers]}, memory,
        valid)
    rows = jnp.arange(tokens.shape[1])
    last = {name: part[counts - 1, rows]
            for name, part in {**found, "embed": x[""]}.items()}
    states = after.pop("states")
    return self._logits(last, train=False), {
        _MEMORY: memory, **after, **dict(zip(layers, states))}

  # Dropout acts on what a layer reads, the dense layer and the output included, as in
  # `recurrent_layers.Layer`.
  def _logits(self, parts, train):
    parts = {name: parts[name] for name in self.tops}
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
