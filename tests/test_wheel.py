"""The wheel works where there is no checkout: it carries conf/, shows help and composes the demo."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, built and installed alone into an empty folder; dependencies come from the running environment."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, text=True)
    return wheel, site


def _run(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "jaxalign", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_the_wheel_carries_every_configuration_file(installed):
    wheel, _ = installed
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("jaxalign/conf/")}
    expected = {f"jaxalign/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert expected <= inside
    assert len(expected) > 10


def test_the_installed_package_is_the_one_that_runs(installed, tmp_path):
    _, site = installed
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = [sys.executable, "-c", "import jaxalign; print(jaxalign.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip().startswith(str(site))


def test_help_lists_experiments_and_exit_codes(installed, tmp_path):
    _, site = installed
    shown = _run(site, tmp_path, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "experiment=demo" in shown.stdout
    assert "Exit codes" in shown.stdout


def test_the_demo_composes(installed, tmp_path):
    _, site = installed
    shown = _run(site, tmp_path, "--cfg", "job", "experiment=demo")
    assert shown.returncode == 0, shown.stderr
    assert "tiny_internvl" in shown.stdout
    assert "n_subjects: 4" in shown.stdout


def test_the_launcher_of_sweeps_is_found(installed, tmp_path):
    wheel, site = installed
    plugin = "hydra_plugins/jaxalign_launcher/launcher.py"
    inside = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(plugin)]
    assert inside == [f"jaxalign/_plugins/{plugin}"]
    shown = _run(site, tmp_path, "--info", "plugins")
    assert shown.returncode == 0 and "JaxalignLauncher" in shown.stdout
