"""What `price-model` writes; every output is made from the objects that `--json` prints."""
