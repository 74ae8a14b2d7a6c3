"""The command `plumb`: `main` and one file per noun. Each command is a typed function; its docstring is its help."""
