"""Settings of the process that must be made before JAX is imported."""

import os
import sys


def use_large_pages() -> None:
  """Restarts this process with large pages for malloc, on Linux.

  XLA's CPU backend allocates and frees its buffers in every step, and page faults of
  4 KiB each cost a quarter of the step of a small model. glibc reads the setting only
  when a process starts, so the process replaces itself, once.
  """
  # The variable that is set is also the sign that this was done, so the process cannot
  # replace itself without end. A user's own setting is left alone.
  if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    # orig_argv keeps `-m transfer_gen` and the interpreter's own options.
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def keep_compiled_programs() -> None:
  """Points JAX's compilation cache to a folder of the user, unless one is set.

  A run that continues, and every further run of a study, then finds the programs that
  were compiled before.
  """
  cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  os.environ.setdefault(
      "JAX_COMPILATION_CACHE_DIR", os.path.join(cache, "transfer_gen", "xla"))
  # JAX's own limit, a second, would leave out many programs of small models.
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
