"""Tests for locks, and for folders that are written whole."""

import signal
import threading

from etils import epath
import pytest

from tests import processes
from transfer_gen import errors
from transfer_gen import lock
from transfer_gen.formats import whole

OWNER = """
import sys, time
from etils import epath
from transfer_gen.formats import whole
with whole.folder(epath.Path(sys.argv[1])) as folder:
  (folder / "half").write_text("written")
  print("holds", flush=True)
  time.sleep(600)
"""


@pytest.fixture
def owner(tmp_path):
  process = processes.start(OWNER, str(tmp_path / "out"), folder=tmp_path)
  assert process.stdout.readline() == "holds\n"
  yield process
  process.send_signal(signal.SIGKILL)
  process.wait()


def test_a_folder_that_another_process_writes_is_left_alone(owner, tmp_path):
  with pytest.raises(errors.UserError, match=f"writes it .process {owner.pid} on"):
    with whole.folder(epath.Path(tmp_path / "out")):
      raise AssertionError("the body must not run")

  assert (tmp_path / "out.partial" / "half").read_text() == "written"


def test_what_a_killed_process_left_is_no_obstacle(owner, tmp_path):
  owner.send_signal(signal.SIGKILL)
  owner.wait()
  assert (tmp_path / "out.partial" / "half").exists()

  with whole.folder(epath.Path(tmp_path / "out")) as folder:
    (folder / "new").write_text("whole")

  assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
  assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["new"]


def test_who_waits_for_a_lock_gets_it_when_it_is_released(tmp_path):
  path, entered = epath.Path(tmp_path / "lock"), threading.Event()

  def wait():
    with lock.hold(path, "", wait=True):
      entered.set()

  with lock.hold(path, "busy"):
    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not entered.wait(0.2)
  waiting.join(10)

  assert entered.is_set() and not path.exists()


def test_a_lock_is_released_and_removed_by_an_error(tmp_path):
  path = epath.Path(tmp_path / "lock")
  with pytest.raises(ZeroDivisionError), lock.hold(path, "busy"):
    assert path.exists()
    with pytest.raises(errors.UserError, match="busy"), lock.hold(path, "busy"):
      raise AssertionError("the body must not run")
    1 / 0  # noqa: B018

  assert not path.exists()
  with lock.hold(path, "busy"):
    pass
