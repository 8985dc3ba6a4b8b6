"""Names and phrases of two languages from the Unicode CLDR, as a TFDS data set.

`cldr_translation/en-de` has the columns `en` and `de`. Nothing is downloaded: the texts
are in Babel. Values are the same for all pairs of languages, so that a template with
its values stands in the same split of each of them.
"""

from collections.abc import Iterator, Sequence
import re
from typing import Any

import babel
import tensorflow_datasets as tfds

from transfer_gen.data.datasets import cldr_phrases
from transfer_gen.data.datasets import docstrings

Phrase = cldr_phrases.Phrase
SPLITS = docstrings.SPLITS
_LISTS = {"train": 4800, "validation": 600, "test": 600}
# Two letters of one word. Thai, Lao, Burmese, Khmer, Japanese and Chinese put no space
# between words: there, a name may end anywhere.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_WITHIN_WORD = re.compile(rf"(?![{_UNSPACED}])\w(?![{_UNSPACED}])\w")


class CldrTranslation(tfds.core.GeneratorBasedBuilder):
  """Names, units, amounts, dates, times, intervals and lists in two languages.

  Columns are the codes of both languages, and `kind`.
  """
  name = "cldr_translation"
  VERSION = tfds.core.Version("1.{}{:02}.{}".format(
      *map(int, re.findall(r"\d+", babel.__version__ + ".0.0")[:3])))

  def _info(self) -> tfds.core.DatasetInfo:
    columns = {**dict.fromkeys(_pair(self), tfds.features.Text()),
               "kind": tfds.features.Text()}
    return tfds.core.DatasetInfo(
        builder=self, description=self.__doc__,
        features=tfds.features.FeaturesDict(columns))

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    del dl_manager  # Nothing is downloaded.
    pair = _pair(self)
    return {split: iter([
        (phrase.key, {**dict(zip(pair, phrase.texts)), "kind": phrase.kind})
        for phrase in phrases]) for split, phrases in split_phrases(pair).items()}

  def _generate_examples(self) -> Iterator:
    raise AssertionError("_split_generators holds the examples")


def config(languages: str) -> tfds.core.BuilderConfig:
  """Returns the builder config of two languages, such as `en-de`."""
  return tfds.core.BuilderConfig(name=languages, version=CldrTranslation.VERSION)


def split_phrases(pair: tuple[str, str]) -> dict[str, list[Phrase]]:
  """Returns all phrases of two languages, by split.

  No name stands in two splits: neither on its own, nor inside another name, a list or
  an amount. No template stands in two with the same values, and no text at all.
  """
  found: dict[str, list[Phrase]] = {split: [] for split in SPLITS}
  for phrase, root in _grouped(pair, cldr_phrases.names(pair)):
    found[docstrings.split_of(root.key)].append(phrase)
  for split, names in found.items():
    currencies = [name.value for name in names if name.kind == "currencies"]
    # Made of the names of one split, so that they are in that split as well.
    found[split] = [
        *names, *cldr_phrases.lists_of(pair, names, _LISTS[split], split),
        *(phrase for currency in currencies
          for phrase in cldr_phrases.amounts(pair, currency))]
  for phrase in cldr_phrases.in_templates(pair):
    # Styles of one date are nearly the same text, so the value decides; a number is in
    # all units, and decides with its unit.
    group = phrase.key if phrase.kind == "unit" else f"{phrase.kind}|{phrase.value}"
    found[docstrings.split_of(group)].append(phrase)
  return _distinct(found)


def _grouped(
    pair: tuple[str, str], names: Sequence[Phrase]
) -> Iterator[tuple[Phrase, Phrase]]:
  """Yields each name with the first name of its group.

  Names are of one group if in one of the languages they are equal or one of them stands
  in a form of the other.
  """
  roots = list(range(len(names)))

  def root(i: int) -> int:
    while roots[i] != i:
      i = roots[i]
    return i

  for side, code in enumerate(pair):
    forms = [[form.casefold() for form in cldr_phrases.forms(code, name, side)]
             for name in names]
    # One search over all names at once; NULs, which are in none, keep them apart.
    joined = "".join(f"{form}\0" for found in forms for form in found)
    owners = [i for i, found in enumerate(forms) for form in found for _ in form + "\0"]
    for i, found in enumerate(forms):
      for match in re.finditer(re.escape(found[0]), joined):
        if _ends_words(joined, match.start(), match.end()):
          low, high = sorted((root(i), root(owners[match.start()])))
          roots[high] = low
  yield from ((name, names[root(i)]) for i, name in enumerate(names))


def _ends_words(text: str, start: int, end: int) -> bool:
  """Whether no word goes on at either end of a part of a text."""
  around = text[start - 1:start + 1] if start else "", text[end - 1:end + 1]
  return not any(_WITHIN_WORD.fullmatch(two) for two in around)


def _distinct(found: dict[str, list[Phrase]]) -> dict[str, list[Phrase]]:
  """Drops phrases of which one text also stands in a later split, or twice in one."""
  seen: set[tuple[int, str]] = set()
  pairs: set[tuple[str, str]] = set()
  for split in reversed(SPLITS):
    kept = []
    for phrase in found[split]:
      folded = [(side, docstrings.normalize(text).casefold())
                for side, text in enumerate(phrase.texts)]
      if seen.isdisjoint(folded) and phrase.texts not in pairs:
        kept.append(phrase)
        pairs.add(phrase.texts)
    found[split] = kept
    seen.update((side, docstrings.normalize(text).casefold())
                for phrase in kept for side, text in enumerate(phrase.texts))
  return found


def _pair(builder: CldrTranslation) -> tuple[str, str]:
  return cldr_phrases.languages(builder.builder_config.name)
