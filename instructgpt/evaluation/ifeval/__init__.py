"""IFEval (arXiv:2311.07911): instructions that a program can verify, judged as its own evaluator does."""
