"""Takes the texts of documents out of the columns that readers return."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import difflib
from typing import Any

from transfer_gen import errors
from transfer_gen.data.readers import blobs

_SHOWN = 5  # Places that a message names.
_MISSING = object()


@dataclasses.dataclass(frozen=True)
class Sides:
  """The clean texts of one document.

  Attributes:
    where: Where it stands, for messages.
    input: The input; empty for a language model.
    answers: Every right answer, at least one; may be empty texts.
  """
  where: str
  input: str
  answers: tuple[str, ...]


def sides(
    examples: Sequence[blobs.Example], names: tuple[str, str],
    clean: Callable[[str], str], drop_empty: bool,
) -> list[Sides]:
  """Returns the clean texts of documents.

  A list of texts is several answers where it is the target of a pair. Elsewhere its
  texts are joined by spaces.

  Args:
    examples: As readers return them.
    names: Columns of input and target; the first is empty for a language model. Dots
      lead into nested columns: `translation.en`.
    clean: Cleans a text.
    drop_empty: Whether pairs with an empty side, or whose columns are missing, are to
      be left out later, and are no mistake.

  Raises:
    errors.UserError: If a column is missing or holds no text, or one side of a pair is
      empty.
  """
  source, target = names
  _check_columns(examples, [name for name in names if name], drop_empty)
  found = []
  for where, columns in examples:
    texts = [clean(text) for text in _texts(where, target, _value(columns, target))]
    if not source:
      found.append(Sides(where, "", (" ".join(texts),)))
      continue
    given = clean(" ".join(_texts(where, source, _value(columns, source))))
    answers = tuple(text for text in texts if text.strip()) or ("",)
    found.append(Sides(where, given, answers))
  if source and not drop_empty:
    _check_filled(found)
  return found


def _check_filled(found: Sequence[Sides]) -> None:
  bare = {"input": [], "target": []}
  for sides_ in found:
    blank = not sides_.input.strip(), not sides_.answers[0].strip()
    # A pair of two empty sides is a blank line, which is dropped like any other.
    if blank[0] != blank[1]:
      bare["input" if blank[0] else "target"].append(sides_.where)
  if misfits := [f"the {side} is empty in {len(places)} of {len(found)} pairs:"
                 f" {_listed(places)}" for side, places in bare.items() if places]:
    raise errors.UserError(
        f"data: {'; '.join(misfits)}. Fill them, or set data.drop_empty=True to leave"
        " these pairs out.")


def _listed(places: Sequence[str]) -> str:
  """Returns the first of some places as one text, and how many more there are."""
  more = f" and {len(places) - _SHOWN} more" if places[_SHOWN:] else ""
  return ", ".join(places[:_SHOWN]) + more


def _check_columns(
    examples: Sequence[blobs.Example], names: Sequence[str], drop_empty: bool
) -> None:
  for name in names:
    lacking = [(where, columns) for where, columns in examples
               if _value(columns, name) is _MISSING]
    if not lacking or drop_empty and len(lacking) < len(examples):
      continue
    where, columns = lacking[0]
    known = list(_names(columns))
    near = difflib.get_close_matches(name, known, n=1)
    some = ("" if len(lacking) == len(examples) else
            f" {len(lacking)} of {len(examples)} documents lack it:"
            f" {_listed([place for place, _ in lacking])}. Set data.drop_empty to leave"
            " them out.")
    raise errors.UserError(
        f"{where}: there is no column `{name}`, only {', '.join(known)}."
        f"{f' Nearest: {near[0]}.' if near else ''}{some} Set data.target_field (and"
        " data.input_field for pairs) to the columns to read.")


def _value(columns: Any, name: str) -> Any:
  """Returns the value of a column, or `_MISSING`; dots lead into nested columns."""
  if not isinstance(columns, Mapping):
    return _MISSING
  columns = _by_language(columns)
  # A name with dots may also be that of a column itself.
  if name in columns:
    return columns[name]
  first, _, rest = name.partition(".")
  if not rest or first not in columns:
    return _MISSING
  inner = columns[first]
  if isinstance(inner, Mapping):
    return _value(inner, rest)
  if _is_list(inner) and len(inner):
    values = [_value(item, rest) for item in inner]
    return _MISSING if any(value is _MISSING for value in values) else values
  return _MISSING


def _by_language(columns: Mapping[str, Any]) -> Mapping[str, Any]:
  """Returns the texts of each language, where a list says which language each is in.

  TFDS and Hugging Face Datasets store translations so if languages vary: as columns
  `language` and `translation` of equal length. All others are returned as they are.
  """
  if columns.keys() != {"language", "translation"}:
    return columns
  languages, texts = columns["language"], columns["translation"]
  if not (_is_list(languages) and _is_list(texts) and len(languages) == len(texts)):
    return columns
  found: dict[str, list[Any]] = {}
  for language, text in zip(languages, texts):
    code = language.decode() if isinstance(language, bytes) else str(language)
    found.setdefault(code, []).append(text)
  return {code: given[0] if len(given) == 1 else given for code, given in found.items()}


def _names(columns: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
  """Yields the names that `_value` takes."""
  for name, value in _by_language(columns).items():
    item = value[0] if _is_list(value) and len(value) else value
    if isinstance(item, Mapping):
      yield from _names(item, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}"


def _texts(where: str, name: str, value: Any) -> list[str]:
  if value is None or value is _MISSING:
    return [""]
  if _is_list(value):
    return [_text(where, name, item) for item in value] or [""]
  return [_text(where, name, value)]


def _text(where: str, name: str, value: Any) -> str:
  if isinstance(value, bytes):  # TFDS stores text as bytes.
    try:
      return value.decode("utf-8")
    except UnicodeDecodeError as error:
      raise errors.UserError(
          f"{where}: column `{name}` is not UTF-8 text ({error.reason}). Choose"
          " another column.") from error
  if not isinstance(value, str):
    raise errors.UserError(
        f"{where}: column `{name}` holds a {type(value).__name__}, not text. Choose"
        " another column, or write it as one string.")
  # JSON can escape half of a surrogate pair, which UTF-8 cannot encode.
  if any("\ud800" <= character <= "\udfff" for character in value):
    raise errors.UserError(
        f"{where}: column `{name}` holds half of a surrogate pair, which is not a"
        " character. Correct the text.")
  return value


def _is_list(value: Any) -> bool:
  """Whether a value is a sequence of values, such as NumPy's arrays of TFDS."""
  return isinstance(value, (list, tuple)) or (
      hasattr(value, "tolist") and getattr(value, "ndim", 0) == 1)
