"""Run a module on the simulated device: ``python -m tests.cuda_simulator sft_cli train recipe=quickstart``."""

import importlib
import os
import runpy
import sys

from tests.cuda_simulator.build import reason_to_skip
from tests.cuda_simulator.install import install

if reason := reason_to_skip():
    sys.exit(f"no simulated CUDA: {reason}")
install()
if hook := os.environ.get("SIMULATED_CUDA_HOOK"):
    importlib.import_module(hook)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
