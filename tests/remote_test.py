"""Tests of paths on gs:// and s3://, against local servers of these protocols."""

import importlib.util
import pathlib
import subprocess
import sys

from etils import epath
import pytest

from tests import paths
from tests import small_runs
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import remote
from transfer_gen import sources
from transfer_gen.commands import flags
from transfer_gen.data import documents
from transfer_gen.data import tokenizers
from transfer_gen.run import loop

_MISSING = [name for name in ("gcsfs", "s3fs")
            if importlib.util.find_spec(name) is None]


@pytest.mark.parametrize("package, path, extra", [
    ("gcsfs", "gs://bucket/text.txt", "gcs"), ("s3fs", "s3://bucket/text.txt", "s3")])
def test_an_extra_that_is_missing_is_named(package, path, extra):
  if package not in _MISSING:
    pytest.skip("it is installed")
  message = rf"^{path}: .* needs the package {package}.*transfer_gen\[{extra}\]"

  for read in (remote.check, tokenizers.load, lambda path: documents.load(
      config.Data(name="files", train=path)), lambda path: flags.parse(
          "inspect", [f"--source={path}"])):
    with pytest.raises(errors.UserError, match=message):
      read(path)


def test_a_command_with_a_missing_extra_ends_with_one_message():
  if "gcsfs" not in _MISSING:
    pytest.skip("it is installed")

  done = subprocess.run(
      [sys.executable, "-m", "transfer_gen", "generate", "--workdir=gs://bucket/run"],
      cwd=paths.ROOT, capture_output=True, text=True)

  assert done.returncode == 2 and done.stderr.count("\n") == 1
  assert "pip install 'transfer_gen[gcs]'" in done.stderr


def test_workdirs_on_s3_and_other_storage_are_refused():
  for refuse in (lambda: flags.parse("generate", ["--workdir=s3://bucket/run"]),
                 lambda: sources.open_own("s3://bucket/run")):
    with pytest.raises(errors.UserError, match="no checkpoints on s3://"):
      refuse()
  with pytest.raises(errors.UserError, match="storage of az:// is not supported"):
    remote.check("az://bucket/text.txt")
  assert remote.check("a://b/../c d".replace("a:", "./a ")) is None
  assert str(remote.absolute("gs://bucket/run")) == "gs://bucket/run"
  assert remote.absolute("run") == epath.Path("run").resolve()


# One for all tests: fsspec keeps its connections.
@pytest.fixture(name="s3", scope="module")
def _s3():
  """A bucket on a server of Amazon's protocol."""
  pytest.importorskip("s3fs")
  server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port=0)
  server.start()
  host, port = server.get_host_and_port()
  with pytest.MonkeyPatch.context() as patch:
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"), ("AWS_ACCESS_KEY_ID", "name"),
        ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_DEFAULT_REGION", "us-east-1")):
      patch.setenv(name, value)
    epath.Path("s3://bucket").mkdir()
    yield epath.Path("s3://bucket/data")
  server.stop()


def _copy(text: pathlib.Path, folder: epath.Path) -> None:
  small_runs.write_lines(text)
  (folder / "b.txt").write_text(text.read_text())
  (folder / "a.txt").write_text("line 1, 2\nline 3, 4")


def test_texts_on_s3_are_those_of_local_files(s3, tmp_path):
  _copy(tmp_path / "b.txt", s3)
  (tmp_path / "a.txt").write_text((s3 / "a.txt").read_text())

  found, facts = documents.load(
      config.Data(name="files", train="s3://bucket/data/*.txt", unit="line"))
  local, own = documents.load(
      config.Data(name="files", train=f"{tmp_path}/*.txt", unit="line"))

  assert found == local and facts["fingerprint"] == own["fingerprint"]
  with pytest.raises(errors.UserError, match="there is no file s3://bucket/none.txt"):
    documents.load(config.Data(name="files", train="s3://bucket/none.txt"))


def test_a_run_reads_its_texts_from_s3(s3, tmp_path):
  _copy(tmp_path / "b.txt", s3)

  result = loop.train(small_runs.configure(
      "s3://bucket/data/b.txt", small_runs.DECODER, steps=2), tmp_path / "remote")
  local = loop.train(small_runs.configure(
      tmp_path / "b.txt", small_runs.DECODER, steps=2), tmp_path / "local")

  assert result["best_validation_loss"] == local["best_validation_loss"]
