"""Reads the `.bin` files of llama2.c: a header of sizes, then float32 tensors.

Axes: L layers, D width, F hidden width of the MLP, H heads, G key-value heads,
K head width, V vocabulary, T positions. Leaves have the names of llama2.c's `run.c`;
those of all layers are stacked.
"""

from collections.abc import Mapping
import struct

from etils import epath
import numpy as np

from transfer_gen import errors
from transfer_gen import untrusted
from transfer_gen.formats import raw

KIND = "llama2.c checkpoint"
_MAGIC, _VERSION_1_BYTES = 0x616B3432, 256
_FIELDS = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size",
           "seq_len")


def open_file(path: epath.Path) -> raw.Raw:
  """Opens a file and reads only its header.

  The sizes in the header and `shared_classifier` become facts.

  Raises:
    errors.UserError: If the header makes no sense, the file has another size than it
      gives, or the weights are quantised.
  """
  with raw.malformed(path, KIND):
    config, start, version = _header(path)
    leaves = {}
    for name, shape in _shapes(config, version).items():
      leaves[name] = raw.Extent(path=path, offset=start, shape=raw.sizes(shape),
                                dtype=np.dtype("<f4"))
      start += leaves[name].nbytes
    # Version 0 has no magic number and no names. That the sizes add up to the file's
    # length is the only evidence that this is such a file.
    if start != path.stat().length:
      raise errors.UserError(
          f"its header asks for {start} bytes, and it has {path.stat().length}. If it"
          " is a PyTorch file, save it again as safetensors.")
  return raw.Raw(path, KIND, leaves, config)


def _header(path: epath.Path) -> tuple[dict[str, int | bool], int, int]:
  """Returns the sizes, where the tensors begin, and the version."""
  with untrusted.opened(path) as file:
    head = file.read(_VERSION_1_BYTES)
  # Version 0 begins with the width, which is never as large as the magic number
  # (`ak42`, read as an integer) of later versions.
  version, at = 0, 0
  if head[:4] == struct.pack("<I", _MAGIC):
    version, at = struct.unpack_from("<i", head, 4)[0], 8
  if version not in (0, 1):
    raise errors.UserError(
        f"it is of version {version}, whose weights are quantised. Export it again with"
        " --version=1.")
  config = dict(zip(_FIELDS, struct.unpack_from("<7i", head, at)))
  # Version 0 marks an output kernel of its own by a negative vocabulary.
  config["shared_classifier"] = (
      bool(head[at + 28]) if version else config["vocab_size"] > 0)
  config["vocab_size"] = abs(config["vocab_size"])
  for name, size in config.items():
    if size <= 0 and name != "shared_classifier":
      raise errors.UserError(f"its header gives {name}={size}.")
  for size, heads in (("dim", "n_heads"), ("n_heads", "n_kv_heads")):
    if config[size] % config[heads]:
      raise errors.UserError(f"its header gives {size}={config[size]} and"
                             f" {heads}={config[heads]}, which does not divide it.")
  return config, _VERSION_1_BYTES if version else 28, version


def _shapes(config: Mapping[str, int], version: int) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of the tensors in the order of the file."""
  d, f, n, h, g, v, t = (config[name] for name in _FIELDS)
  k = d // h
  order: dict[str, tuple[int, ...]]
  norms = {"rms_att_weight": (n, d), "rms_ffn_weight": (n, d)}
  table: dict[str, tuple[int, ...]] = {"token_embedding_table": (v, d)}
  attention = {"wq": (n, h * k, d), "wk": (n, g * k, d), "wv": (n, g * k, d),
               "wo": (n, d, h * k)}
  mlp = {"w1": (n, f, d), "w2": (n, d, f), "w3": (n, f, d)}
  final = {"rms_final_weight": (d,)}
  if version:
    # Version 1 writes all norms before the matrices, and no rotary tables; version 0
    # keeps the order in which the model uses them.
    order = norms | final | table | attention | mlp
  else:
    order = {**table, "rms_att_weight": (n, d), **attention,
             "rms_ffn_weight": (n, d), **mlp, **final,
             "freq_cis_real": (t, k // 2), "freq_cis_imag": (t, k // 2)}
  return order if config["shared_classifier"] else order | {"wcls": (v, d)}
