"""Text of the running Python's standard library, and one split for all that use it.

Modules are parsed, never imported, so nothing runs. The files are those that the
installation has, in sorted order and named relative to it: two installations of
one Python version give the same text, unless a distribution left modules out (the
fingerprint in data.json shows it).

A held-out text is one of a pair in validation or test. What contains its body or
its summary, whatever the spacing, is dropped from every other split of the pairs
and from the whole of the prose.
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
MIN_BODY = 80
MIN_SUMMARY = 20
_PIECE = 1500
_EXCLUDED = frozenset({
    "site-packages", "dist-packages", "test", "tests", "idle_test", "_bundled",
    "lib-dynload", "__pycache__"})
_TOPICS = "pydoc_data/topics.py"


@dataclasses.dataclass(frozen=True)
class Text:
  """A piece of prose.

  Attributes:
    key: Where it stands, `path:line`, unique.
    text: The docstring without its indentation, or part of a topic.
  """
  key: str
  text: str


@dataclasses.dataclass(frozen=True)
class Pair:
  """A docstring taken apart: what follows its first line, and that line."""
  key: str
  body: str
  summary: str


def version() -> str:
  """Version of the data: 1.<Python's major and minor>.<micro>, e.g. 1.311.7.

  The first number is that of the rules in this file.
  """
  info = sys.version_info
  return f"1.{info.major}{info.minor:02d}.{info.micro}"


def normalize(text: str) -> str:
  """NFC with every run of white space as one space: what texts are compared by."""
  return " ".join(unicodedata.normalize("NFC", text).split())


def split_of(text: str) -> str:
  """The split that a text belongs to in every data set: 80, 10 and 10 of 100."""
  digest = hashlib.sha256(normalize(text).encode()).digest()
  rank = int.from_bytes(digest[:8], "big") % 10
  return SPLITS[max(0, rank - 7)]


def pairs() -> dict[str, list[Pair]]:
  """Body and summary of each docstring that PEP 257 describes, by split."""
  return split_pairs(_docstrings(stdlib()))


def prose() -> dict[str, list[Text]]:
  """All docstrings and topics but those that hold a held-out text, by split."""
  root = stdlib()
  docstrings = _docstrings(root)
  return split_prose(docstrings, _topics(root), held_out(split_pairs(docstrings)))


def split_pairs(docstrings: Iterable[Text]) -> dict[str, list[Pair]]:
  """Pairs by split; the test split is filled first and keeps what it has.

  No body stands twice, and no body or summary of validation or test stands in
  another split, on its own or inside another text.
  """
  found: dict[str, list[Pair]] = {split: [] for split in SPLITS}
  seen = set()
  for docstring in docstrings:
    pair = _pair(docstring)
    if pair is None or normalize(pair.body) in seen:
      continue
    seen.add(normalize(pair.body))
    found[split_of(docstring.text)].append(pair)

  kept: dict[str, list[Pair]] = {split: [] for split in SPLITS}
  needles: list[str] = []
  for split in reversed(SPLITS):
    texts = [f"{pair.summary}\n\n{pair.body}" for pair in found[split]]
    hits = containing(texts, needles)
    kept[split] = [p for i, p in enumerate(found[split]) if i not in hits]
    needles += _needles(kept[split])
  return kept


def split_prose(
    docstrings: Iterable[Text],
    topics: Iterable[Text],
    needles: Sequence[str],
) -> dict[str, list[Text]]:
  """Docstrings, and topics in pieces, by split; none contains a needle."""
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
  """Normalised bodies and summaries of validation and test."""
  return _needles([*split["validation"], *split["test"]])


def containing(texts: Sequence[str], needles: Iterable[str]) -> set[int]:
  """Indices of the texts that contain one of the (normalised) needles."""
  # One search a needle, over all texts at once; no needle holds a NUL.
  joined, starts = _join([normalize(text) for text in texts], "\0")
  return {
      _index(starts, position) for needle in set(needles)
      for position in _occurrences(joined, needle)}


def stdlib() -> pathlib.Path:
  """Folder of the running Python's standard library."""
  return pathlib.Path(sysconfig.get_paths()["stdlib"])


@functools.lru_cache(maxsize=1)
def _docstrings(root: pathlib.Path) -> tuple[Text, ...]:
  """Docstrings of all modules, classes and functions below a folder."""
  found = []
  for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).parts):
    relative = path.relative_to(root)
    # What the build wrote (_sysconfigdata, config-...) differs by install path.
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
  """The reference manual's topics that `help()` shows."""
  path = root / _TOPICS
  if not path.exists():
    return []
  for node in ast.parse(path.read_bytes()).body:
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "topics":
      topics = ast.literal_eval(node.value)
      return [Text(key=f"{_TOPICS}:{k}", text=topics[k]) for k in sorted(topics)]
  return []


def _pair(docstring: Text) -> Pair | None:
  """None where the first line is no summary, or the rest is short."""
  summary, _, rest = docstring.text.partition("\n")
  blank, _, body = rest.partition("\n")
  summary, body = summary.strip(), body.strip("\n").rstrip()
  if blank.strip() or len(body) < MIN_BODY or len(summary) < MIN_SUMMARY:
    return None
  return Pair(key=docstring.key, body=body, summary=summary)


def _needles(pairs_: Iterable[Pair]) -> list[str]:
  return [normalize(text) for pair in pairs_ for text in (pair.body, pair.summary)]


def _topic_pieces(topics: Iterable[Text], needles: Sequence[str]) -> Iterator[Text]:
  """Topics cut at paragraphs into documents of about `_PIECE` characters.

  Topics repeat each other's sections, so a paragraph counts where it first
  stands; those that overlap a needle are left out.
  """
  seen: set[str] = set()
  for topic in topics:
    paragraphs = [p for p in topic.text.split("\n\n") if p.strip()]
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
  """Indices of the paragraphs that share a character with a needle's occurrence."""
  joined, starts = _join([normalize(paragraph) for paragraph in paragraphs], " ")
  hits: set[int] = set()
  for needle in set(needles):
    for position in _occurrences(joined, needle):
      last = _index(starts, position + len(needle) - 1)
      hits.update(range(_index(starts, position), last + 1))
  return hits


def _join(parts: Sequence[str], separator: str) -> tuple[str, list[int]]:
  """The parts as one string, and where each begins in it."""
  lengths = (len(part) + len(separator) for part in parts)
  starts = list(itertools.accumulate(lengths, initial=0))[:-1]
  return separator.join(parts), starts


def _occurrences(text: str, needle: str) -> Iterator[int]:
  position = text.find(needle)
  while position >= 0:
    yield position
    position = text.find(needle, position + 1)


def _index(starts: Sequence[int], position: int) -> int:
  """Which part, of those that begin at `starts`, a position lies in."""
  return bisect.bisect_right(starts, position) - 1
