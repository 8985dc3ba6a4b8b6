"""What `data.train` and its neighbors name: paths, patterns, pairs and mixtures.

    corpus.txt                     a file
    corpora/*.jsonl                the files that match, sorted
    a.csv, b.csv                   several
    corpus.en|corpus.de            two line-aligned files
    corpora.zip                    the text members of an archive
    corpora.zip/train.tsv          one of them
    a.txt*0.3 + b.txt*0.7          a mixture with shares

What exists under its whole name is that file, whatever characters are in the name.
"""

import os
import pathlib
import re

from etils import epath

from transfer_gen import errors
from transfer_gen import remote
from transfer_gen import untrusted
from transfer_gen.data.readers import blobs

_WEIGHTED = re.compile(r"(.+?)\s*\*\s*(\d+\.?\d*|\.\d+)")
_WILD = set("*?[")


def mixture(paths: str, field: str) -> list[tuple[str, float]]:
  """Returns the parts of a mixture with their shares, which add up to 1.

  Paths without shares are one part.

  Raises:
    errors.UserError: If only some parts have a share, or all shares are 0.
  """
  pieces = [piece.strip() for piece in paths.split(" + ")]
  found = [_WEIGHTED.fullmatch(piece) for piece in pieces]
  named = any(" + " in item and _exists(item) for item in items(paths))
  if named or not (pieces[1:] and any(found)):
    return [(paths, 1.0)]
  if without := [piece for piece, match in zip(pieces, found) if not match]:
    raise errors.UserError(
        f"data.{field}: `{without[0]}` has no share. Write the mixture as"
        " `a.txt*0.3 + b.txt*0.7`.")
  shares = [float(match[2]) for match in found if match]
  if not all(shares):
    raise errors.UserError(
        f"data.{field}: a share is 0. Leave that part out, or give a share above 0.")
  return [(match[1], share / sum(shares))
          for match, share in zip(found, shares) if match]


def items(paths: str) -> list[str]:
  """Returns what commas separate, without blanks around it."""
  return _joined(paths, ",")


def sides(item: str) -> list[str]:
  """Returns what `|` separates: one path, or the two of line-aligned files."""
  return _joined(item, "|")


def expand(item: str, field: str) -> list[blobs.Blob]:
  """Returns the files that a path or a pattern names, sorted.

  Raises:
    errors.UserError: If there is none.
  """
  remote.check(item)
  path = epath.Path(item).expanduser()
  if path.is_file():
    return _opened(path)
  if path.exists() and not path.is_dir():
    untrusted.check(path)
  archive = _archive(path)
  if archive is not None:
    return blobs.members(archive, path.relative_to(archive).as_posix())
  return [blob for found in _glob(path, item, field) for blob in _opened(found)]


def _joined(text: str, separator: str) -> list[str]:
  """Splits a text, but leaves names of existing files whole."""
  parts, found = text.split(separator), []
  while parts:
    # The longest name first: `a,b.txt` may exist beside `b.txt`.
    count = next((n for n in range(len(parts), 1, -1)
                  if _exists(separator.join(parts[:n]))), 1)
    found.append(separator.join(parts[:count]).strip())
    parts = parts[count:]
  return [name for name in found if name]


def _exists(name: str) -> bool:
  # Other storage is not asked for each of several paths in one text: there, names have
  # no commas, bars or blanks around a plus.
  if "://" in name:
    return False
  try:
    return epath.Path(name.strip()).expanduser().is_file()
  # Names can be too long for the system, or hold characters that it refuses.
  except (OSError, ValueError):
    return False


def _archive(path: epath.Path) -> epath.Path | None:
  """Returns the zip archive that a path leads into, or None."""
  return next((above for above in path.parents
               if blobs.is_zip(above) and above.is_file()), None)


def _opened(path: epath.Path) -> list[blobs.Blob]:
  return blobs.members(path) if blobs.is_zip(path) else [blobs.Blob(path)]


def _glob(path: epath.Path, item: str, field: str) -> list[epath.Path]:
  first = next((i for i, part in enumerate(path.parts) if set(part) & _WILD
                and not epath.Path(*path.parts[:i + 1]).exists()), None)
  if first is None:
    hint = (f" It is a folder: write {item.rstrip('/')}/*.txt for the files in it."
            if path.is_dir() else " Give a path or a glob of existing files.")
    raise errors.UserError(
        f"data.{field}: there is no file {item} (in {os.getcwd()}).{hint}")
  # `glob` takes relative patterns only, so it starts at the folder before the first
  # wildcard. That of pathlib takes this folder as it is; that of etils would read it as
  # a part of the pattern, which only other storage needs.
  base = epath.Path(*path.parts[:first]) if first else epath.Path(".")
  local = base if "://" in str(base) else pathlib.Path(base)
  found = sorted(epath.Path(p) for p in local.glob(
      "/".join(path.parts[first:])) if p.is_file())
  if not found:
    raise errors.UserError(
        f"data.{field}: no file matches {item} (in {os.getcwd()}). Give a path or"
        " a glob of existing files.")
  # Who names a file himself may name a link. What is only found must not lead to
  # another place than the one that was named; `..` in the pattern names one above.
  root = base.joinpath(*[".."] * path.parts[first:].count(".."))
  try:
    return [untrusted.inside(one, root) for one in found]
  except errors.UserError as error:
    raise errors.UserError(
        f"data.{field}: {error} Or give its path without a pattern.") from error
