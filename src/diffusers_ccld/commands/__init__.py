"""The commands of `ccld`: every module has a HELP, an `add_arguments` and a `run`, which imports what it needs."""
