"""One file per op kind; `oplib.registry` imports them all."""
