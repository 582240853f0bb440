"""One module per command of `python -m rtx_lab`: `add_arguments(parser)` and `main(args) -> exit code`."""
