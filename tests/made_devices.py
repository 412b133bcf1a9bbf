"""Eight simulated devices, in a process of their own: their number is fixed when JAX starts."""

import json
import subprocess
import sys
import textwrap

START = """
    import json, re, sys
    import jax
    jax.config.update("jax_num_cpu_devices", 8)
    import jax.numpy as jnp, numpy as np
"""


def on_eight_devices(script, *arguments):
    """Runs a script there, after imports that all need; what it prints last, as JSON."""
    code = textwrap.dedent(START) + textwrap.dedent(script)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])
