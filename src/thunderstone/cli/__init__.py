"""The command line: `thunderstone list`, `info`, `run`, `demo` and `doctor`."""
