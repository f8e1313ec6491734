"""Does this installation compute what it claims? What is installed, the invariants, the exact certificate."""
