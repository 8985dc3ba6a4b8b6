"""Eight simulated devices, strict ranks, one compilation cache, the same examples.

Programs of tests are small and run a few times: they are compiled without the passes
that take longer than they save. `XLA_FLAGS= bash tests/run.sh` compiles as users do.
"""

import gc
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import hypothesis  # pylint: disable=wrong-import-position
import jax  # pylint: disable=wrong-import-position

hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update(
    "jax_compilation_cache_dir",
    str(pathlib.Path(__file__).parent.parent / ".cache" / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

gc.set_threshold(100_000)  # Traces are many objects that live on.
