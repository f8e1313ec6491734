"""Settings of the whole test session, before torch is imported."""

import os

# Sleeping instead of spinning worker threads: tests share their cores with each other and with other jobs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("INSTRUCTGPT_PROGRESS", "0")
