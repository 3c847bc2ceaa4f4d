"""One module per ``cxtp`` subcommand: ``add(subparsers)`` declares its options, its handler gives the exit code."""
