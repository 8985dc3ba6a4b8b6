"""Special and added tokens, as the files beside a tokenizer name them.

Hugging Face Transformers keeps them apart from a vocabulary: their names by role stand
in `tokenizer_config.json` or `special_tokens_map.json`, the ids of what was added later
in the former or in `added_tokens.json`, and ids by role in the model's `config.json`.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import re
from typing import Any

from etils import epath

from transfer_gen import errors
from transfer_gen import sealed
from transfer_gen import untrusted

CONFIG = "tokenizer_config.json"
MAP = "special_tokens_map.json"
ADDED = "added_tokens.json"
_MODEL = "config.json"
exists = sealed.exists
# BERT names the tokens around a text cls and sep.
_FIELDS = {"pad": ("pad",), "bos": ("bos", "cls"), "eos": ("eos", "sep"),
           "sep": ("sep",), "unk": ("unk",)}
_MORE = ("additional_special_tokens", "extra_special_tokens")
_EXTRA = re.compile(r"<extra_id_(\d+)>")  # T5's, numbered down to the last of its ids.
_LARGEST_ID = 2**24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named:
  """What files beside a tokenizer say.

  Attributes:
    roles: By role its token, spelled or as an id; None if there is to be none. A role
      of which nothing is said is missing.
    added: Ids of tokens that need not be in the vocabulary, by their spelling.
    special: Spellings of special tokens.
  """
  roles: Mapping[str, str | int | None]
  added: Mapping[str, int]
  special: frozenset[str]

  def within(self, rows: int) -> "Named":
    """Returns the same without added tokens whose id is `rows` or more."""
    return dataclasses.replace(self, added={
        name: row for name, row in self.added.items() if row < rows})

  def resolved(self, usual: Mapping[str, int], special: Mapping[str, int]
               ) -> dict[str, int]:
    """Returns the ids of roles.

    Args:
      usual: What holds for roles of which nothing is said.
      special: Ids of special tokens by their spelling.
    """
    found = dict(usual)
    for role, token in self.roles.items():
      # An id may be no more than the default of a config's class.
      row = special.get(token) if isinstance(token, str) else token
      if row is not None and row in special.values():
        found[role] = row
      elif token is None:
        found.pop(role, None)
    # GPT-2 calls its end of text unknown too, and writes it for nothing unknown.
    if found.get("unk") in {row for role, row in found.items() if role != "unk"}:
      del found["unk"]
    return found


def read(folder: epath.Path) -> Named:
  """Reads the files that a folder has of those named above.

  Raises:
    errors.UserError: If one of them holds something else.
  """
  config, named, added, model = (
      read_json(folder / name) for name in (CONFIG, MAP, ADDED, _MODEL))
  decoder = config.get("added_tokens_decoder") or {}
  ids = {**{_content(token): row for row, token in decoder.items()}, **added}
  special = {_content(token) for token in decoder.values() if token.get("special")}
  for fields in (config, named):
    special |= {_content(value) for name, value in fields.items()
                if name.endswith("_token")}
    for name in _MORE:
      more = fields.get(name) or ()
      special |= set(map(_content, more.values() if isinstance(more, dict) else more))
  return Named(
      roles=_roles(config, named, model),
      added={str(name): _id(row, folder) for name, row in ids.items()},
      special=frozenset(filter(None, special)))


def extra_ids(special: Iterable[str], size: int) -> dict[str, int]:
  """Returns the ids of T5's `<extra_id_0>` and so on, by their spelling.

  They come after the pieces, the number 0 last (Raffel et al., 2020, whose code counts
  them so).

  Args:
    special: Spellings of special tokens.
    size: Number of pieces.
  """
  numbers = [int(found[1]) for found in map(_EXTRA.fullmatch, special) if found]
  return {f"<extra_id_{n}>": size + max(numbers) - n for n in numbers}


def read_json(path: epath.Path) -> dict[str, Any]:
  """Returns the object in a file; an empty one if there is no such file.

  Raises:
    errors.UserError: If the file holds anything else.
  """
  if not sealed.exists(path):
    return {}
  value = sealed.read_json(path)
  if not isinstance(value, dict):
    raise errors.UserError(f"{path}: it holds no JSON object.")
  return value


def check_saved(saved: Mapping[str, Any]) -> None:
  """Checks the types of what was saved with a tokenizer of this package.

  Raises:
    ValueError: If a field holds something else, or an id is out of range.
  """
  for field in ("roles", "added"):
    ids = saved.get(field)
    if ids is not None and not (isinstance(ids, dict) and all(
        type(row) is int and 0 <= row < _LARGEST_ID for row in ids.values())):
      raise ValueError(f"its {field} are no ids of tokens")
  sentinels = saved.get("sentinels", 1)
  if type(sentinels) is not int or not 0 < sentinels < _LARGEST_ID:
    raise ValueError("its sentinels are no number of tokens")
  special = saved.get("special", [])
  if not isinstance(special, list) or not all(isinstance(s, str) for s in special):
    raise ValueError("its special tokens are no list of texts")


def read_text(path: epath.Path) -> str:
  """Returns the text of a file of a tokenizer's folder, in UTF-8.

  Raises:
    errors.UserError: If it is none, too large, or a link out of the folder.
  """
  data = sealed.read(path)
  try:
    return untrusted.decoded(data)
  except UnicodeDecodeError as error:
    raise errors.UserError(f"{path}: not UTF-8 ({error}). Fetch it again.") from error


def read_bytes(path: epath.Path) -> bytes:
  """Returns the bytes of a file of a tokenizer's folder; raises as `read_text`."""
  return sealed.read(path)


def _roles(config, named, model) -> dict[str, str | int | None]:
  found: dict[str, str | int | None] = {}
  for role, fields in _FIELDS.items():
    said = [_content(file[f"{field}_token"]) for field in fields
            for file in (config, named) if f"{field}_token" in file]
    row = model.get(f"{role}_token_id")
    row = row[0] if isinstance(row, list) and row else row
    if said:
      found[role] = next(filter(None, said), None)
    elif type(row) is int and row >= 0:  # For `isinstance`, True is an int.
      found[role] = row
  return found


def _content(token: Any) -> str | None:
  """Returns the spelling of a token, which stands alone or among settings."""
  spelled = token.get("content") if isinstance(token, dict) else token
  return spelled if isinstance(spelled, str) else None


def _id(row: Any, folder: epath.Path) -> int:
  found = int(row) if str(row).isdecimal() else -1
  if not 0 <= found < _LARGEST_ID:
    raise errors.UserError(f"{folder}: the id of an added token is {str(row)[:40]!r}.")
  return found
