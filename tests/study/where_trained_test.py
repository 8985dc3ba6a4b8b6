"""Tests that a study names the environments of its trainings, and not its own."""

import json

from etils import epath
import pytest

from tests.study import found
from transfer_gen import config
from transfer_gen import errors
from transfer_gen.run import environment
from transfer_gen.study import jobs
from transfer_gen.study import where_trained


def _job(workdir, name, **changes):
  job = jobs.Job(name=name, seed=0, lr=0.1, workdir=epath.Path(workdir) / name,
                 run=config.Run())
  job.workdir.mkdir()
  (job.workdir / "environment.json").write_text(
      json.dumps(found.environment(**changes)))
  return job


def test_each_environment_is_read_once_from_the_workdirs(tmp_path):
  trained = [_job(tmp_path, "source", commit="a" * 40), _job(tmp_path, "moved"),
             _job(tmp_path, "scratch", commit="a" * 40)]

  read = where_trained.read(trained)

  assert [one["names"] for one in read] == [["source", "scratch"], ["moved"]]
  assert where_trained.commits(read) == (
      "commit aaaaaaaaaa with changes abcd (source, scratch) and commit 0123456789 with"
      " changes abcd (moved)")
  assert environment.describe()["commit"] not in [one["commit"] for one in read]


def test_a_training_without_the_file_is_named_as_unknown(tmp_path):
  trained = [_job(tmp_path, "moved"), _job(tmp_path, "scratch")]
  (trained[1].workdir / "environment.json").unlink()

  read = where_trained.read(trained)

  assert where_trained.commits(read).endswith(" and commit none (scratch)")
  assert "jax 1 (moved) and unknown (scratch)" in where_trained.libraries(read)


def test_a_damaged_file_is_named(tmp_path):
  job = _job(tmp_path, "moved")
  (job.workdir / "environment.json").write_text("{}")

  with pytest.raises(errors.UserError, match="moved/environment.json"):
    where_trained.read([job])


def test_versions_of_other_libraries_are_named_only_where_they_differ():
  one, other = (found.environment(names=[name], versions={
      "jax": "1", "flax": "2", "optax": "3", "numpy": version})
                for name, version in (("moved", "7"), ("scratch", "8")))

  assert "numpy" not in where_trained.libraries([one])
  assert "numpy 7 (moved) and 8 (scratch)" in where_trained.libraries([one, other])
