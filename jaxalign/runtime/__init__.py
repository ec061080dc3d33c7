"""The only place where compute, models, sources, store and results meet."""
