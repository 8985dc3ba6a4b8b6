"""The table of formats in docs/models_and_data.md: each of its paths is read here."""

import re

import pytest

from tests import paths
from tests.data import making
from transfer_gen.data import files

PAGE = (paths.ROOT / "docs" / "models_and_data.md").read_text()
ROWS = [{"en": f"text {i}", "de": f"Text {i}"} for i in range(3)]
TEXT = b"one\ntwo\nthree\n"
TEXTS = [{"text": "one\n"}, {"text": "two\n"}, {"text": "three\n"}]
LINES = making.json_lines(ROWS)
# What lies in the folder from which the paths of the page are read.
FILES = {
    "notes.txt": TEXT, "more/a.txt": TEXT, "corpus.en": TEXT, "corpus.de": TEXT,
    "memory.tmx": making.translation_memory(ROWS),
    **{f"pairs{ending}": write(ROWS) for ending, write in making.STRUCTURED.items()},
    "notes.txt.gz": making.COMPRESSED[".gz"](TEXT),
    "pairs.json.bz2": making.COMPRESSED[".bz2"](LINES),
    "pairs.csv.xz": making.COMPRESSED[".xz"](making.comma_separated(ROWS)),
    "corpora.zip": making.zipped(
        {"train.tsv": making.tab_separated(ROWS), "news/a.jsonl": LINES})}
PAIRS = [{"input": line["text"][:-1], "target": line["text"][:-1]} for line in TEXTS]
WANT = {
    "notes.txt": TEXTS, "notes.txt.gz": TEXTS, "corpus.en|corpus.de": PAIRS,
    "corpora.zip": ROWS * 2, "notes.txt, more/*.txt": TEXTS * 2,
    "notes.txt*0.3 + more/*.txt*0.7": TEXTS * 2}
HEAD = "| your files | `data.train`, for example | columns |\n| --- | --- | --- |\n"


def named():
  """Returns the paths in the second column of the table."""
  table = PAGE.partition(HEAD)[2].partition("\n\n")[0]
  cells = [re.split(r"(?<!\\)\|", line)[2] for line in table.splitlines()]
  return [path.replace("\\|", "|") for cell in cells
          for path in re.findall("`([^`]+)`", cell)]


@pytest.mark.parametrize("path", named())
def test_each_path_of_the_table_is_read(tmp_path, monkeypatch, path):
  monkeypatch.chdir(tmp_path)
  for name, data in FILES.items():
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(data)

  found = files.read(path, files.Options(unit="line"), "train")

  assert [columns for _, columns in found.examples] == WANT.get(path, ROWS)


def test_the_table_names_every_format():
  shown = " ".join(named())

  assert len(named()) > 15
  assert all(ending in shown for ending in [*making.STRUCTURED, *making.COMPRESSED])
