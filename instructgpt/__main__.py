"""`python -m instructgpt` is the `instructgpt` command."""

from instructgpt.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
