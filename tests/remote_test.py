"""Tests of paths on gs:// and s3://, against local servers of these protocols.

The servers come with the extra `remote_test`; without it their tests are skipped.
"""

import importlib.util
import pathlib
import socket
import subprocess
import sys

from etils import epath
import numpy as np
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
from transfer_gen.run import records

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


def test_a_checkpoint_of_another_library_is_read_from_s3(s3, tmp_path):
  transformers = pytest.importorskip("transformers")
  transformers.GPT2LMHeadModel(transformers.GPT2Config(
      n_layer=1, n_head=2, n_embd=8, vocab_size=20, n_positions=16)).save_pretrained(
          tmp_path / "model")
  for path in (tmp_path / "model").iterdir():
    (s3.parent / "model" / path.name).write_bytes(path.read_bytes())

  found, local = (sources.open(path) for path in (
      "s3://bucket/model", tmp_path / "model"))

  assert found.specs == local.specs
  theirs = dict(local.read(list(local.specs)))
  for name, value in found.read(list(found.specs)):
    np.testing.assert_array_equal(value, theirs[name])


def _move(request, response, storage, *given, **named):
  """Renames an object, which Cloud Storage can do and its emulator cannot."""
  objects = importlib.import_module("gcp_storage_emulator.handlers.objects")
  bucket = request.params["bucket_name"]
  request.params["dest_bucket_name"] = bucket
  objects.copy(request, response, storage)
  storage.delete_file(bucket, request.params["object_id"])


@pytest.fixture(name="gcs", scope="module")
def _gcs():
  """A bucket on a server of Google's protocol."""
  pytest.importorskip("gcsfs")
  server = pytest.importorskip("gcp_storage_emulator.server")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(server, "HANDLERS", (
        (r"^/storage/v1/b/(?P<bucket_name>[-.\w]+)/o/(?P<object_id>.*?)/moveTo/o/"
         r"(?P<dest_object_id>.*)$", {"POST": _move}), *server.HANDLERS))
    with socket.socket() as free:
      free.bind(("127.0.0.1", 0))
      port = free.getsockname()[1]
    running = server.create_server(
        "127.0.0.1", port, in_memory=True, default_bucket="bucket")
    running.start()
    for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
      patch.setenv(name, f"http://127.0.0.1:{port}")
    patch.setenv("GCE_METADATA_ROOT", "127.0.0.1:1")  # No credentials from elsewhere.
    yield epath.Path("gs://bucket")
    running.stop()


@pytest.mark.long
def test_a_run_on_gs_leaves_what_a_local_one_leaves_and_goes_on(gcs, tmp_path):
  _copy(tmp_path / "b.txt", gcs / "data")
  run = small_runs.configure(
      "gs://bucket/data/b.txt", small_runs.DECODER, steps=4, checkpoint_every=2)
  workdir = gcs / "run"

  result = loop.train(run, workdir)
  again = loop.train(run, workdir)  # Opens all of its files again.
  local = loop.train(run, tmp_path / "run")

  assert result["best_validation_loss"] == local["best_validation_loss"]
  assert again["step"] == 4
  steps = lambda folder: [
      (line["step"], line["loss"]) for line in records.read_metrics(folder)]
  assert steps(workdir) == steps(tmp_path / "run") and len(steps(workdir)) == 5
  mine, theirs = small_runs.params(workdir), small_runs.params(tmp_path / "run")
  assert mine.keys() == theirs.keys()
  for name, value in mine.items():
    np.testing.assert_array_equal(value, theirs[name])
  assert not pathlib.Path("gs:").exists()


def test_lines_on_storage_that_only_replaces_files_stay(gcs, monkeypatch):
  path = gcs / "lines.txt"
  path.write_text("a\n")

  monkeypatch.setattr(remote.Lines, "EVERY", 0)
  lines = remote.Lines(path)
  lines.add("b\n")
  assert path.read_text() == "a\nb\n"
  monkeypatch.setattr(remote.Lines, "EVERY", 1e9)
  lines.add("c\n")
  lines.close()

  assert path.read_text() == "a\nb\nc\n"
