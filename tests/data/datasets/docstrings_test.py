"""Tests for the docstring data sets: disjoint splits, read without running code."""

import sys
import textwrap

from transfer_gen.data.datasets import docstrings

BODY = (
    "It says what the thing numbered {0} does, in a sentence that is long enough to"
    " count as a body.")


def in_split(split, make):
  """Returns the first text of make(0), make(1), ... that belongs to a split."""
  return next(
      text for text in map(make, range(1000)) if docstrings.split_of(text) == split)


def docstring(split, summary="Summarises thing number {0}.", body=BODY, more=""):
  text = in_split(split, lambda i: (
      f"{summary}\n\n{body}".format(i) + more))
  return docstrings.Text(key=f"{split}:{hash(text)}", text=text)


def body_of(text):
  return text.text.partition("\n\n")[2]


def test_a_train_text_that_quotes_a_test_body_is_dropped():
  held = docstring("test")
  quotes = docstring(
      "train", summary="Another summary, number {0}.", body="Unlike other {0}:",
      more="\n\n  " + body_of(held).replace(" ", "\n   ", 3))
  plain = docstring("train", summary="A third summary, number {0}.")

  split = docstrings.split_pairs([quotes, plain, held])

  assert len(split["test"]) == 1
  assert [pair.key for pair in split["train"]] == [plain.key]


def test_a_train_pair_with_a_test_summary_is_dropped():
  held = docstring("test", summary="The summary of both of them.")
  same = docstring("train", summary="The summary of both of them.")

  split = docstrings.split_pairs([same, held])

  assert not split["train"]
  # Without the held-out text, the same pair is kept.
  assert len(docstrings.split_pairs([same])["train"]) == 1


def test_only_docstrings_with_a_summary_line_and_a_body_become_pairs():
  texts = [
      "One line only, however long it may be, and it goes on and on and on and on.",
      "A first line\nthat goes on in the next.\n\n" + BODY,
      "Short body.\n\nToo short.",
      "A summary of twenty characters.\n\n" + BODY,
  ]

  split = docstrings.split_pairs(
      docstrings.Text(key=str(i), text=text) for i, text in enumerate(texts))

  kept = [pair for pairs in split.values() for pair in pairs]
  assert [(pair.key, pair.summary, pair.body) for pair in kept] == [
      ("3", "A summary of twenty characters.", BODY)]


def test_held_out_text_is_dropped_even_across_paragraphs():
  needle = "ends here. And begins"
  topics = [docstrings.Text(
      key="t", text="First one.\n\nThis ends   here.\n\nAnd begins again.\n\nLast.")]
  texts = [docstrings.Text(key="a", text="It ends here. And\nbegins."),
           docstrings.Text(key="b", text="Innocent.")]

  split = docstrings.split_prose(texts, topics, [needle])

  kept = {text.text for texts in split.values() for text in texts}
  assert kept == {"Innocent.", "First one.\n\nLast."}


def test_a_paragraph_shared_by_topics_is_kept_once():
  topics = [docstrings.Text(key=topic, text=f"Shared by two.\n\nOnly {topic}.")
            for topic in "ab"]

  split = docstrings.split_prose([], topics, [])

  kept = sorted(text.text for texts in split.values() for text in texts)
  assert kept == ["Only b.", "Shared by two.\n\nOnly a."]


def write(root, files):
  for name, text in files.items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(textwrap.dedent(text))
  return root


def test_modules_are_parsed_without_being_run(tmp_path):
  files = {
      "b.py": '''
          """Module b."""
          raise SystemExit("executed")
          class C:
            """Class C.

               Indented.
            """
            async def method(self):
              "Method."
          ''',
      "a/c.py": "'Module c.'",
      "test/test_x.py": "'Of a test.'",
      "a/tests/y.py": "'Of a test.'",
      "site-packages/z.py": "'Not of the library.'",
      "a/broken.py": "'Not Python",
  }

  one, two = (docstrings._docstrings(write(tmp_path / folder, files))
              for folder in ("one", "two"))

  assert one == two
  assert [(text.key, text.text) for text in one] == [
      ("a/c.py:0", "Module c."), ("b.py:0", "Module b."),
      ("b.py:4", "Class C.\n\nIndented."), ("b.py:9", "Method.")]


def test_the_data_version_contains_the_python_version():
  major, minor, micro = sys.version_info[:3]

  assert docstrings.version() == f"1.{major * 100 + minor}.{micro}"
