"""Text of the running Python's standard library, and one split for all that use it.

Modules are parsed and never imported, so none of their code runs. The files are read in
sorted order and are named relative to the installation. Two installations of one Python
version therefore give the same text, unless a distribution leaves modules out; the
fingerprint in data.json shows such a difference.

A text is held out if its pair is in validation or test. Every text that contains the
body or the summary of a held-out pair, whatever the spacing, is dropped from all other
splits of the pairs and from all splits of the prose.
"""

import ast
import bisect
from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import functools
import hashlib
import itertools
import pathlib
import sys
import sysconfig
import unicodedata
import warnings

SPLITS = ("train", "validation", "test")
# In characters. What contains a held-out body or summary is dropped, and shorter ones
# would occur in many texts by chance.
MIN_BODY = 80
MIN_SUMMARY = 20
_PIECE = 1500  # Characters.
# Folders that differ between installations of one Python version, such as packages that
# were installed later and tests, which some distributions leave out.
_EXCLUDED = frozenset({
    "site-packages", "dist-packages", "test", "tests", "idle_test", "_bundled",
    "lib-dynload", "__pycache__"})
_TOPICS = "pydoc_data/topics.py"


@dataclasses.dataclass(frozen=True)
class Text:
  """A piece of prose.

  Attributes:
    key: Where the text is found, as `path:line`; unique.
    text: The docstring without its indentation, or part of a topic.
  """
  key: str
  text: str


@dataclasses.dataclass(frozen=True)
class Pair:
  """A docstring, divided into its first line and the rest.

  Attributes:
    key: Where the docstring is found, as in `Text`.
    body: The rest, without the blank line after the summary.
    summary: The first line.
  """
  key: str
  body: str
  summary: str


def version() -> str:
  """Returns the version of the data, 1.<Python's major and minor>.<micro>.

  Python 3.11.7 gives 1.311.7. The first number is the version of this file's rules.
  """
  # TFDS versions have three numbers, so Python's major and minor share the second one.
  info = sys.version_info
  return f"1.{info.major}{info.minor:02d}.{info.micro}"


def normalize(text: str) -> str:
  """Returns the form in which texts are compared: NFC, with white space folded."""
  return " ".join(unicodedata.normalize("NFC", text).split())


def split_of(text: str) -> str:
  """Returns the split of a text, the same in all data sets: 80%, 10% and 10%."""
  digest = hashlib.sha256(normalize(text).encode()).digest()
  rank = int.from_bytes(digest[:8], "big") % 10
  # Ranks 0 to 7 are train, 8 is validation and 9 is test.
  return SPLITS[max(0, rank - 7)]


def pairs() -> dict[str, list[Pair]]:
  """Returns body and summary of each docstring in the form of PEP 257, by split."""
  return split_pairs(_docstrings(stdlib()))


def prose() -> dict[str, list[Text]]:
  """Returns all docstrings and topics without a held-out text, by split."""
  root = stdlib()
  docstrings = _docstrings(root)
  return split_prose(docstrings, _topics(root), held_out(split_pairs(docstrings)))


def split_pairs(docstrings: Iterable[Text]) -> dict[str, list[Pair]]:
  """Returns the pairs of docstrings, by split.

  No body occurs twice. No body or summary of validation or test occurs in another
  split, neither on its own nor inside another text.
  """
  found: dict[str, list[Pair]] = {split: [] for split in SPLITS}
  seen = set()
  for docstring in docstrings:
    pair = _pair(docstring)
    if pair is None or normalize(pair.body) in seen:
      continue
    seen.add(normalize(pair.body))
    found[split_of(docstring.text)].append(pair)

  needles: list[str] = []
  # From test to train: of texts that contain each other, the training split loses its
  # own, and the smaller splits keep theirs.
  for split in reversed(SPLITS):
    texts = [f"{pair.summary}\n\n{pair.body}" for pair in found[split]]
    hits = containing(texts, needles)
    found[split] = [p for i, p in enumerate(found[split]) if i not in hits]
    needles += _needles(found[split])
  return found


def split_prose(
    docstrings: Iterable[Text],
    topics: Iterable[Text],
    needles: Sequence[str],
) -> dict[str, list[Text]]:
  """Returns docstrings and pieces of topics, by split; none contains a needle."""
  texts, seen = [], set()
  for text in [*docstrings, *_topic_pieces(topics, needles)]:
    if normalize(text.text) not in seen:
      seen.add(normalize(text.text))
      texts.append(text)
  hits = containing([text.text for text in texts], needles)

  kept: dict[str, list[Text]] = {split: [] for split in SPLITS}
  for i, text in enumerate(texts):
    if i not in hits:
      kept[split_of(text.text)].append(text)
  return kept


def held_out(split: dict[str, list[Pair]]) -> list[str]:
  """Returns the normalized bodies and summaries of validation and test."""
  return _needles([*split["validation"], *split["test"]])


def containing(texts: Sequence[str], needles: Iterable[str]) -> set[int]:
  """Returns the indices of the texts that contain one of the normalized needles."""
  # One search per needle over all texts at once, and not one for each pair of both. No
  # needle contains a NUL, so none matches across two texts.
  joined, starts = _join([normalize(text) for text in texts], "\0")
  return {
      _index(starts, position) for needle in set(needles)
      for position in _occurrences(joined, needle)}


def stdlib() -> pathlib.Path:
  """Returns the folder of the running Python's standard library."""
  return pathlib.Path(sysconfig.get_paths()["stdlib"])


@functools.lru_cache(maxsize=1)
def _docstrings(root: pathlib.Path) -> tuple[Text, ...]:
  """Returns the docstrings of all modules, classes and functions below a folder."""
  found = []
  for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).parts):
    relative = path.relative_to(root)
    # Files that the build of Python wrote contain the path of the installation.
    if _EXCLUDED & set(relative.parts) or relative.parts[0].startswith(
        ("_sysconfigdata", "config-")):
      continue
    found += _module_docstrings(path, relative.as_posix())
  return tuple(found)


def _module_docstrings(path: pathlib.Path, name: str) -> Iterator[Text]:
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # Invalid escapes in old modules.
      tree = ast.parse(path.read_bytes())
  except (SyntaxError, ValueError):
    return  # Templates that are no modules, whatever their suffix.
  documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
  for node in ast.walk(tree):
    if isinstance(node, documented):
      text = (ast.get_docstring(node) or "").strip()
      if text:
        yield Text(key=f"{name}:{getattr(node, 'lineno', 0)}", text=text)


def _topics(root: pathlib.Path) -> list[Text]:
  """Returns the topics of the reference manual that `help()` shows."""
  path = root / _TOPICS
  if not path.exists():
    return []
  # The file assigns one dict of literals, so it need not be imported either.
  for node in ast.parse(path.read_bytes()).body:
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "topics":
      topics = ast.literal_eval(node.value)
      return [Text(key=f"{_TOPICS}:{k}", text=topics[k]) for k in sorted(topics)]
  return []


def _pair(docstring: Text) -> Pair | None:
  """Returns the parts of a docstring; None without a summary or if one is short."""
  summary, _, rest = docstring.text.partition("\n")
  blank, _, body = rest.partition("\n")
  summary, body = summary.strip(), body.strip("\n").rstrip()
  if blank.strip() or len(body) < MIN_BODY or len(summary) < MIN_SUMMARY:
    return None
  return Pair(key=docstring.key, body=body, summary=summary)


def _needles(pairs_: Iterable[Pair]) -> list[str]:
  return [normalize(text) for pair in pairs_ for text in (pair.body, pair.summary)]


def _topic_pieces(topics: Iterable[Text], needles: Sequence[str]) -> Iterator[Text]:
  """Yields topics, divided at paragraphs into texts of about `_PIECE` characters.

  Topics repeat each other's sections, so each paragraph is kept only where it occurs
  first. Paragraphs that overlap a needle are left out.
  """
  seen: set[str] = set()
  for topic in topics:
    paragraphs = [p for p in topic.text.split("\n\n") if p.strip()]
    # Single paragraphs are left out, because topics are long and few.
    leaking = _overlapping(paragraphs, needles)
    piece: list[str] = []
    for i, paragraph in enumerate(paragraphs):
      if i in leaking or normalize(paragraph) in seen:
        continue
      seen.add(normalize(paragraph))
      piece.append(paragraph.strip("\n").rstrip())
      if sum(map(len, piece)) >= _PIECE:
        yield Text(key=f"{topic.key}:{i}", text="\n\n".join(piece))
        piece = []
    if piece:
      yield Text(key=f"{topic.key}:end", text="\n\n".join(piece))


def _overlapping(paragraphs: Sequence[str], needles: Iterable[str]) -> set[int]:
  """Returns the indices of paragraphs that share a character with a needle."""
  # Joined by a space, unlike in `containing`: a needle may span several paragraphs.
  joined, starts = _join([normalize(paragraph) for paragraph in paragraphs], " ")
  hits: set[int] = set()
  for needle in set(needles):
    for position in _occurrences(joined, needle):
      last = _index(starts, position + len(needle) - 1)
      hits.update(range(_index(starts, position), last + 1))
  return hits


def _join(parts: Sequence[str], separator: str) -> tuple[str, list[int]]:
  """Returns the parts as one string, and the position at which each part begins."""
  lengths = (len(part) + len(separator) for part in parts)
  starts = list(itertools.accumulate(lengths, initial=0))[:-1]
  return separator.join(parts), starts


def _occurrences(text: str, needle: str) -> Iterator[int]:
  position = text.find(needle)
  while position >= 0:
    yield position
    position = text.find(needle, position + 1)


def _index(starts: Sequence[int], position: int) -> int:
  """Returns the index of the part that a position belongs to."""
  return bisect.bisect_right(starts, position) - 1
