"""The textgenrnn model that computes what a recurrent model of ours does.

It gives the layers and the shapes of their weights as Keras 2 saved them. The map that
reads such files, `textgenrnn`, gives where each weight comes from.
"""

from collections.abc import Mapping
from typing import Any

from etils import epath

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.maps import architecture
from transfer_gen.maps import keras_out
from transfer_gen.maps import textgenrnn

NAME = "textgenrnn"
# What trains a model and not what it computes; what cells of another kind read.
_UNREAD = ("init", "remat", "dense_activation", "reset_after", "encoder_length",
           "encoder_vocab_size", "start_token", "encoder_marks")


def has(model: config_lib.Recurrent) -> bool:
  """Returns whether textgenrnn can hold a model that Keras 3's layers cannot."""
  return bool(model.window) and (model.attention or model.gate == "hard_sigmoid")


def config(model: config_lib.Recurrent) -> dict[str, Any]:
  """Returns the contents of `textgenrnn_config.json` beside the weights."""
  return {
      "rnn_layers": model.num_layers, "rnn_size": model.hidden_width,
      "rnn_bidirectional": model.bidirectional, "max_length": model.window,
      "max_words": 10_000, "dim_embeddings": model.embed_width, "word_level": False,
      "single_text": False, "name": NAME}


def vocabulary(tokens: tuple[bytes, ...], roles: Mapping[str, int]) -> dict[str, int]:
  """Returns the contents of `textgenrnn_vocab.json`; {} if it cannot hold them.

  Keras's tokenizer numbers tokens from 1: each row from 1 to V - 1 has one entry, which
  is a character or the token that begins and ends a text.
  """
  mark = roles.get("bos")
  found = {token.decode(): i for i, token in enumerate(tokens) if token}
  # textgenrnn has one token that both begins and ends a text.
  if mark is None or mark != roles.get("eos"):
    return {}
  found[textgenrnn.META] = mark
  return found if set(found.values()) == set(range(1, len(tokens))) else {}


def layers(model: config_lib.Recurrent) -> dict[str, dict[str, tuple[int, ...]]]:
  """Returns shapes of weights by layer and name, in the order of the file."""
  units, width, ways = model.hidden_width, model.embed_width, 1 + model.bidirectional
  # The first version names its only layer `rnn`; later ones count from 1.
  cells = [f"rnn_{i + 1}" for i in range(model.num_layers)] if model.attention else [
      "rnn"] * model.num_layers
  found: dict[str, dict[str, tuple[int, ...]]] = {
      "input": {}, "embedding": {"embeddings": (model.vocab_size, width)}}
  total = width
  for name in cells:
    found[name] = {
        f"{way}{leaf}": shape
        for way in (("forward_lstm/", "backward_lstm/") if ways == 2 else ("",))
        for leaf, shape in (
            ("kernel", (width, 4 * units)), ("recurrent_kernel", (units, 4 * units)),
            ("bias", (4 * units * (1 + model.recurrent_bias),)))}
    width = units * ways
    total += width
  if model.attention:
    found |= {"rnn_concat": {}, "attention": {"attention_W": (total, 1)}}
  found["output"] = {"kernel": (total if model.attention else width, model.vocab_size),
                     "bias": (model.vocab_size,)}
  return found


def contents(
    path: epath.Path, model: config_lib.Recurrent
) -> tuple[architecture.Raw, architecture.Architecture]:
  """Plans a file to write: names and shapes of its weights, and its config.

  Args:
    path: Where it will be.
    model: What it must compute.

  Returns:
    The checkpoint, without arrays, and the map that reads it.

  Raises:
    errors.UserError: If textgenrnn cannot compute the same; the message lists the
      fields.
  """
  shapes = {f"{layer}/{name}": shape for layer, found in layers(model).items()
            for name, shape in found.items()}
  raw, wrong = keras_out.planned(path, shapes, {}, textgenrnn.MAP, model, _UNREAD)
  if wrong:
    raise errors.UserError(f"No textgenrnn computes this one: {'; '.join(wrong)}.")
  return raw, textgenrnn.MAP
