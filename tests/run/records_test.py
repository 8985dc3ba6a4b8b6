"""Tests that damaged records of a run are named."""

import pytest

from transfer_gen import errors
from transfer_gen.run import records


@pytest.mark.parametrize("line, cause", [
    ("{", "not JSON"), ("[]", "TypeError"), ('{"split": "test"}', "KeyError: 'step'"),
    ('{"split": 1, "step": 1, "loss": 2}', "a field is of another type")])
def test_a_damaged_line_of_metrics_is_named_with_its_cause(tmp_path, line, cause):
  (tmp_path / records.METRICS).write_text(line + "\n")

  with pytest.raises(errors.UserError, match="metrics.jsonl:1: it is no") as found:
    records.read_metrics(tmp_path)

  assert cause in str(found.value) and "UserError" not in str(found.value)


def test_damaged_scores_can_be_deleted_and_the_message_says_so(tmp_path):
  (tmp_path / "scores_test.json").write_text('{"step": 3, "terms": {}}')

  with pytest.raises(errors.UserError, match="scores_test.json: .* Delete it"):
    records.read_scores(tmp_path, "test", 3)
  assert records.read_scores(tmp_path, "test", 4) is None
