"""Videos in, masks and scores out."""
