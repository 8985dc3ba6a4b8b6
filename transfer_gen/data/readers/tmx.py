"""TMX: translation memories in XML, whose columns are the codes of their languages."""

from collections.abc import Iterator
import io
import re
from typing import Any
from xml.etree import ElementTree

import defusedxml
from defusedxml import ElementTree as safe

from transfer_gen import errors
from transfer_gen.data.readers import blobs

Example = blobs.Example
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
# Elements inside a segment that hold formatting codes of the file that was translated,
# and no text. `hi` and `sub` hold text.
_CODES = ("bpt", "ept", "it", "ph", "ut")


def read(blob: blobs.Blob, options: blobs.Options) -> Iterator[Example]:
  """Yields the translation units: for each language its text.

  A unit with several texts in one language gives a list of them. Each column is named
  by the code that the file gives (`en-US`), and, where no other code of the unit
  begins so, also by its language alone (`en`).

  Raises:
    errors.UserError: If it is not well-formed, or declares entities.
  """
  del options
  number, file = 0, io.BytesIO(blob.read_parts(b"</tu>", b"/>"))
  try:
    # Event by event, because the tree of a large memory takes ten times its size.
    # `defusedxml` refuses entities, which can grow without end or read other files.
    for _, element in safe.iterparse(file, events=("end",), forbid_dtd=False):
      if _name(element) != "tu":
        continue
      number += 1
      yield f"{blob}:unit {number}", _columns(element)
      element.clear()
  except (ElementTree.ParseError, defusedxml.DefusedXmlException, ValueError,
          LookupError, RecursionError) as error:
    raise errors.UserError(
        f"{blob}: no whole TMX file, after unit {number}: {errors.cause(error)}."
        " Fetch or export it again.") from error


def _columns(unit: Any) -> dict[str, Any]:
  texts: dict[str, list[str]] = {}
  for variant in unit:
    if _name(variant) != "tuv":
      continue
    # TMX 1.1 wrote `lang`, without the namespace.
    code = variant.get(_LANG) or variant.get("lang") or ""
    segments = [part for part in variant if _name(part) == "seg"]
    texts.setdefault(code, []).append("".join(map(_text, segments)))
  named: dict[str, list[str]] = {}
  for code in texts:
    named.setdefault(_language(code), []).append(code)
  alone = {language: texts[codes[0]] for language, codes in named.items()
           if len(codes) == 1}
  return {name: found[0] if len(found) == 1 else found
          for name, found in (alone | texts).items()}


def _text(element: Any) -> str:
  inner = "" if _name(element) in _CODES else element.text or ""
  for child in element:
    inner += _text(child) + (child.tail or "")
  return inner


def _language(code: str) -> str:
  """`en` of `en-US`, `EN_us` or `en`."""
  return re.split("[-_]", code)[0].lower()


def _name(element: Any) -> str:
  """Name of an element without its namespace."""
  return str(element.tag).rpartition("}")[2]
