"""Tests for translations from CLDR: true pairs, and splits that share nothing."""

import datetime
import re

import babel
from babel import dates
from babel import units
import hypothesis
from hypothesis import strategies as st
import pytest

from transfer_gen import config
from transfer_gen import errors
from transfer_gen.data import catalog
from transfer_gen.data import documents
from transfer_gen.data import fields
from transfer_gen.data.datasets import cldr_phrases
from transfer_gen.data.datasets import cldr_translation

PAIRS = [("en", "de"), ("en", "ja"), ("en", "cs"), ("ar", "pt_BR")]
SOME = [pytest.param(pair, marks=[pytest.mark.long] if i > 1 else [])
        for i, pair in enumerate(PAIRS)]
NAMES = ("territories", "languages", "scripts", "currencies")
MADE_OF_NAMES = (*NAMES, "list", "amount")


@pytest.fixture(scope="module")
def made():
  """Returns a function that returns all phrases of a pair, made once."""
  cache = {}

  def made_(pair):
    if pair not in cache:
      cache[pair] = cldr_translation.split_phrases(pair)
    return cache[pair]
  return made_


def all_of(splits, *kinds):
  return [phrase for found in splits.values() for phrase in found
          if not kinds or phrase.kind in kinds]


@pytest.mark.parametrize("pair", SOME, ids="-".join)
def test_there_are_tens_of_thousands_of_pairs_of_every_kind(made, pair):
  splits = made(pair)
  sizes = [len(found) for found in splits.values()]
  kinds = {kind: len(all_of(splits, kind)) for kind in (
      *MADE_OF_NAMES, "unit", "date", "time", "interval", "relative")}

  assert sum(sizes) > 30_000
  assert all(0.08 < size / sum(sizes) < 0.16 for size in sizes[1:])
  assert min(kinds.values()) > 100, kinds


@pytest.mark.parametrize("pair", SOME, ids="-".join)
def test_no_template_with_its_values_and_no_text_stands_in_two_splits(made, pair):
  splits = made(pair)
  values, texts = {}, {}

  for split, found in splits.items():
    for phrase in found:
      # Styles of one date are in one split too; a number counts with its unit.
      value = phrase.key if phrase.kind in ("unit", "list", "amount") else (
          phrase.kind, phrase.value)
      assert values.setdefault(value, split) == split, phrase
      for side, text in enumerate(phrase.texts):
        assert texts.setdefault((side, " ".join(text.casefold().split())),
                                split) == split, phrase


@pytest.mark.parametrize("pair", SOME, ids="-".join)
def test_no_held_out_name_stands_inside_a_training_text(made, pair):
  splits = made(pair)

  for side, code in enumerate(pair):
    # Where words have no spaces between them, a name is found anywhere.
    edge = "" if code in ("ja",) else r"\b"
    train = "\n".join(phrase.texts[side].casefold() for phrase in splits["train"]
                      if phrase.kind in MADE_OF_NAMES)
    named = {split: [phrase.texts[side].casefold() for phrase in found
                     if phrase.kind in NAMES
                     and re.match(r"\w.*\w\Z", phrase.texts[side])]
             for split, found in splits.items()}

    for name in named["validation"] + named["test"]:
      assert name not in train or not re.search(edge + re.escape(name) + edge, train)
    assert len(named["test"]) > 50
    # The comparison works: names that may be trained on are found there.
    assert all(re.search(edge + re.escape(name) + edge, train)
               for name in named["train"][:20])


@pytest.mark.parametrize("pair", PAIRS[:2], ids="-".join)
def test_lists_hold_names_of_their_own_split(made, pair):
  for split, found in made(pair).items():
    names = {(p.kind, p.value) for p in found if p.kind in NAMES}
    lists = [p for p in found if p.kind == "list"]

    assert lists
    for phrase in lists:
      assert any({(kind, value) for value in phrase.value.split(",")} <= names
                 for kind in NAMES), (split, phrase)


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(pair=st.sampled_from(PAIRS), draw=st.data())
def test_texts_are_what_babel_writes_for_the_stored_values(made, pair, draw):
  phrases = all_of(made(pair), *NAMES, "date", "unit")
  phrase = phrases[draw.draw(st.integers(0, len(phrases) - 1))]

  for code, text in zip(pair, phrase.texts):
    locale = babel.Locale.parse(code)
    if phrase.kind == "date":
      year, month, day = map(int, phrase.value.split("-"))
      want = dates.format_date(
          datetime.date(year, month, day), phrase.template, locale=locale)
    elif phrase.kind == "unit":
      number = float(phrase.value) if "." in phrase.value else int(phrase.value)
      want = units.format_unit(number, phrase.template, "long", locale=locale)
    else:
      want = getattr(locale, phrase.kind)[phrase.value]
    assert text == want


@pytest.mark.parametrize("pair, key, texts", [
    (("en", "de"), "territories||JP", ("Japan", "Japan")),
    (("en", "de"), "unit|length-kilometer|21", ("21 kilometers", "21 Kilometer")),
    (("en", "cs"), "unit|duration-day|5", ("5 days", "5 dnů")),
    (("en", "cs"), "unit|duration-day|2", ("2 days", "2 dny")),
    (("en", "cs"), "relative|hour|-3", ("3 hours ago", "před 3 hodinami")),
    (("en", "de"), "amount|EUR|2", ("2.00 euros", "2,00 Euro")),
    (("en", "ja"), "languages||fr", ("French", "フランス語")),
])
def test_some_phrases_are_right_as_people_know_them(made, pair, key, texts):
  (found,) = [phrase for phrase in all_of(made(pair)) if phrase.key == key]

  assert found.texts == texts


def test_the_same_values_are_held_out_for_all_pairs_of_languages(made):
  held = [{phrase.key for phrase in made(pair)["test"]
           if phrase.kind in ("date", "time", "interval", "relative")}
          for pair in (("en", "de"), ("en", "cs"))]

  assert len(held[0] & held[1]) > 0.95 * len(held[0])


def test_untranslated_entries_are_left_out():
  """In Hawaiian, CLDR has months and times, but no intervals, and hardly a unit."""
  phrases = list(cldr_phrases.in_templates(("en", "haw")))

  assert {phrase.kind for phrase in phrases} == {"date", "time", "unit"}
  # In Aghem, CLDR has names of days and hours, but counts them as its root: `+1 d`.
  assert not [phrase for phrase in cldr_phrases.in_templates(("en", "agq"))
              if phrase.kind == "relative"]
  assert {phrase.template for phrase in phrases if phrase.kind == "unit"} < {
      phrase.template for phrase in cldr_phrases.in_templates(("en", "de"))}


@pytest.mark.parametrize("name, message", [
    ("en-dee", "'dee' is no language of CLDR, nearest: .*de"),
    ("xq-de", "'xq' is no language of CLDR"),
    ("pt_br-de", "'pt_br' is no language of CLDR, nearest: pt"),
    ("en-haw", "CLDR says too little in 'haw'"),
    ("en", "name two languages"), ("en-en", "name two languages"),
    ("../en-de", "name two languages"), ("en-de/x", "name two languages")])
def test_unknown_languages_are_refused_with_the_nearest(name, message):
  with pytest.raises(errors.UserError, match=message) as caught:
    documents.load(config.Data(name=f"cldr_translation/{name}"))

  assert str(caught.value).count(f"cldr_translation/{name}:") == 1


def test_some_two_hundred_languages_are_covered():
  known = babel.localedata.locale_identifiers()
  # A territory or a script adds no language.
  covered = {code.split("_")[0] for code in known if code != "en"
             and not catalog.misfit(f"cldr_translation/{code}-en")}

  assert len(covered) > 200


def test_it_is_read_by_name_with_the_languages_as_sides(tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))

  # Of these two languages there are fewer phrases, which takes less time.
  found, facts = documents.load(config.Data(
      name="cldr_translation/agq-naq", merge_references=False))

  want = cldr_translation.split_phrases(("agq", "naq"))
  assert {split: sorted((document.input, document.target) for document in texts)
          for split, texts in found.items()} == {
              split: sorted(phrase.texts for phrase in phrases)
              for split, phrases in want.items()}
  assert facts["version"].startswith("1.")
  assert not any(counts["dropped"] for counts in facts["splits"].values())


def test_the_sides_can_be_turned_around_and_read_alone():
  data = config.Data(name="cldr_translation/en-de")
  turned = config.Data(
      name="cldr_translation/en-de", input_field="de", target_field="en")
  alone = config.Data(name="cldr_translation/en-de", target_field="de")

  assert [fields.names(d, "") for d in (data, turned, alone)] == [
      ("en", "de"), ("de", "en"), ("", "de")]
  assert fields.is_pairs(data) and not fields.is_pairs(alone)
