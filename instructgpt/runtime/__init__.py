"""Where a stage runs: device, seeds, optimizer, run folder, metrics."""
