"""How much memory this process may still take."""

import pathlib
import resource
import sys

_CGROUPS = (("memory.max", "memory.current"),
            ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def available() -> int:
  """Returns a number of bytes: the least that the machine and its limits leave.

  Where the system says nothing, as on macOS, it is a number that nothing exceeds.
  """
  return max(0, min(_machine(), _limit(), *(_container(*names) for names in _CGROUPS)))


def _machine() -> int:
  for line in _text(pathlib.Path("/proc/meminfo")).splitlines():
    if line.startswith("MemAvailable:"):
      return int(line.split()[1]) * 2**10
  return sys.maxsize


def _limit() -> int:
  """What `ulimit -v` leaves."""
  most, _ = resource.getrlimit(resource.RLIMIT_AS)
  pages = _text(pathlib.Path("/proc/self/statm")).split()
  if most == resource.RLIM_INFINITY or not pages:
    return sys.maxsize
  return most - int(pages[0]) * resource.getpagesize()


def _container(most: str, used: str) -> int:
  """What a container's limit leaves."""
  limit, taken = (_text(pathlib.Path("/sys/fs/cgroup") / name).strip()
                  for name in (most, used))
  # The limit is the word `max` where there is none. Pages of files count as used, but
  # make room when memory is asked for, so the machine's own number matters more.
  if not (limit.isdecimal() and taken.isdecimal()) or int(limit) >= 2**60:
    return sys.maxsize
  return int(limit) - int(taken) + _cached(pathlib.Path("/sys/fs/cgroup") / most)


def _cached(path: pathlib.Path) -> int:
  for line in _text(path.parent / "memory.stat").splitlines():
    name, _, value = line.partition(" ")
    if name in ("inactive_file", "total_inactive_file"):
      return int(value)
  return 0


def _text(path: pathlib.Path) -> str:
  try:
    return path.read_text()
  except OSError:
    return ""
