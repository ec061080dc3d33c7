"""Hydra plugin: all jobs of a sweep as one plan on one mesh. `hydra_plugins` itself is a namespace and has no __init__."""
