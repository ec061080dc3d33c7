"""The launcher as Hydra finds it; what it does waits in _core until a sweep starts, since Hydra imports every plugin for every command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig


class JaxalignLauncher(Launcher):
    """Hands all jobs of a batch to the task function at once, then reports each as Hydra expects."""

    hydra_context: HydraContext
    task_function: Any
    config: DictConfig

    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config
        _compose_once(hydra_context.config_loader)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from hydra_plugins.jaxalign_launcher._core import launch

        return launch(self, job_overrides, initial_job_idx)


def _compose_once(loader: Any) -> None:
    """Let the launcher have the configurations that the sweeper composed to see whether a batch is legal.

    A composition takes a tenth of a second, and Hydra would do each twice.
    """
    if hasattr(loader, "composed_before"):
        return
    compose = loader.load_sweep_config
    kept: dict[tuple[str, ...], DictConfig] = {}
    loader.composed_before = kept

    def load_sweep_config(master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        words = tuple(sweep_overrides)
        if words in kept:  # handed out once: whoever gets it may change it
            return kept.pop(words)
        kept[words] = compose(master_config, sweep_overrides)
        return kept[words]

    loader.load_sweep_config = load_sweep_config


# A mapping and no dataclass: Hydra executes a plugin before it is in sys.modules, where dataclass looks its class up.
_CHOICE = {"_target_": "hydra_plugins.jaxalign_launcher.launcher.JaxalignLauncher"}
ConfigStore.instance().store(group="hydra/launcher", name="jaxalign", node=_CHOICE, provider="jaxalign")
