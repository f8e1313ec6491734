"""Running programs that a model wrote: in processes of their own, with limits, no files and no network."""
