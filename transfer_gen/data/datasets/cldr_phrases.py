"""Phrases of the Unicode CLDR in two languages, which Babel ships: true translations.

A phrase is a name (of a place, language, script or currency), or a template with values
in it (units, amounts, dates, times, intervals, relative times, lists). Values are drawn
once and are the same for all languages. Only what a language defines itself counts;
what it would inherit from CLDR's root is no translation and is left out.
"""

from collections.abc import Callable, Iterator
import dataclasses
import datetime
import difflib
import functools
import random
import re
from typing import Any

import babel
from babel import dates
from babel import lists
from babel import localedata
from babel import numbers
from babel import units

from transfer_gen import errors

Locale = babel.Locale
_NAME = "cldr_translation"
_FORM = re.compile(r"([A-Za-z_0-9]+)-([A-Za-z_0-9]+)")
# Numbers in units and amounts: all plural forms of CLDR, and fractions.
_NUMBERS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 18, 20, 21, 22, 25, 30,
            31, 42, 50, 60, 75, 99, 100, 101, 102, 111, 250, 365, 500, 1000, 1001, 2024,
            10000, 1000000, 0.5, 1.5, 2.5, 3.7, 12.25)
_FEWER = _NUMBERS[1:6] + _NUMBERS[10::5]  # For amounts of each of 300 currencies.
_DAYS, _TIMES, _INTERVALS = 4000, 1000, 2000
_PLACES, _LANGUAGES = 100, 20  # Fewest names in a language that is taken.
_RELATIVE = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800,
             "month": 2592000, "year": 31536000}  # In seconds, as Babel counts them.
_NAMES = ("territories", "languages", "scripts", "currencies")


@dataclasses.dataclass(frozen=True)
class Phrase:
  """A phrase in two languages.

  Attributes:
    kind: What it is, such as "unit" or "territories".
    template: What stays while values change: the code of a unit or a style of dates.
      Empty for a name.
    value: The code of a name, or the values in the template.
    texts: The phrase in each of both languages.
  """
  kind: str
  template: str
  value: str
  texts: tuple[str, str]

  @property
  def key(self) -> str:
    """Distinguishes the phrase from all others of its two languages."""
    return f"{self.kind}|{self.template}|{self.value}"


def languages(name: str) -> tuple[str, str]:
  """Returns both codes of a name such as `en-de` or `en-pt_BR`.

  Raises:
    errors.UserError: If it is not of this form, a code is unknown, or CLDR says too
      little in a language.
  """
  match = _FORM.fullmatch(name)
  if not match or match[1] == match[2]:
    raise errors.UserError(
        f"data.name={_NAME}/{name}: name two languages, as in {_NAME}/en-de or"
        f" {_NAME}/en-pt_BR.")
  if wrong := [_wrong(code) for code in match.groups()
               if not _is_covered(code)]:
    raise errors.UserError(f"data.name={_NAME}/{name}: {'; '.join(wrong)}.")
  return match[1], match[2]


def names(pair: tuple[str, str]) -> list[Phrase]:
  """Returns the names that both languages have, in a fixed order."""
  both = [Locale.parse(code) for code in pair]
  found = []
  for kind in _NAMES:
    tables = [getattr(locale, kind) for locale in both]
    found += [Phrase(kind, "", code, (tables[0][code], tables[1][code]))
              for code in sorted(set(tables[0]) & set(tables[1]))
              if _is_name(code, tables[0][code], tables[1][code])]
  return found


def forms(code: str, name: Phrase, side: int) -> list[str]:
  """Returns a name in one of its languages, then its plurals."""
  plurals = {}
  if name.kind == "currencies":
    plurals = localedata.load(code)["currency_names_plural"].get(name.value, {})
  return [name.texts[side], *sorted(set(plurals.values()))]


def in_templates(pair: tuple[str, str]) -> Iterator[Phrase]:
  """Yields units, dates, times, intervals and relative times with values."""
  both = tuple(Locale.parse(code) for code in pair)
  for phrases in (_units, _dates, _times, _intervals, _relative):
    for kind, template, value, render in phrases(both):
      yield Phrase(kind, template, value, (render(both[0]), render(both[1])))


def amounts(pair: tuple[str, str], currency: str) -> Iterator[Phrase]:
  """Yields amounts of money, with the name of the currency written out."""
  both = [Locale.parse(code) for code in pair]
  if all(_own(locale, "currency_names_plural", currency)
         or _own(locale, "currency_names", currency) for locale in both):
    for number in _FEWER:
      first, second = (numbers.format_currency(
          number, currency, locale=locale, format_type="name") for locale in both)
      yield Phrase("amount", currency, str(number), (first, second))


def lists_of(
    pair: tuple[str, str], members: list[Phrase], count: int, seed: str
) -> Iterator[Phrase]:
  """Yields lists of two to four names of one kind.

  Args:
    pair: Codes of both languages.
    members: Names; only those of places and languages are put into lists.
    count: How many lists, unless there are too few names for any.
    seed: Decides which names stand together.
  """
  both = [Locale.parse(code) for code in pair]
  styles: list[Any] = [
      style for style in ("standard", "or")
      if all(_own(locale, "list_patterns", style) for locale in both)]
  pools = [pool for kind in _NAMES[:2]
           if len(pool := [m for m in members if m.kind == kind]) >= 4]
  draw = random.Random(f"list {seed}")
  for _ in range(count if pools and styles else 0):
    chosen, style = draw.sample(draw.choice(pools), draw.randint(2, 4)), draw.choice(
        styles)
    first, second = (
        lists.format_list([m.texts[side] for m in chosen], style, locale)
        for side, locale in enumerate(both))
    yield Phrase("list", style, ",".join(m.value for m in chosen), (first, second))


# What is yielded for each phrase: kind, template, value, and what renders it.
_Rendered = tuple[str, str, str, Callable[[Locale], str]]


def _units(both: tuple[Locale, ...]) -> Iterator[_Rendered]:
  for unit in sorted(localedata.load("root")["unit_patterns"]):
    # `duration-day-person` reads like `duration-day` nearly everywhere.
    if unit.endswith("-person") or any(
        not _own(locale, "unit_patterns", unit, "long", "other") for locale in both):
      continue
    for number in _NUMBERS:
      yield "unit", unit, str(number), lambda locale, n=number, u=unit: (
          units.format_unit(n, u, "long", locale=locale))


def _dates(both: tuple[Locale, ...]) -> Iterator[_Rendered]:
  del both
  for day in _drawn_days("date", _DAYS):
    for style in ("full", "long", "medium"):
      yield "date", style, day.isoformat(), lambda locale, d=day, s=style: (
          dates.format_date(d, s, locale))


def _times(both: tuple[Locale, ...]) -> Iterator[_Rendered]:
  del both
  for minute in sorted(random.Random("time").sample(range(24 * 60), _TIMES)):
    time = datetime.time(minute // 60, minute % 60)
    yield "time", "short", time.isoformat(), lambda locale, t=time: (
        dates.format_time(t, "short", locale=locale))


def _intervals(both: tuple[Locale, ...]) -> Iterator[_Rendered]:
  if any(not _own(locale, "interval_formats", "yMMMd") for locale in both):
    return
  draw = random.Random("length")
  for day in _drawn_days("interval", _INTERVALS):
    # A week, some months or some years, so that each part of the date changes.
    end = day + datetime.timedelta(draw.choice((3, 9, 40, 200, 900)))
    skeleton = draw.choice(("yMMMd", "yMMMEd", "yMMMM"))
    value = f"{day.isoformat()}/{end.isoformat()}"
    yield "interval", skeleton, value, lambda locale, s=day, e=end, k=skeleton: (
        dates.format_interval(s, e, k, locale=locale))


def _relative(both: tuple[Locale, ...]) -> Iterator[_Rendered]:
  for unit, seconds in _RELATIVE.items():
    if any(not _own(locale, "date_fields", unit, "future", "other") for locale in both):
      continue
    for number in range(1, 61):
      for sign in (1, -1):
        delta = datetime.timedelta(seconds=sign * number * seconds)
        yield "relative", unit, str(sign * number), functools.partial(
            _ago, delta, unit)


def _ago(delta: datetime.timedelta, unit: Any, locale: Locale) -> str:
  # A threshold that is never reached: the unit stays as it is, and 36 hours are hours.
  return dates.format_timedelta(
      delta, unit, threshold=10**9, add_direction=True, locale=locale)


def _drawn_days(seed: str, count: int) -> list[datetime.date]:
  first, last = (datetime.date(year, 1, 1).toordinal() for year in (1900, 2100))
  return [datetime.date.fromordinal(day)
          for day in random.Random(seed).sample(range(first, last), count)]


def _is_name(code: str, *texts: str) -> bool:
  # A code that stands for itself is no name, and neither are numbers.
  return all(text.strip() and text != code and any(map(str.isalpha, text))
             for text in texts)


def _own(locale: Locale, *path: str) -> bool:
  """Whether a language defines an entry itself, other than CLDR's root does.

  Args:
    locale: The language.
    path: Keys on the way to the entry.
  """
  found = _entry(str(locale), path)
  # Where the root has words, they are English.
  return found is not None and (
      locale.language == "en" or found != _entry("root", path))


def _entry(code: str, path: tuple[str, ...]) -> Any:
  data: Any = localedata.load(code)
  # Babel's own dict follows the aliases that a table may hold in place of an entry.
  found: Any = localedata.LocaleDataDict(data)
  for key in path:
    if key not in found:
      return None
    found = found[key]
  return dict(found) if isinstance(found, localedata.LocaleDataDict) else found


def _wrong(code: str) -> str:
  known = sorted(localedata.locale_identifiers())
  if code in known:
    return (f"CLDR says too little in {code!r}: it lacks names of places, languages or"
            " months")
  near = difflib.get_close_matches(code, known, n=3)
  return f"{code!r} is no language of CLDR" + (
      f", nearest: {', '.join(near)}" if near else "")


def _is_covered(code: str) -> bool:
  """Returns whether CLDR says enough in a language: names and months of its own."""
  # Not `exists`, which also takes a code in other letters' case, and then cannot load.
  if code not in localedata.locale_identifiers():
    return False
  found, root = localedata.load(code), localedata.load("root")
  months, of_root = (data["months"]["format"]["wide"] for data in (found, root))
  return (len(found["territories"]) >= _PLACES
          and len(found["languages"]) >= _LANGUAGES and months != of_root)
