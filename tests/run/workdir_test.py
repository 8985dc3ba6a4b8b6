"""Tests for writing plan and audit to a workdir and reading them back."""

import dataclasses
import json
import types

import numpy as np
import pytest

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.run import ownership
from transfer_gen.run import plan_files
from transfer_gen.transfer import audit as audit_lib
from transfer_gen.transfer import axes
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import table

Group, On, Rule = plan_lib.Group, plan_lib.On, plan_lib.Rule
SOURCE = {"w": tree.Spec(shape=(6,), dtype=np.dtype("float32"), axes=("mlp",),
                         reads=(False,))}
TARGET = {"w": dataclasses.replace(SOURCE["w"], shape=(3,))}


def _setup(index):
  """Returns the parts of an assembled run that writing plan and audit needs."""
  plan = plan_lib.TransferPlan(
      rules=(Rule(target="w", source="w"),),
      axes=(On(axis="mlp", map=axes.Select(index=index)),),
      groups=(Group(name="all", params=".*"),))
  return types.SimpleNamespace(
      plan=plan, source_specs={"": SOURCE}, constants={},
      rows=resolve.resolve(plan, {"": SOURCE}, TARGET))


ARRAY = _setup(np.array([5, 0, 2], np.int32))


def test_a_plan_is_read_back_with_its_arrays(tmp_path):
  plan_files.write_audit(ARRAY, tmp_path)

  back = ownership.read_plan(tmp_path)

  np.testing.assert_array_equal(back.axes[0].map.index, [5, 0, 2])
  assert plan_lib.fingerprint(back) == plan_lib.fingerprint(ARRAY.plan)
  # Arrays are stored in a file of their own, not as long lists in the JSON.
  assert "[5" not in (tmp_path / "plan.json").read_text()
  assert not list(tmp_path.glob("*.partial"))


def test_an_audit_is_read_back_and_prints_the_same_tables(tmp_path):
  audit = plan_files.write_audit(ARRAY, tmp_path)

  back = audit_lib.read(tmp_path)

  assert table.folded(back, True) == table.folded(audit, True)
  assert (tmp_path / "audit.txt").read_text() == table.full(back)
  assert "3 of 6 selected" in table.full(back)


def test_arrays_of_an_earlier_plan_are_removed(tmp_path):
  plan_files.write_audit(ARRAY, tmp_path)
  assert (tmp_path / "plan_arrays.npz").exists()

  plan_files.write_audit(_setup((5, 0, 2)), tmp_path)

  assert not (tmp_path / "plan_arrays.npz").exists()
  assert ownership.read_plan(tmp_path).axes[0].map.index == (5, 0, 2)


def _save(path, allow_pickle=False):
  key, = plan_lib.arrays(ARRAY.plan)
  value = np.array([{}]) if allow_pickle else np.array([5, 0, 3], np.int32)
  np.savez(path, allow_pickle=allow_pickle, **{key: value})


@pytest.mark.parametrize("damage, message", [
    (lambda path: path.unlink(), "is not stored with it"),
    (lambda path: path.write_bytes(path.read_bytes()[:99]), "is damaged"),
    (lambda path: path.write_text("no arrays"), "is damaged"),
    (lambda path: _save(path), "was changed"),
    (lambda path: _save(path, allow_pickle=True), "is damaged: .* array of objects")])
def test_damaged_plan_arrays_are_refused(tmp_path, damage, message):
  plan_files.write_audit(ARRAY, tmp_path)
  damage(tmp_path / "plan_arrays.npz")

  with pytest.raises(errors.UserError, match=message):
    ownership.read_plan(tmp_path)


OLDER = {  # A plan as the first version of the package wrote it.
    "rules": [
        {"target": "norm", "source": None, "fresh": "ones", "checkpoint": "",
         "count": None, "why": ""},
        {"target": "(.*)", "source": r"old/\1", "fresh": "init", "checkpoint": "",
         "count": 4, "why": "the same"}],
    "groups": [
        {"name": "all", "params": ".*", "lr_mult": 0.5, "unfreeze_step": None}],
    "axes": [{"axis": "vocab", "map": {"kind": "MatchTokens", "fresh": "mean"},
              "params": ".*"}],
    "unused_source": ["head/.*"],
}


def _read(tmp_path, **changes):
  (tmp_path / "plan.json").write_text(json.dumps({**OLDER, **changes}))
  return ownership.read_plan(tmp_path)


def test_a_plan_written_by_an_older_version_loads(tmp_path):
  assert _read(tmp_path) == plan_lib.TransferPlan(
      rules=(Rule(target="norm", source=None, fresh="ones"),
             Rule(target="(.*)", source=r"old/\1", count=4, why="the same")),
      groups=(Group(name="all", params=".*", lr_mult=0.5, unfreeze_step=None),),
      axes=(On(axis="vocab", map=axes.MatchTokens(fresh="mean")),),
      unused_source=("head/.*",))


@pytest.mark.parametrize("changes, message", [
    ({"rules": [{**OLDER["rules"][0], "mood": "good"}]}, "mood"),
    ({"groups": [{**OLDER["groups"][0], "mood": "good"}]}, "mood"),
    ({"axes": [{"axis": "vocab", "map": {"kind": "MatchMoods"}}]}, "MatchMoods"),
    ({"axes": [{"axis": "vocab", "map": {"kind": "MatchTokens", "mood": 1}}]}, "mood"),
    ({"moods": []}, "does not know moods"), ({"format": 2}, "does not know format"),
])
def test_a_plan_of_a_newer_version_is_refused(tmp_path, changes, message):
  with pytest.raises(errors.UserError, match="plan.json: .*" + message) as error:
    _read(tmp_path, **changes)

  assert "\n" not in str(error.value)


def test_a_plan_file_that_is_not_json_is_refused(tmp_path):
  (tmp_path / "plan.json").write_text("{ cut")

  with pytest.raises(errors.UserError, match="plan.json: not JSON: Expecting"):
    ownership.read_plan(tmp_path)
