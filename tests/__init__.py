"""Tests of the package."""

import os

# Processes that tests start would each have a thread for every core, and wait for each
# other. Set before the first import of NumPy or torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")
