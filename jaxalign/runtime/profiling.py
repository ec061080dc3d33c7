"""What a run spent its time on, beside what the machine can do: a table for people, JSON for programs."""

from __future__ import annotations

from typing import Any

from jaxalign.runtime.meter import STAGES
from jaxalign.runtime.rates import Rates

HOST = ("decode", "read", "write", "finish")
"""Stages whose rate says nothing about the devices."""


def split_permutations(measured: dict[str, Any], bare: dict[str, Any], flop: dict[str, float]) -> dict[str, Any]:
    """Seconds of scoring and of the permutations, which are one program.

    Args:
        measured: a run, as the meter reports it.
        bare: the same run without permutations.
        flop: step -> analytic operations of the run.
    """
    stages = {name: dict(sums) for name, sums in measured["stages"].items()}
    if "score" in stages:
        whole = stages["score"]
        alone = min(whole["seconds"], bare["stages"].get("score", whole)["seconds"])
        stages["permute"] = {**whole, "seconds": whole["seconds"] - alone, "bytes": 0.0, "flop": flop["permute"]}
        stages["score"] = {**whole, "seconds": alone, "flop": flop["score"]}
    return {**measured, "stages": {name: stages[name] for name in STAGES if name in stages}}


def with_rates(measured: dict[str, Any], rates: Rates) -> dict[str, Any]:
    """Each stage with its rates, and the percent of what the device was measured to do."""
    stages = {}
    for name, sums in measured["stages"].items():
        per_s = {key: sums[key] / sums["seconds"] if sums["seconds"] > 0 else 0.0 for key in ("bytes", "flop")}
        peak = {"transfer": rates.copy_to_bytes_per_s, "land": rates.copy_from_bytes_per_s}.get(name)
        share = per_s["bytes"] / peak if peak else per_s["flop"] / rates.gemm_flop_per_s if sums["flop"] else None
        stages[name] = {
            **sums,
            "gb_per_s": per_s["bytes"] / 1e9,
            "gflop_per_s": per_s["flop"] / 1e9,
            "percent_of_peak": None if share is None else 100 * share,
        }
    peaks = {
        "gemm_gflop_per_s": rates.gemm_flop_per_s / 1e9,
        "copy_to_gb_per_s": rates.copy_to_bytes_per_s / 1e9,
        "copy_from_gb_per_s": rates.copy_from_bytes_per_s / 1e9,
    }
    return {**measured, "stages": stages, "peaks": peaks}


def as_text(profile: dict[str, Any]) -> str:
    """The profile as a table."""
    peaks = profile["peaks"]
    lines = [
        f"{'stage':10s} {'seconds':>9s} {'calls':>7s} {'GB':>9s} {'GB/s':>8s} {'GFLOP':>11s} {'GFLOP/s':>9s} {'of peak':>8s}"
    ]
    for name, one in profile["stages"].items():
        share = "" if one["percent_of_peak"] is None else f"{one['percent_of_peak']:.0f} %"
        moved = f"{one['bytes'] / 1e9:9.3f} {one['gb_per_s']:8.2f}" if one["bytes"] else " " * 18
        done = f"{one['flop'] / 1e9:11,.1f} {one['gflop_per_s']:9.1f}" if one["flop"] else " " * 21
        lines.append(f"{name:10s} {one['seconds']:9.3f} {int(one['n']):7d} {moved} {done} {share:>8s}")
    able = max(profile["span_s"] - profile["compile_s"], 0.0)
    lines += [
        f"devices: busy {profile['busy_s']:.2f} of {able:.2f} s, idle {profile['idle_share']:.0%}; {profile['queue_depth']:.2f} calls were ready on average",
        f"compilation: {profile['compile_s']:.2f} s for {profile['n_compiled']} programs, apart from the above",
        f"peak: {peaks['gemm_gflop_per_s']:,.0f} GFLOP/s in a large product, {peaks['copy_to_gb_per_s']:.1f} GB/s to the device, {peaks['copy_from_gb_per_s']:.1f} GB/s from it (measured just now)",
        f"wall: {profile['wall_s']:.2f} s. Stages of the host overlap those of the devices; percent of peak is of products (factorisations reach less), or of copies.",
    ]
    return "\n".join(lines)
