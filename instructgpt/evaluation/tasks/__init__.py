"""The tasks: one module a data set, each reading the data set's own official files."""
