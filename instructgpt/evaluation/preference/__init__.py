"""Which model people, or a judge that is a program, prefer: win rates and ratings with honest intervals."""
