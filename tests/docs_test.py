"""Tests that the pages name only existing files, modules, commands, flags, fields."""

import ast
import dataclasses
import importlib.util
import re
from typing import Any

import pytest

from tests import imports_test
from tests import paths
from transfer_gen import config
from transfer_gen.commands import declarations

PAGES = sorted(
    [*(paths.ROOT / "docs").glob("*.md"),
     *(paths.ROOT / name for name in ("README.md", "CONTRIBUTING.md"))])
_each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_FILE = re.compile(r"\b(?:transfer_gen|tests|benchmarks|experiments|docs)/[\w/]+\.\w+")
_MODULE = re.compile(r"automodule:: ([\w.]+)|python -m (benchmarks[\w.]*|tests[\w.]*)")
_COMMAND = re.compile(r"transfer-gen +([a-z]+)((?:[^\n`]|\n {20,})*)")
_FLAG = re.compile(r"--([a-z_]+)(?![a-z_.])")
# Of a study, a flag names one run, or all.
_FIELD = re.compile(r"--config\.(?:runs\.NAME\.|all\.)?([a-z_.]+)")
_CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
# Placeholders in the pages, which name no real file.
_PLACEHOLDERS = {"transfer_gen/maps/NAME.py"}


@_each_page
def test_relative_links_point_to_files(page):
  links = [link for link in _LINK.findall(page.read_text())
           if not re.match("[a-z]+:", link)]

  missing = [link for link in links if not (page.parent / link).exists()]

  assert not missing


@_each_page
def test_named_files_exist(page):
  named = set(_FILE.findall(page.read_text())) - _PLACEHOLDERS

  missing = {name for name in named if not (paths.ROOT / name).exists()}

  assert not missing


@_each_page
def test_named_modules_exist(page):
  for names in _MODULE.findall(page.read_text()):
    for name in filter(None, names):
      assert importlib.util.find_spec(name), name


@_each_page
def test_commands_and_their_flags_exist(page):
  for command, words in _COMMAND.findall(page.read_text()):
    declared = declarations.COMMANDS[command]
    flags = {flag.name for flag in declared.flags} | {"help"}
    assert set(_FLAG.findall(words)) <= flags, (command, words)


@_each_page
def test_named_flags_belong_to_a_command(page):
  known = {flag.name for command in declarations.COMMANDS.values()
           for flag in command.flags}
  # Only flags in code of their own, such as `--beams=4`: the pages also name pip's.
  named = set(re.findall(r"`--([a-z_]+)(?:=[^`]*)?`", page.read_text()))

  assert named <= known


@_each_page
def test_overridden_fields_exist(page):
  for names in _FIELD.findall(page.read_text()):
    if names != "a.b":
      kinds = (config.Run,)
      # `sources` holds a `Source` under any name.
      names = re.sub(r"^sources\.\w+", "source", names)
      for name in names.rstrip(".").split("."):
        kinds = _fields(kinds, name)
        assert kinds, names


@_each_page
def test_python_code_blocks_have_valid_syntax(page):
  for code in _CODE.findall(page.read_text()):
    ast.parse(code)


def test_config_files_in_the_pages_return_runs():
  files = [code for page in PAGES for code in _CODE.findall(page.read_text())
           if "def get_config" in code]

  for code in files:
    file: dict[str, Any] = {}
    exec(code, file)  # Safe: the code comes from our own pages.
    assert isinstance(file["get_config"](), config.Run)
    if "get_study" in file:
      assert set(file["get_study"]().runs) == {"moved", "scratch"}

  assert len(files) == 2


def test_the_code_map_lists_folders_in_import_order():
  text = (paths.ROOT / "docs" / "code_map.md").read_text()

  listed = re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE)

  assert ("", *listed) == imports_test.ORDER


def test_the_changelog_gives_current_names():
  rows = re.findall(r"^\| [^|]*`[^|]* \| ([^|]*) \|$",
                    (paths.ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
  names = [name for row in rows
           for name in re.findall(r"`([a-z_]+(?:\.[a-z0-9_]+)+)`", row)]

  assert len(names) > 15 and not [name for name in names if not _exists(name)]
  assert not _exists("transfer.audit.of")


def test_the_patterns_of_these_tests_find_matches_in_the_pages():
  text = "\n".join(page.read_text() for page in PAGES)

  assert len(_LINK.findall(text)) > 20 and len(_FILE.findall(text)) > 50
  assert len(_MODULE.findall(text)) > 20 and len(_CODE.findall(text)) > 5
  assert {command for command, _ in _COMMAND.findall(text)} >= {
      *declarations.COMMANDS}
  assert {"beams", "min_coverage"} <= {
      flag for _, words in _COMMAND.findall(text) for flag in _FLAG.findall(words)}
  assert len(_FIELD.findall(text)) > 5


def _exists(name):
  """Returns whether a name in the package is a module or an attribute of one."""
  name = "transfer_gen." + name.removeprefix("transfer_gen.")
  owner, _, last = name.rpartition(".")
  try:
    return hasattr(importlib.import_module(owner), last) or bool(
        importlib.import_module(name))
  except ModuleNotFoundError:
    return False


def _fields(kinds, name):
  """Returns the dataclasses that the named field of the given ones can hold."""
  found = ()
  for kind in kinds:
    for field in dataclasses.fields(kind):
      if field.name == name:
        value = (field.default_factory()
                 if field.default_factory is not dataclasses.MISSING else None)
        if name == "model":
          found += (config.Decoder, config.EncoderDecoder, config.Recurrent)
        elif name in ("source", "teacher"):
          found += (config.Source,)
        elif name == "encoder_tokenizer":
          found += (config.Tokenizer,)
        elif dataclasses.is_dataclass(value):
          found += (type(value),)
        else:
          # A plain value has no fields; any dataclass marks that the name exists.
          found += (config.Train,)
  return found
