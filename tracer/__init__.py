"""What a model does: resolve a config, build it on meta, prune, export, rewrite, match, triage, report."""
