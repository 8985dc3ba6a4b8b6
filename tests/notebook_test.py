"""Tests that the notebook runs from its first cell to its last one."""

import json

import pytest

from tests import paths

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")


def _printed(cell):
  return "".join(output.get("text", "") for output in cell.outputs)


@pytest.mark.long
def test_the_notebook_plans_trains_and_shows_its_report(tmp_path, monkeypatch):
  monkeypatch.setenv("SMALLEST", "1")
  monkeypatch.setenv("TRANSFER_GEN_RUNS", str(tmp_path / "runs"))
  notebook = nbformat.read(paths.EXPERIMENTS / "quickstart.ipynb", as_version=4)

  nbclient.NotebookClient(
      notebook, timeout=600, resources={"metadata": {"path": paths.EXPERIMENTS}}
  ).execute()

  cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
  shown = [output.data for cell in cells for output in cell.outputs
           if output.output_type == "display_data"]
  frames = [data["text/html"] for data in shown if "text/html" in data]
  assert len(frames) == 2 and sum("image/svg+xml" in data for data in shown) == 1
  assert "against scratch" in frames[-1]
  trained = [json.loads(line) for cell in cells for line in _printed(cell).splitlines()
             if line.startswith("{")]
  assert trained[-1]["scratch_test_loss"] > 0
  # What is wrong ends a command, and not the cell.
  assert not any(word in _printed(cell) for cell in cells
                 for word in ("Traceback", "transfer-gen: ", "not found"))
