"""Paths, patterns, pairs and mixtures; what exists is a path, whatever its name."""

import pytest

from tests.data import making
from transfer_gen import errors
from transfer_gen.data import files
from transfer_gen.data.readers import patterns


def read(paths, **options):
  return files.read(paths, files.Options(**options), "train")


def texts(paths):
  return [columns["text"] for _, columns in read(paths).examples]


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.mark.parametrize("name", [
    "a[1].txt", "a*.txt", "a?.txt", "a,b.txt", "a|b.txt", "a + b.txt", "a*0.5 + b*0.5",
    "a, b|c [d].txt"])
def test_a_file_that_exists_is_read_whatever_its_name(folder, name):
  for other in ("a1.txt", "b.txt", "a", "b", "c [d].txt"):
    (folder / other).write_text("other")
  (folder / name).write_text("this")

  assert texts(name) == ["this"]
  assert texts(f"{name}, b.txt") == ["this", "other"]
  assert not files.is_parallel(name)


def test_names_with_bars_may_stand_in_a_pair(folder):
  (folder / "a|b.en").write_text("one\n")
  (folder / "a|b.de").write_text("eins\n")

  (found,) = read("a|b.en|a|b.de").examples

  assert found[1] == {"input": "one", "target": "eins"}
  assert files.is_parallel("a|b.en|a|b.de")


def test_brackets_of_a_name_that_does_not_exist_are_a_pattern(folder):
  for name in ("a1.txt", "a2.txt", "a3.txt"):
    (folder / name).write_text(name)

  assert texts("a[12].txt") == ["a1.txt", "a2.txt"]


def test_folders_may_have_characters_of_patterns(folder):
  inner = folder / "x[1]*b"
  inner.mkdir()
  for name in ("a1.txt", "a2.txt"):
    (inner / name).write_text(name)

  for path in (inner, inner.relative_to(folder)):
    assert texts(f"{path}/a?.txt") == ["a1.txt", "a2.txt"]
    assert texts(f"{path}/a1.txt") == ["a1.txt"]


def test_a_pattern_may_match_archives_and_the_home_folder_has_its_sign(
    folder, monkeypatch):
  monkeypatch.setenv("HOME", str(folder))
  for name in "ba":
    (folder / f"{name}.zip").write_bytes(making.zipped({"x.txt": name.encode()}))

  assert texts("~/*.zip") == ["a", "b"]


def test_line_aligned_files_may_stand_in_an_archive(folder):
  (folder / "a.zip").write_bytes(making.zipped({"x.en": b"one\n", "x.de": b"eins\n"}))

  (found,) = read("a.zip/x.en|a.zip/x.de").examples

  assert found == ("a.zip/x.de:1", {"input": "one", "target": "eins"})


def test_a_mixture_keeps_its_parts_apart_with_shares_that_add_up_to_one(folder):
  for name in ("a.txt", "b1.txt", "b2.txt", "c.en", "c.de"):
    (folder / name).write_text(name)

  found = read("a.txt*1 + b*.txt * .5 + c.en|c.de*0.50")

  assert found.shares == [0.5, 0.25, 0.25]
  assert [[columns for _, columns in part] for part in found.parts] == [
      [{"text": "a.txt"}], [{"text": "b1.txt"}, {"text": "b2.txt"}],
      [{"input": "c.en", "target": "c.de"}]]


@pytest.mark.parametrize("paths, message", [
    ("a.txt*0.3 + a.txt", "`a.txt` has no share"),
    ("a.txt*0 + a.txt*1", "a share is 0"),
    ("a.txt|a.txt|a.txt", "must name two files"),
    ("a.txt|*.txt", "must name two files"),
    (".", r"there is no file \. .*It is a folder: write \./\*\.txt"),
    ("none/*.txt", "no file matches"),
])
def test_what_names_no_files_is_refused(folder, paths, message):
  (folder / "a.txt").write_text("a")
  (folder / "b.txt").write_text("b")

  with pytest.raises(errors.UserError, match=f"data.train: .*{message}"):
    read(paths)


def test_shares_are_refused_where_nothing_is_trained(folder):
  (folder / "a.txt").write_text("a")

  with pytest.raises(errors.UserError, match="data.test: shares are for training only"):
    files.read("a.txt*1 + a.txt*1", files.Options(), "test")


def test_names_that_no_system_takes_are_names_of_no_file():
  assert patterns.items("a" * 5000) == ["a" * 5000]
  assert patterns.items("a\0,b") == ["a\0", "b"]
