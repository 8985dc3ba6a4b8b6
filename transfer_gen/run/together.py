"""What one of several processes that train a run together writes for all of them."""

from etils import epath

from transfer_gen import errors
from transfer_gen import processes
from transfer_gen.config import codec
from transfer_gen.run import agreement
from transfer_gen.run import page
from transfer_gen.run import workdir as workdir_lib


def claim(
    assembled: agreement.Assembled, workdir: epath.Path, min_coverage: float) -> None:
  """Claims a workdir for a run, see `workdir.claim`.

  Raises:
    errors.UserError: As `workdir.claim`; if the processes have read other data or have
      made another plan of it; or if they do not see the same folder.
  """
  agreement.check_read(assembled)
  processes.by_first(lambda: workdir_lib.claim(assembled, workdir, min_coverage))
  if not (workdir / codec.CONFIG).exists():
    raise errors.UserError(
        f"{workdir}: this process does not see what process 0 has written there. Give a"
        " --workdir on a disk that all processes share, or gs://.")


def finish(workdir: epath.Path) -> None:
  """Writes the page of a run that has ended, by one process."""
  processes.by_first(lambda: page.write(workdir))
