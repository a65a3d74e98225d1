"""Words on a command line become one `vos` call."""
