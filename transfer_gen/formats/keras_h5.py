"""Reads Keras weights: `.h5`, `.hdf5`, `.weights.h5` and `.keras`.

Keras 2 keeps a group a layer whose attribute `weight_names` lists its weights in their
order; the names inside carry scopes and counters that say nothing. A leaf is
`<layer>/<weight>` here, e.g. `rnn_1/recurrent_kernel`. Where two weights would share
that name, more of the inner name is kept, e.g. `both/forward_lstm/kernel`.
Keras 3 numbers the weights of an object, and a leaf is its path in the file, e.g.
`layers/lstm/cell/vars/0`. State of optimisers is left out.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import re

from etils import epath
import numpy as np

from transfer_gen import errors
from transfer_gen import untrusted
from transfer_gen.formats import archive
from transfer_gen.formats import hdf5
from transfer_gen.formats import hdf5_chunks
from transfer_gen.formats import raw

KIND = "Keras file"
_WEIGHTS = "model.weights.h5"  # In a `.keras` archive.
_OPTIMIZER = "optimizer"
_DEPTH, _GROUPS = 32, 20_000
_COUNTER = re.compile(r"_\d+$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Chunked:
  """A leaf that is stored in chunks.

  Attributes:
    path: The file.
    start: Where HDF5 begins in the file, in bytes.
    dataset: The description of the array.
  """
  path: epath.Path
  start: int
  dataset: hdf5.Dataset

  @property
  def shape(self) -> tuple[int, ...]:
    """Sizes."""
    return self.dataset.shape

  @property
  def dtype(self) -> np.dtype:
    """As stored."""
    return self.dataset.dtype

  def read(self, entries: raw.Entries | None = None) -> np.ndarray:
    """Reads the whole array from its chunks."""
    with untrusted.opened(self.path) as file:
      value = hdf5_chunks.read(hdf5.File(file, self.start), self.dataset)
    value = value.astype(self.dtype.newbyteorder("="), copy=False)
    return raw.part_of(value, entries)


def open_file(path: epath.Path) -> raw.Raw:
  """Opens a file and reads only names and shapes.

  If the file holds the model's config, it becomes the fact `model_config`.

  Raises:
    errors.UserError: If it is malformed, or holds links or arrays that are not numbers.
  """
  facts, start = {}, 0
  with raw.malformed(path, KIND):
    if path.suffix.lower() == ".keras":
      found = archive.members(path)
      # HDF5 is read by address, so its bytes must lie in the archive as they are. Keras
      # does not compress them.
      if _WEIGHTS not in found or not archive.stored(found[_WEIGHTS]):
        raise errors.UserError(f"it has no {_WEIGHTS}, or a compressed one.")
      start = archive.offset(path, found[_WEIGHTS])
      if "config.json" in found:
        facts["model_config"] = raw.parse_json(
            archive.read(path, found["config.json"]))
    with untrusted.opened(path) as opened:
      file = hdf5.File(opened, start)
      if config := file.texts(file.root, "model_config"):
        facts["model_config"] = raw.parse_json(config[0].encode())
      leaves = {}
      for name, dataset in _weights(file):
        if name in leaves:
          raise errors.UserError(f"two weights are named {name}.")
        leaves[name] = _leaf(path, start, dataset)
    if not leaves:
      raise errors.UserError("it holds no weights.")
    raw.check_extents({name: leaf for name, leaf in leaves.items()
                       if isinstance(leaf, raw.Extent)})
  return raw.Raw(path, KIND, leaves, facts)


def _weights(file: hdf5.File) -> Iterator[tuple[str, hdf5.Dataset]]:
  """Yields (name, array) of each weight; those of optimisers are left out."""
  root = file.root
  top = file.links(root)
  # `model.save` puts the layers below this group; `save_weights` puts them in the root.
  if "model_weights" in top:
    root = top["model_weights"]
  # Only Keras 2 lists its layers in an attribute. Its order is that of the model, which
  # the order of the groups in the file is not.
  layers = _names(file, root, "layer_names")
  if layers is None:
    yield from _numbered(file)
    return
  # Weights that belong to the model itself and to none of its layers; Keras writes the
  # group without listing it.
  if "top_level_model_weights" in file.links(root):
    layers.append("top_level_model_weights")
  for layer in layers:
    group = _below(file, root, layer)
    names = _names(file, group, "weight_names")
    if names is None:
      raise errors.UserError(f"layer {layer} has no weight_names.")
    for name, short in zip(names, _shortened(names)):
      dataset = file.dataset(_below(file, group, name))
      if dataset is None:
        raise errors.UserError(f"{name} of layer {layer} is no array.")
      yield f"{layer}/{short}", dataset


def _numbered(file: hdf5.File) -> Iterator[tuple[str, hdf5.Dataset]]:
  """Yields (path, array) of a Keras 3 file in the order of their numbers."""
  ahead, seen = [("", file.root)], 0
  while ahead:
    path, address = ahead.pop()
    seen += 1
    # Hard links may lead back to a group above, so the walk needs an end of its own.
    if path.count("/") > _DEPTH or seen > _GROUPS:
      raise errors.UserError("its groups hold themselves.")
    dataset = file.dataset(address) if path else None
    if dataset is not None:
      yield path, dataset
      continue
    links = file.links(address)
    # Weights are numbered, and 10 comes after 9 by number but not as text. Reversed,
    # because the stack is popped from its end.
    for key in sorted(links, key=_ordinal, reverse=True):
      name = f"{path}/{key}" if path else key
      if name != _OPTIMIZER:
        ahead.append((name, links[key]))


def _ordinal(key: str) -> tuple[int, str]:
  # Long digits stay text: they are no number of a weight, and parsing them is slow.
  return (int(key) if key.isdecimal() and len(key) < 10 else -1, key)


def _shortened(names: Sequence[str]) -> list[str]:
  """Returns the shortest endings by which a layer's weights still differ."""
  # TensorFlow ends names with the output of an operation, as in `kernel:0`.
  parts = [name.split(":")[0].split("/") for name in names]
  # Counters depend on what else the process had built before it saved the model
  # (`lstm_3`), so they are kept only where nothing else differs.
  plain = [[*(_COUNTER.sub("", p) for p in part[:-1]), part[-1]] for part in parts]
  for count in range(1, max(map(len, parts), default=1) + 1):
    for candidate in (plain, parts):
      short = ["/".join(part[-count:]) for part in candidate]
      if len(set(short)) == len(short):
        return short
  raise errors.UserError(f"two weights are named {max(names, key=names.count)}.")


def _names(file: hdf5.File, group: int, attribute: str) -> list[str] | None:
  """Returns a list of names, which may be split over several attributes."""
  whole = file.texts(group, attribute)
  if whole is not None:
    return whole
  found = []
  # An attribute holds 64 KiB at most, so Keras splits a longer list into
  # `layer_names0`, `layer_names1` and so on.
  while (part := file.texts(group, f"{attribute}{len(found)}")) is not None:
    found.append(part)
  return [name for names in found for name in names] if found else None


def _below(file: hdf5.File, group: int, path: str) -> int:
  """Returns the address of an object at a path below a group."""
  for key in path.split("/"):
    links = file.links(group)
    if key not in links:
      raise errors.UserError(f"{path[:100]} is listed and missing.")
    group = links[key]
  return group


def _leaf(path: epath.Path, start: int, dataset: hdf5.Dataset) -> raw.Leaf:
  if dataset.offset is None:
    return _Chunked(path=path, start=start, dataset=dataset)
  return raw.Extent(path=path, offset=dataset.offset, shape=dataset.shape,
                    dtype=dataset.dtype)
