"""Where channels are on the head."""

from __future__ import annotations

import numpy as np

HEAD_RADIUS_M = (0.05, 0.2)
"""A median distance from the origin outside this range cannot be metres on a human head."""


def template_positions(names: tuple[str, ...]) -> np.ndarray:
    """Positions of 10-05 channel names on MNE's template head; NaN for other names. -> (n_channels, 3) metres"""
    import mne

    # The template's name changes in MNE 1.14; the positions are the same.
    known = mne.channels.get_builtin_montages()
    template = "colin27_1005" if "colin27_1005" in known else "standard_1005"
    places = mne.channels.make_standard_montage(template).get_positions()["ch_pos"]
    info = mne.create_info([name for name in names if name in places], 100.0, "eeg")
    info.set_montage(mne.channels.make_standard_montage(template))
    found = {channel["ch_name"]: channel["loc"][:3] for channel in info["chs"]}
    return np.stack([found.get(name, np.full(3, np.nan)) for name in names])


def are_metres(positions: np.ndarray) -> bool:
    """Tell whether known positions lie on a sphere of a head's size. (n_channels, 3)"""
    known = positions[np.isfinite(positions).all(1)]
    return bool(len(known)) and HEAD_RADIUS_M[0] < float(np.median(np.linalg.norm(known, axis=1))) < HEAD_RADIUS_M[1]
