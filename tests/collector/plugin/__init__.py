"""Variants that misbehave, and one that is quick: what the runner has to survive."""
