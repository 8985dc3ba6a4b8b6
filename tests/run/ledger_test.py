"""Tests for what training shows while it runs."""

import re

from tests import small_runs
from transfer_gen.run import loop


def test_each_line_of_a_log_tells_the_step_the_loss_the_rate_and_the_time_left(
    tmp_path, capsys):
  small_runs.write_lines(tmp_path / "text.txt")
  run = small_runs.configure(
      tmp_path / "text.txt", small_runs.DECODER, steps=5, log_every=2, eval_every=4)

  loop.train(run, tmp_path / "w")

  lines = [line for line in capsys.readouterr().out.splitlines() if "step" in line]
  loss, rate, left = r"loss \d\.\d{4}", r"[\d,]+ tokens/s", r"\d+ (s|min) left"
  for line, pattern in zip(lines, (
      f"step 2/5: {loss}, {rate}, {left}", f"step 4/5: {loss}, {rate}, {left}",
      rf"step 4/5: validation {loss} \(best so far\)",
      f"step 5/5: {loss}, {rate}, {left}", f"step 5/5: validation {loss}.*"),
      strict=True):
    assert re.fullmatch(pattern, line), line
  # The numbers are those of the records.
  recorded = small_runs.metrics(tmp_path / "w")
  assert f"{recorded[0]['loss']:.4f}" in lines[0]
