"""Activations on disk: written once, checked on every read, readable only when finished."""

from jaxalign.store.activations import read as read
from jaxalign.store.activations import verify as verify
from jaxalign.store.activations import write as write
from jaxalign.store.manifests import hash_ids as hash_ids
from jaxalign.store.manifests import known_manifest as known_manifest
from jaxalign.store.manifests import manifest as manifest
from jaxalign.store.manifests import matches as matches
from jaxalign.store.manifests import stimulus_ids as stimulus_ids
