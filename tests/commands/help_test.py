"""Tests for `--help`, `--version` and usage errors, and for their imports."""

import importlib
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from tests import paths
from tests.commands import cli
from transfer_gen.commands import declarations


@pytest.mark.parametrize("command", ["", *declarations.COMMANDS])
def test_help_is_short_and_names_every_flag_with_its_default(capsys, command):
  code, printed = cli.stopped(capsys, *([command] if command else []), "--help")

  lines = printed.out.splitlines()
  assert code == 0 and len(lines) < 45 and max(map(len, lines)) <= 100
  assert "default )" not in printed.out and "Default: ." not in printed.out
  for flag in declarations.COMMANDS[command].flags if command else ():
    [start] = [i for i, line in enumerate(lines)
               if re.match(f"  --{flag.name}( |=)", line)]
    described = re.split("  --(?!config.a.b)", "\n".join(lines[start:]))[1]
    # A default that turns a feature off needs no mention.
    quiet = flag.default is None or flag.default is False or flag.default == ""
    assert quiet != (f"Default: {flag.default}." in described)
    assert flag.required == ("Required." in described)


def test_usage_lists_every_command_and_each_has_a_module(capsys):
  printed = cli.stopped(capsys, "--help")[1].out

  for name, command in declarations.COMMANDS.items():
    assert f"  {name:10}{command.summary}" in printed.splitlines()
    module = importlib.import_module(f"transfer_gen.commands.{name}")
    assert callable(module.run)


@pytest.mark.parametrize("words", [
    "--help", "train --help", "--version", "nothing", "train --workdir=w",
    "train --config=no.py --workdir=w", "generate --steps=3"])
def test_help_and_usage_errors_do_not_import_jax(words):
  code = ("import sys; sys.argv[0] = 'transfer-gen'\n"
          "from transfer_gen import __main__ as main\n"
          "try: main.run()\n"
          "except SystemExit: print('jax' in sys.modules, 'numpy' in sys.modules)")

  printed = subprocess.run(
      [sys.executable, "-c", code, *words.split()], capture_output=True, text=True,
      check=True).stdout

  assert printed.splitlines()[-1] == "False False"


def test_what_the_encoding_of_the_output_lacks_is_printed_as_an_escape(tmp_path):
  np.savez(tmp_path / "a.npz", **{"\u20ac": np.zeros(3)})

  done = subprocess.run(
      [sys.executable, "-m", "transfer_gen", "inspect",
       f"--source={tmp_path / 'a.npz'}"], cwd=paths.ROOT, capture_output=True,
      text=True, check=False, env=os.environ | {"PYTHONIOENCODING": "latin-1"})

  assert (done.returncode, done.stderr) == (0, "")
  assert "\n\\u20ac " in done.stdout


def test_version_prints_the_package_version(capsys):
  code, printed = cli.stopped(capsys, "--version")

  setup = (pathlib.Path(__file__).parents[2] / "setup.cfg").read_text()
  version = re.search(r"^version = (.+)$", setup, re.MULTILINE)[1]
  assert code == 0 and printed.out == f"transfer-gen {version}\n"


def test_a_missing_command_prints_the_usage_and_fails(capsys):
  code, printed = cli.stopped(capsys)

  assert code == 2 and "usage: transfer-gen COMMAND" in printed.out
