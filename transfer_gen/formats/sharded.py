"""Reads checkpoints in several files with an index, as Hugging Face saves them."""

from collections.abc import Callable

from etils import epath

from transfer_gen import errors
from transfer_gen.formats import raw


def open_index(
    path: epath.Path, open_file: Callable[[epath.Path], raw.Raw]) -> raw.Raw:
  """Opens the files that an index names; each leaf comes from the file given for it.

  Args:
    path: `*.index.json`, {"weight_map": {leaf: file beside it}}.
    open_file: Opens one of these files.

  Raises:
    errors.UserError: If a file is missing or malformed, or index and files disagree.
  """
  with raw.malformed(path, "index"):
    index = raw.read_json(path)
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places:
      raise errors.UserError("it has no weight_map.")
    # Each file once, in the order of the index, which gives the leaves a stable order.
    names = dict.fromkeys(map(_plain, places.values()))
    files = {name: open_file(raw.beside(path.parent, name)) for name in names}
    leaves = {name: leaf for file in files.values()
              for name, leaf in file.leaves.items()}
    # Index and files are compared in both directions: a leaf in another file than the
    # index says is a sign that files of two downloads are mixed. A leaf that is in none
    # may be a second name of another one; if a map reads it, it will be missed.
    places = {name: place for name, place in places.items()
              if name in leaves}
    for name, place in places.items():
      if name not in files[place].leaves:
        raise errors.UserError(f"{name} is not in {place}, as it says. Fetch both.")
    unlisted = {(f, n) for f, file in files.items() for n in file.leaves
                if places.get(n) != f}
    if unlisted:
      file, name = min(unlisted)
      raise errors.UserError(f"{name} of {file} is not in it. Fetch both.")
  kind = next(iter(files.values())).kind
  return raw.Raw(path, f"{len(files)} of {kind}s", leaves,
                 {"metadata": index.get("metadata", {})})


def _plain(name) -> str:
  if not isinstance(name, str):
    raise errors.UserError(f"{str(name)[:100]!r} is no file name.")
  return name
