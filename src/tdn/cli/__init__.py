"""The `tdn` command line; nothing here computes."""
