"""Tests for the lists of packages."""

import re

from setuptools import dist

from tests import paths


def _versions(name):
  text = (paths.ROOT / name).read_text()
  return {match[1].lower().replace("_", "-"): match[2] for match in re.finditer(
      r"^([A-Za-z0-9._-]+)==([^\s;\\]+)(?!.*python_version >)", text, re.MULTILINE)}


def test_locked_packages_have_the_versions_of_the_constraints():
  locked, constraints = map(
      _versions, ("requirements-lock.txt", "constraints.txt"))

  assert len(locked) > 50 and "jax" in locked and "xxhash" in locked
  own = {name: version for name, version in locked.items() if name != "setuptools"}
  assert own.items() <= constraints.items()


def test_every_locked_file_has_a_hash():
  text = (paths.ROOT / "requirements-lock.txt").read_text()

  for package in re.split(r"\n(?=[a-zA-Z0-9])", text)[1:]:
    assert re.search(r"--hash=sha256:[0-9a-f]{64}", package), package


def test_an_installed_package_has_every_file_that_is_no_module(monkeypatch):
  monkeypatch.chdir(paths.ROOT)
  package = dist.Distribution({"script_name": "setup.py"})
  package.parse_config_files(["setup.cfg"], ignore_option_errors=True)
  build = package.get_command_obj("build_py")
  build.ensure_finalized()

  taken = {f"{folder}/{name}" for _, folder, _, names in build.data_files
           for name in names}

  wanted = {str(path.relative_to(paths.ROOT))
            for path in (paths.ROOT / "transfer_gen").rglob("*")
            if path.is_file() and path.suffix not in (".py", ".pyc")}
  assert "transfer_gen/run/templates/study.html" in wanted <= taken
