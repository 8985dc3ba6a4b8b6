"""Settings of JAX and Hypothesis that all tests and examples share.

Eight simulated CPU devices, an error where ranks are promoted, caches of compiled
programs, and the same Hypothesis examples in each run.
"""

import gc
from importlib import metadata
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ["HF_HUB_OFFLINE"] = "1"  # All models are made here; no test needs a network.
# Simulated devices wait for each other in threads of one pool, which has as many as
# there are devices. In a larger one, some are left for what the others wait for.
os.environ.setdefault("NPROC", "32")
# Tests compile small programs and run them a few times: XLA's optimization passes would
# take longer than they save, its older way to emit fusions compiles twice as fast, and
# a program that is not divided into parts takes a quarter less.
# XLA ends a process that is given a flag of another version.
# `XLA_FLAGS= bash tests/run.sh` compiles as users do.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0" + (
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    if metadata.version("jaxlib").startswith("0.10.") else ""))

import hypothesis
import jax

from transfer_gen import programs

hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update(
    "jax_compilation_cache_dir",
    str(pathlib.Path(__file__).parent / ".cache" / "xla"))
# Writing and reading a program that compiles faster takes longer than compiling it.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.6)

# Traces are many objects that live on: collecting more rarely saves time.
gc.set_threshold(1_000_000)


def pytest_runtest_teardown(item, nextitem):
  """Drops compiled programs behind a file of tests, where they take many pieces."""
  if nextitem is not None and nextitem.path != item.path:
    programs.drop(30_000)


def pytest_sessionfinish():
  """Exempts all objects from the collections that pytest makes at its end."""
  gc.freeze()
