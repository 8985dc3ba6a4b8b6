r"""Tokenizers from plain lists of tokens, as people keep them beside a model.

A file holds one of these, in UTF-8:

- a JSON object from each token to its id, such as `word_index` of Keras or textgenrnn's
  `<stem>_vocab.json`; ids may have gaps;
- what `Tokenizer.to_json` of Keras returned;
- a JSON list of tokens; an id is a position, and "" stands for a row without text;
- a text file with one token in each line, likewise;
- a pickle of a plain list of tokens, as fastai keeps its `itos`, which runs no code;
- a JSON object with the list or object as `tokens` and, where they do not follow from
  it, `roles`, e.g. `{"bos": "\t", "eos": "\n"}`, and `length`: the number of tokens up
  to which the texts that an encoder read were filled with the role `pad`.

Tokens of one character each make a tokenizer of characters. Otherwise they are words,
which white space separates, and punctuation is split off; a list with fastai's `xxunk`
is read by fastai's rules, see `tokenizer_words`.
"""

from collections.abc import Mapping
import dataclasses
import io
import re
from typing import Any

from etils import epath

from transfer_gen import errors
from transfer_gen import untrusted
from transfer_gen.data import tokenizer_kinds as kinds
from transfer_gen.data import tokenizer_words
from transfer_gen.formats import pickles
from transfer_gen.formats import raw

Words = tokenizer_words.Words
train_words, KIND = tokenizer_words.train, tokenizer_words.KIND

_LARGEST = 2**24  # Bytes of a file, and ids.
# Names of special tokens beside `kinds.USUAL`, in lower case. Whether "\t" or another
# character is one cannot be decided, so no character is.
_NAMES = {
    "pad": {"<pad>", "[pad]", "<|pad|>"},
    "bos": {"<s>", "<bos>", "<sos>", "<start>", "<go>", "[bos]", "[start]", "startseq"},
    "eos": {"</s>", "<eos>", "<end>", "<|endoftext|>", "[eos]", "[end]", "endseq"},
    "sep": {"<sep>", "[sep]"},
    "unk": {"<unk>", "[unk]", "<oov>", "[oov]"},
}
_CONTENT = ("tokens", "roles", "length")
_PICKLES = (".pkl", ".pickle")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed:
  """What a file of tokens says.

  Attributes:
    tokenizer: The tokenizer.
    size: Number of rows that the file describes, those without text included.
    length: Number of tokens up to which an encoder's texts were filled; 0 if unknown.
  """
  tokenizer: kinds.Characters | kinds.HuggingFace | Words
  size: int
  length: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Words:
  """How Keras splits a text into words: which characters are spaces, and the case."""
  filters: str = ""
  lower: bool = False


def recognizes(path: epath.Path) -> bool:
  """Whether a file looks like a list of tokens, by its name and form."""
  if path.suffix != ".json":
    return path.suffix in (".txt", ".tokens", ".vocab", *_PICKLES)
  if path.stat().length > _LARGEST:
    return False  # A tokenizer.json may be larger.
  try:
    data = untrusted.read_json(path)
  except errors.UserError:
    return False
  # The `model` of a tokenizer.json is an object; a word's id is a number.
  return not (isinstance(data, dict) and isinstance(data.get("model"), dict))


def read(path: epath.Path) -> Listed:
  """Reads a file of tokens.

  Raises:
    errors.UserError: If the file is too large or of no form above; if a token or an id
      stands in it twice; or if an id, a role or the length cannot be one. The message
      lists all that is wrong with entries.
  """
  if path.stat().length > _LARGEST:
    raise errors.UserError(f"{path}: larger than 16 MiB, which no list of tokens is.")
  try:
    return _read(_unpickled(path) if path.suffix in _PICKLES else
                 _content(untrusted.text(path), path.suffix))
  except ValueError as error:
    raise errors.UserError(f"{path}: no list of tokens: {error}") from error


def _content(text: str, suffix: str) -> Any:
  return _parsed(text) if suffix == ".json" else text.removesuffix("\n").split("\n")


def _unpickled(path: epath.Path) -> list[str]:
  """Returns the list of texts of a pickle."""
  try:
    with raw.malformed(path, "list of tokens"):
      found = pickles.load(io.BytesIO(untrusted.read(path, _LARGEST)), {}, None)
  except errors.UserError as error:
    raise errors.UserError(
        f"{error} A vocabulary must be a plain list of texts:"
        " pickle.dump(list(itos), file).") from error
  if type(found) is not list or not all(type(token) is str for token in found):
    raise ValueError(f"it is a pickle of a {type(found).__name__}, and not of a plain"
                     " list of texts.")
  return found


def _parsed(text: str) -> Any:
  # `_rows` names the token that is half of a pair, and `_object` all doubled names.
  return untrusted.parse_json(text, pairs=_object, whole=False)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    twice = sorted({key for key, _ in pairs if sum(key == k for k, _ in pairs) > 1}
                   ) if len(pairs) < 2**12 else []
    raise ValueError(f"a name stands twice in an object: {', '.join(map(repr, twice))}")
  return found


def _read(data: Any) -> Listed:
  if isinstance(data, dict) and data.get("class_name") == "Tokenizer":
    return _of_keras(data["config"])
  roles: Any = {}
  length: Any = 0
  if isinstance(data, dict) and isinstance(data.get("tokens"), (list, dict)):
    if unknown := data.keys() - set(_CONTENT):
      raise ValueError(f"unknown: {', '.join(sorted(unknown))}. Known are"
                       f" {', '.join(_CONTENT)}.")
    roles, length, data = data.get("roles", {}), data.get("length", 0), data["tokens"]
  if type(length) is not int or not 0 <= length <= _LARGEST:
    raise ValueError(f"length is {length!r}, must be a whole number of tokens.")
  if isinstance(data, list):
    data = ["" if token == tokenizer_words.FILLING else token for token in data]
  rows = _rows(data)
  if roles and tokenizer_words.UNK in rows:
    raise ValueError("the roles of fastai's tokens follow from their names. Leave roles"
                     " out.")
  roles = _roles(rows, roles)
  if length and "pad" not in roles:
    raise ValueError("length needs the role pad: the token that texts are filled with.")
  return Listed(tokenizer=_tokenizer(rows, roles, _Words()), size=len(rows),
                length=length)


def _of_keras(config: Any) -> Listed:
  """Reads the config of a Keras `Tokenizer`, which holds JSON in strings."""
  if not isinstance(config, dict) or not isinstance(config.get("word_index"), str):
    raise ValueError("a Keras tokenizer without word_index.")
  index = _parsed(config["word_index"])
  # Keras counts all words, and writes only those below the limit.
  if limit := config.get("num_words"):
    index = {word: i for word, i in index.items() if type(i) is not int or i < limit}
  rows = _rows(index)
  unk = config.get("oov_token")
  roles = _roles(rows, {"unk": unk} if unk else {})
  words = _Words(
      filters=str(config.get("filters", "")), lower=bool(config.get("lower")))
  return Listed(tokenizer=_tokenizer(rows, roles, words), size=len(rows))


def _rows(data: Any) -> list[str | None]:
  """Returns the token of each row; None for rows without one."""
  if isinstance(data, list):
    pairs = [(token, i) for i, token in enumerate(data) if token != ""]
  elif isinstance(data, dict):
    pairs = list(data.items())
  else:
    raise ValueError("neither a list of tokens nor an object from each to its id.")
  rows: dict[int, str] = {}
  seen: dict[str, int] = {}
  wrong = []
  for token, i in pairs:
    if not isinstance(token, str) or re.search("[\ud800-\udfff]", token):
      wrong.append(f"token {i} is {token!r:.40}, must be text")
    elif type(i) is not int or not 0 <= i < _LARGEST:
      wrong.append(f"the id of {token!r:.40} is {i!r:.40}, must be from 0 on")
    elif i in rows:
      wrong.append(f"{rows[i]!r:.40} and {token!r:.40} have the id {i}")
    elif token in seen:
      wrong.append(f"{token!r:.40} has the ids {seen[token]} and {i}")
    else:
      rows[i], seen[token] = token, i
  if wrong:
    more = f"\n  and {len(wrong) - 20} more" if wrong[20:] else ""
    raise ValueError("\n  " + "\n  ".join(wrong[:20]) + more)
  if not rows:
    raise ValueError("there is no token in it.")
  size = len(data) if isinstance(data, list) else max(rows) + 1
  kinds.check_gaps(size, len(pairs))
  return [rows.get(i) for i in range(size)]


def _roles(rows: list[str | None], given: Any) -> dict[str, int]:
  """Returns ids of special tokens: those given, then those with usual names."""
  if not isinstance(given, dict):
    raise ValueError("roles must be an object from each role to its token.")
  ids = {token: i for i, token in enumerate(rows) if token is not None}
  roles = {}
  for role, token in given.items():
    if role not in _NAMES or not isinstance(token, str) or token not in ids:
      raise ValueError(
          f"roles has {role!r:.40}: {token!r:.40}. Roles are {', '.join(_NAMES)}, and"
          " the token must be in the list.")
    roles[role] = ids[token]
  for token, i in ids.items():
    for role, names in _NAMES.items():
      if token.lower() in names:
        roles.setdefault(role, i)
  # Keras counts from 1 and fills with 0, which stands for no token.
  if rows[0] is None:
    roles.setdefault("pad", 0)
  return roles


def _tokenizer(
    rows: list[str | None], roles: Mapping[str, int], words: _Words
) -> kinds.Characters | kinds.HuggingFace | Words:
  if tokenizer_words.UNK in rows:
    return Words(rows)
  # A pad token may be a character of texts, as in the example of Keras.
  marks = {i for role, i in roles.items() if role != "pad" or len(rows[i] or "") > 1}
  texts = [None if i in marks else token for i, token in enumerate(rows)]
  if all(len(token) == 1 for token in texts if token is not None):
    return kinds.Characters(texts, roles)
  return _of_words(rows, roles, words)


def _of_words(rows, roles, words) -> kinds.HuggingFace:
  """Builds a tokenizer of words, in which special tokens have our names."""
  import tokenizers  # Here, because only some kinds need the library.
  names = {i: f"<{role}>" for role, i in roles.items()} | {
      i: kinds.OWN[role] for role, i in roles.items() if role in kinds.OWN}
  if rows[0] is None and "unk" not in roles:
    names[0] = "<unk>"  # Keras drops unknown words; here, they are its row 0.
  ids = {names.get(i, token): i for i, token in enumerate(rows)
         if token is not None or i in names}
  if "<unk>" not in ids:
    raise ValueError("words need a token for those that are not listed: add <unk>, or"
                     " name it as the role unk.")
  made = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="<unk>"))
  steps: list[Any] = [tokenizers.normalizers.Lowercase()] if words.lower else []
  steps += [tokenizers.normalizers.Replace(c, " ") for c in words.filters]
  made.normalizer = tokenizers.normalizers.Sequence(steps)
  made.pre_tokenizer = (tokenizers.pre_tokenizers.WhitespaceSplit() if words.filters
                        else tokenizers.pre_tokenizers.Whitespace())
  made.add_special_tokens([*dict.fromkeys(names.values())])
  return kinds.HuggingFace(made)
