"""Steps over continuous recordings and epochs: each is MNE's own method, with its limits checked and what it did noted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from jaxalign.errors import ConfigError, DataError
from jaxalign.sources.trials import Trials, Work, near


def one_of(option: str, value: str, known: Sequence[str]) -> None:
    """Refuse a word that an option does not know.

    Args:
        option: its name, for the message.
        value: what is given.
        known: what it may be.
    Raises:
        ConfigError: naming the nearest.
    """
    if value not in known:
        raise ConfigError(f"The option {option}={value!r} is unknown. {near(value, known)}")


def stage_of(data: Any) -> str:
    """What a step is given: "raw", "epochs" or "trials"."""
    if isinstance(data, Trials):
        return "trials"
    return "epochs" if hasattr(data, "drop_log") else "raw"


@dataclass(frozen=True)
class Filter:
    """Band-pass, high-pass or low-pass, as MNE's own `filter`.

    Attributes:
        low_hz, high_hz: edges of the pass band; null leaves that side open.
        method: "fir" (MNE's default) or "iir" (Butterworth).
        order: of the Butterworth filter, as designed; zero phase applies it twice.
        phase: "zero", "zero-double", "minimum" or "forward". Zero phase lets the response spread before the onset: how
            far is noted.
    """

    takes: ClassVar[tuple[str, ...]] = ("raw", "epochs")
    low_hz: float | None = None
    high_hz: float | None = None
    method: str = "fir"
    order: int = 4
    phase: str = "zero"

    def __call__(self, work: Work) -> Work:
        nyquist = float(work.data.info["sfreq"]) / 2
        if self.low_hz is None and self.high_hz is None:
            raise ConfigError("The step filter has neither low_hz nor high_hz: give one of them, or leave it out.")
        for name in ("low_hz", "high_hz"):
            value = getattr(self, name)
            if value is not None and not 0 < value < nyquist:
                raise ConfigError(
                    f"The step filter has {name}={value:g}, and {work.where} holds 0 to {nyquist:g} Hz at {2 * nyquist:g} samples a second."
                )
        one_of("filter.method", self.method, ("fir", "iir"))
        one_of("filter.phase", self.phase, ("zero", "zero-double", "minimum", "forward"))
        iir = {"order": self.order, "ftype": "butter", "output": "sos"} if self.method == "iir" else None
        try:
            data = work.data.copy().load_data()
            data.filter(
                self.low_hz, self.high_hz, method=self.method, iir_params=iir, phase=self.phase, verbose="error"
            )
        except ValueError as error:
            raise ConfigError(f"MNE cannot make the filter {self}: {error}") from error
        if not self.phase.startswith("zero"):
            return replace(work, data=data)
        return work.noted(self._blur(float(work.data.info["sfreq"])), data=data)

    def _blur(self, sfreq: float) -> str:
        import mne

        band = f"{self.low_hz or 0:g} to {self.high_hz or sfreq / 2:g} Hz"
        reach = "before and after it"
        if self.method == "fir":
            made = mne.filter.create_filter(None, sfreq, self.low_hz, self.high_hz, phase="zero", verbose="error")
            reach = f"up to {len(made) // 2 / sfreq:.3g} s {reach}"
        return f"zero-phase {self.method} filter {band}: a response spreads {reach}, so onsets are blurred and may seem early"


@dataclass(frozen=True)
class Notch:
    """Take out the mains frequency and its harmonics, as MNE's own `notch_filter`, or with SciPy's `iirnotch`.

    Attributes:
        hz: frequency; null takes the mains frequency that the recording or dataset.mains_hz states.
        harmonics: how many multiples, the frequency itself included; those above half the sampling rate are left out.
        method: "fir" (MNE), or "iirnotch" (second-order, forward and backward).
        q: quality of "iirnotch", frequency divided by bandwidth.
    """

    takes: ClassVar[tuple[str, ...]] = ("raw",)
    hz: float | None = None
    harmonics: int = 1
    method: str = "fir"
    q: float = 30.0

    def __call__(self, work: Work) -> Work:
        stated = work.data.info["line_freq"]
        if self.hz is None and stated is None:
            raise ConfigError(
                f"The step notch has no hz, and {work.where} states no mains frequency. Set hz, or dataset.mains_hz: 50 in most countries, 60 in North America."
            )
        one_of("notch.method", self.method, ("fir", "iirnotch"))
        base = float(stated if self.hz is None else self.hz)
        nyquist = float(work.data.info["sfreq"]) / 2
        freqs = [base * number for number in range(1, self.harmonics + 1) if base * number < nyquist]
        if not freqs:
            raise ConfigError(f"The step notch is at {base:g} Hz, and {work.where} holds 0 to {nyquist:g} Hz.")
        data = work.data.copy().load_data()
        if self.method == "fir":
            data.notch_filter(freqs, verbose="error")
        else:
            data.apply_function(_notched, picks="data", channel_wise=False, sfreq=2 * nyquist, freqs=freqs, q=self.q)
        note = f"notch at {', '.join(f'{value:g}' for value in freqs)} Hz"
        source = "the mains frequency of the recording" if self.hz is None or self.hz == stated else "as asked"
        if self.hz is not None and stated is not None and self.hz != stated:
            source = f"although the mains frequency of the recording is {stated:g} Hz"
        return work.noted(f"{note}, {source}", data=data)


def _notched(values: np.ndarray, sfreq: float, freqs: Sequence[float], q: float) -> np.ndarray:
    """(n_channels, n_samples) -> the same, forward and backward."""
    from scipy.signal import filtfilt, iirnotch

    for hz in freqs:
        values = filtfilt(*iirnotch(hz, q, sfreq), values, axis=-1)
    return values


@dataclass(frozen=True)
class Centre:
    """Subtract the mean of each channel over the whole recording."""

    takes: ClassVar[tuple[str, ...]] = ("raw",)

    def __call__(self, work: Work) -> Work:
        data = work.data.copy().load_data()
        return replace(work, data=data.apply_function(_centred, picks="data", channel_wise=False))


def _centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean(-1, keepdims=True)


@dataclass(frozen=True)
class BadChannels:
    """Mark bad channels: by name, and those whose signal is odd. They stay until they are interpolated or dropped.

    Attributes:
        names: channels that are bad.
        flat: standard deviation below which a channel is flat, in its SI unit (V, T, T/m); null does not look.
        spread_z: bad when the standard deviation is further than this from the median over channels, in standard
            deviations over channels; null does not look.
        correlation: bad when the absolute correlation with the mean over channels is below this; null does not look.
    """

    takes: ClassVar[tuple[str, ...]] = ("raw", "epochs")
    names: tuple[str, ...] = ()
    flat: float | None = None
    spread_z: float | None = None
    correlation: float | None = None

    def __call__(self, work: Work) -> Work:
        unknown = [name for name in self.names if name not in work.data.ch_names]
        if unknown:
            raise ConfigError(
                f"The step bad_channels names {len(unknown)} channels that {work.where} has not, first {unknown[0]!r}. {near(unknown[0], work.data.ch_names)}"
            )
        found = dict.fromkeys(self.names, "as named")
        for kind in ("eeg", "mag", "grad", "seeg", "ecog"):
            found = self._odd(work.data, kind) | found
        data = work.data.copy()
        data.info["bads"] = [name for name in data.ch_names if name in {*data.info["bads"], *found}]
        if not found:
            return replace(work, data=data)
        listed = ", ".join(f"{name} ({why})" for name, why in found.items())
        return work.noted(
            f"{work.where}: {len(found)} of {len(data.ch_names)} channels marked bad: {listed}", data=data
        )

    def _odd(self, data: Any, kind: str) -> dict[str, str]:
        names = [name for name, one in zip(data.ch_names, data.get_channel_types(), strict=True) if one == kind]
        if not names or (self.flat is None and self.spread_z is None and self.correlation is None):
            return {}
        values = data.get_data(picks=names)
        values = values.swapaxes(0, 1).reshape(len(names), -1) if values.ndim == 3 else values
        spread, found = values.std(1), {}
        together = np.abs([_correlation(one, values.mean(0)) for one in values])
        distance = np.abs(spread - np.median(spread)) / max(float(spread.std()), np.finfo(float).tiny)
        for index, name in enumerate(names):
            if self.flat is not None and spread[index] < self.flat:
                found[name] = f"flat, SD {spread[index]:.2g}"
            elif self.spread_z is not None and distance[index] > self.spread_z:
                found[name] = f"SD {spread[index]:.2g}, {distance[index]:.1f} SDs from the median"
            elif self.correlation is not None and together[index] < self.correlation:
                found[name] = f"|r| with the mean {together[index]:.2f}"
        return found


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    first, second = first - first.mean(), second - second.mean()
    size = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / size) if size else 0.0


@dataclass(frozen=True)
class DropChannels:
    """Leave channels out.

    Attributes:
        names: channels to drop.
        bads: drop all channels that are marked bad, too.
    """

    takes: ClassVar[tuple[str, ...]] = ("raw", "epochs")
    names: tuple[str, ...] = ()
    bads: bool = False

    def __call__(self, work: Work) -> Work:
        unknown = [name for name in self.names if name not in work.data.ch_names]
        if unknown:
            raise ConfigError(
                f"The step drop_channels names {unknown[0]!r}, which {work.where} has not. {near(unknown[0], work.data.ch_names)}"
            )
        gone = {*self.names, *(work.data.info["bads"] if self.bads else ())}
        if len(gone) == len(work.data.ch_names):
            raise ConfigError(f"The step drop_channels would leave none of the {len(gone)} channels of {work.where}.")
        return replace(work, data=work.data.copy().drop_channels(sorted(gone)) if gone else work.data)


@dataclass(frozen=True)
class Montage:
    """Give EEG channels the positions of one of MNE's montages.

    Attributes:
        montage: name in MNE, such as "biosemi128" or "standard_1005".
        missing: "error" refuses names that the montage has not, "ignore" leaves their positions unknown.
    """

    takes: ClassVar[tuple[str, ...]] = ("raw", "epochs")
    montage: str = "standard_1005"
    missing: str = "error"

    def __call__(self, work: Work) -> Work:
        import mne

        one_of("montage.missing", self.missing, ("error", "ignore"))
        renamed = {"standard_1005": "colin27_1005", "standard_1020": "colin27_1020"}
        known = mne.channels.get_builtin_montages()
        name = self.montage if self.montage in known else renamed.get(self.montage, self.montage)
        if name not in known:
            raise ConfigError(f"The step montage names {self.montage!r}, which MNE has not. {near(name, known)}")
        montage = mne.channels.make_standard_montage(name)
        eeg = [
            one for one, kind in zip(work.data.ch_names, work.data.get_channel_types(), strict=True) if kind == "eeg"
        ]
        unknown = [one for one in eeg if one not in montage.ch_names]
        if unknown and self.missing == "error":
            raise DataError(
                f"{work.where}: {len(unknown)} of {len(eeg)} EEG channels are not in the montage {self.montage}, first {unknown[0]!r}; it has {len(montage.ch_names)} names such as {', '.join(montage.ch_names[:4])}. Choose another montage, drop them, or set missing: ignore."
            )
        data = work.data.copy().set_montage(montage, on_missing="ignore", verbose="error")
        note = f"channel positions are those of the montage {self.montage}"
        return work.noted(f"{note}; {len(unknown)} names are not in it" if unknown else note, data=data)


@dataclass(frozen=True)
class Interpolate:
    """Replace bad channels by what their neighbours say.

    Attributes:
        method: "spline" (MNE: spherical splines for EEG, minimum norm for MEG), or "distance" (mean of the good
            channels of the same type, weighted by 1 / distance).
    """

    takes: ClassVar[tuple[str, ...]] = ("raw", "epochs")
    method: str = "spline"

    def __call__(self, work: Work) -> Work:
        one_of("interpolate.method", self.method, ("spline", "distance"))
        bads = list(work.data.info["bads"])
        if not bads:
            return work
        kinds = dict(zip(work.data.ch_names, work.data.get_channel_types(), strict=True))
        good = {kind for name, kind in kinds.items() if name not in bads}
        alone = [name for name in bads if kinds[name] not in good]
        if alone:
            raise DataError(
                f"{work.where}: all channels of the type {kinds[alone[0]]} are marked bad, {len(bads)} of {len(kinds)}, and none is left to interpolate from. Widen the limits of bad_channels, or leave the recording out."
            )
        places = {one["ch_name"]: one["loc"][:3] for one in work.data.info["chs"]}
        lost = [name for name in bads if not np.isfinite(places[name]).all() or not np.any(places[name])]
        if lost:
            raise DataError(
                f"{work.where}: {len(lost)} of {len(bads)} bad channels have no position to interpolate from, first {lost[0]!r}. Add the step montage before interpolate, or drop them with drop_channels."
            )
        data = work.data.copy().load_data()
        data = data.interpolate_bads(verbose="error") if self.method == "spline" else _by_distance(data, places)
        return work.noted(
            f"{work.where}: {len(bads)} channels interpolated ({self.method}): {', '.join(bads)}", data=data
        )


def _by_distance(data: Any, places: Mapping[str, np.ndarray]) -> Any:
    kinds = dict(zip(data.ch_names, data.get_channel_types(), strict=True))
    values = data.get_data()
    axis = values.ndim - 2
    index = {name: place for place, name in enumerate(data.ch_names)}
    for bad in data.info["bads"]:
        good = [
            name
            for name in data.ch_names
            if name not in data.info["bads"] and kinds[name] == kinds[bad] and np.isfinite(places[name]).all()
        ]
        # The summand keeps a weight finite for two channels at one place; it is a micrometre.
        weights = 1 / (np.linalg.norm([places[name] - places[bad] for name in good], axis=1) + 1e-6)
        kept = values.take([index[name] for name in good], axis)
        data._data[..., index[bad], :] = np.tensordot(weights / weights.sum(), kept, (0, axis))
    data.info["bads"] = []
    return data


@dataclass(frozen=True)
class Reference:
    """Re-reference EEG, as MNE's own `set_eeg_reference`; bad channels do not enter an average.

    Attributes:
        channels: ["average"], or names of channels whose mean is the reference.
    """

    takes: ClassVar[tuple[str, ...]] = ("raw", "epochs")
    channels: tuple[str, ...] = ("average",)

    def __call__(self, work: Work) -> Work:
        names = list(self.channels)
        unknown = [name for name in names if name != "average" and name not in work.data.ch_names]
        if unknown or not names or ("average" in names and len(names) > 1):
            what = (
                f"{unknown[0]!r} is not in {work.where}. {near(unknown[0], work.data.ch_names)}"
                if unknown
                else "give [average], or names of channels."
            )
            raise ConfigError(f"The step reference has channels={names}: {what}")
        if "eeg" not in work.data.get_channel_types():
            raise ConfigError(f"The step reference is for EEG, and {work.where} has no EEG channel: leave it out.")
        data = work.data.copy().load_data()
        data.set_eeg_reference("average" if names == ["average"] else names, projection=False, verbose="error")
        return replace(work, data=data)


@dataclass(frozen=True)
class Resample:
    """Another sampling rate, as MNE's own `resample`, which low-pass filters first. Events stay at their seconds.

    Attributes:
        hz: new sampling rate.
        method: "fft" or "polyphase".
    """

    takes: ClassVar[tuple[str, ...]] = ("raw", "epochs")
    hz: float = 0.0
    method: str = "fft"

    def __call__(self, work: Work) -> Work:
        one_of("resample.method", self.method, ("fft", "polyphase"))
        if not self.hz > 0:
            raise ConfigError(f"The step resample has hz={self.hz:g}: a rate above 0 is needed.")
        data = work.data.copy().load_data().resample(self.hz, method=self.method, verbose="error")
        if stage_of(data) == "raw" and len(work.events["onset_s"]):
            return work.noted(
                f"resampled to {self.hz:g} Hz before epochs were cut: onsets are rounded to the new samples, by up to {500 / self.hz:.3g} ms",
                data=data,
            )
        return replace(work, data=data)


@dataclass(frozen=True)
class Epoch:
    """Cut trials around the events.

    Attributes:
        tmin_s, tmax_s: around the onset, both ends within, as in MNE.
        reject_by_annotation: drop trials that touch an annotation whose name begins with "bad".
    """

    takes: ClassVar[tuple[str, ...]] = ("raw",)
    tmin_s: float = -0.2
    tmax_s: float = 0.8
    reject_by_annotation: bool = True

    def __call__(self, work: Work) -> Work:
        import mne

        if self.tmin_s >= self.tmax_s:
            raise ConfigError(
                f"The step epoch has tmin_s={self.tmin_s:g} and tmax_s={self.tmax_s:g}: nothing is between."
            )
        onsets, raw = np.asarray(work.events["onset_s"], float), work.data
        sfreq, duration = float(raw.info["sfreq"]), raw.n_times / float(raw.info["sfreq"])
        outside = np.flatnonzero((onsets < -0.5 / sfreq) | (onsets > duration))
        if len(outside):
            raise DataError(
                f"{work.where}: {len(outside)} of {len(onsets)} events are outside the recording of {duration:.3f} s, first event {outside[0] + 1} at {onsets[outside[0]]:.3f} s. Is the recording whole, and are the onsets seconds from its start?"
            )
        samples = np.round(onsets * sfreq).astype(int) + raw.first_samp
        # MNE refuses or drops a second event at one sample; the number of the event tells which one it kept.
        triggers = np.stack([samples, np.zeros_like(samples), np.arange(len(samples))], 1)
        triggers = triggers[np.argsort(samples, kind="stable")]
        epochs = mne.Epochs(
            raw.copy().load_data(), triggers, tmin=self.tmin_s, tmax=self.tmax_s, baseline=None, preload=True,
            reject_by_annotation=self.reject_by_annotation, event_repeated="drop", proj=False, verbose="error",
        )  # fmt: skip
        numbers = epochs.events[:, 2]
        reasons = dict(zip(triggers[:, 2].tolist(), epochs.drop_log, strict=True))
        gone = tuple(
            (str(work.events["stimulus_id"][row]), _reason(log)) for row, log in sorted(reasons.items()) if log
        )
        if not len(epochs):
            raise DataError(
                f"{work.where}: none of {len(onsets)} events has a whole epoch from {self.tmin_s:g} to {self.tmax_s:g} s: {_listed(gone)}."
            )
        return _kept(replace(work, data=epochs, dropped=(*work.dropped, *gone)), numbers)


REASONS = {
    "TOO_SHORT": "beyond the ends of the recording",
    "NO_DATA": "beyond the ends of the recording",
    "DROP DUPLICATE": "two events at one sample",
}


def _reason(log: Sequence[str]) -> str:
    """Why MNE dropped an epoch, in words."""
    named = [REASONS.get(one, f"annotated {one}" if one.lower().startswith("bad") else one) for one in log]
    return named[0] if len(named) == 1 else f"{len(named)} channels beyond the limits"


def _listed(dropped: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in Counter(reason for _, reason in dropped).items())


def _kept(work: Work, rows: np.ndarray) -> Work:
    return replace(work, events={name: np.asarray(values)[rows] for name, values in work.events.items()})


@dataclass(frozen=True)
class Baseline:
    """Subtract the mean of a window of each trial, as MNE's own `apply_baseline`.

    Attributes:
        tmin_s, tmax_s: the window, both ends within; null is the end of the epoch.
    """

    takes: ClassVar[tuple[str, ...]] = ("epochs",)
    tmin_s: float | None = None
    tmax_s: float | None = 0.0

    def __call__(self, work: Work) -> Work:
        try:
            data = work.data.copy().load_data().apply_baseline((self.tmin_s, self.tmax_s), verbose="error")
        except ValueError as error:
            first, last = work.data.times[[0, -1]]
            raise ConfigError(
                f"The step baseline has {self.tmin_s} to {self.tmax_s} s, and the epochs run from {first:g} to {last:g} s: {error}"
            ) from error
        return replace(work, data=data)


@dataclass(frozen=True)
class Reject:
    """Drop trials with too large or too small a range, as MNE's own `drop_bad`; the limits are peak to peak.

    Attributes:
        eeg_v, eog_v, mag_t, grad_t_m: largest range, V, V, T, T/m; null does not look.
        flat_eeg_v, flat_mag_t, flat_grad_t_m: smallest range; null does not look.
    """

    takes: ClassVar[tuple[str, ...]] = ("epochs",)
    eeg_v: float | None = None
    eog_v: float | None = None
    mag_t: float | None = None
    grad_t_m: float | None = None
    flat_eeg_v: float | None = None
    flat_mag_t: float | None = None
    flat_grad_t_m: float | None = None

    def __call__(self, work: Work) -> Work:
        most = {"eeg": self.eeg_v, "eog": self.eog_v, "mag": self.mag_t, "grad": self.grad_t_m}
        least = {"eeg": self.flat_eeg_v, "mag": self.flat_mag_t, "grad": self.flat_grad_t_m}
        has = set(work.data.get_channel_types())
        for kind, value in (*most.items(), *least.items()):
            if value is not None and kind not in has:
                raise ConfigError(
                    f"The step reject has a limit for {kind}, and {work.where} has {', '.join(sorted(has))}."
                )
        epochs = work.data.copy().load_data()
        before = epochs.selection.copy()
        epochs.drop_bad(
            reject={kind: value for kind, value in most.items() if value is not None} or None,
            flat={kind: value for kind, value in least.items() if value is not None} or None,
            verbose="error",
        )
        rows = np.flatnonzero(np.isin(before, epochs.selection))
        out = np.flatnonzero(~np.isin(before, epochs.selection))
        if not len(rows):
            raise DataError(
                f"{work.where}: the limits of the step reject drop all {len(before)} trials. Widen them, or look at the recording."
            )
        gone = tuple((str(work.events["stimulus_id"][row]), "beyond the limits of reject") for row in out)
        return _kept(replace(work, data=epochs, dropped=(*work.dropped, *gone)), rows)


@dataclass(frozen=True)
class Crop:
    """Keep a part of each trial, both ends within, as MNE's own `crop`.

    Attributes:
        tmin_s, tmax_s: seconds from the onset; null is the end of the epoch.
    """

    takes: ClassVar[tuple[str, ...]] = ("epochs",)
    tmin_s: float | None = None
    tmax_s: float | None = None

    def __call__(self, work: Work) -> Work:
        first, last = work.data.times[[0, -1]]
        start = first if self.tmin_s is None else self.tmin_s
        stop = last if self.tmax_s is None else self.tmax_s
        slack = 1 / float(work.data.info["sfreq"])
        if start < first - slack or stop > last + slack or start >= stop:
            raise ConfigError(
                f"The step crop has {self.tmin_s} to {self.tmax_s} s, and the epochs run from {first:.3f} to {last:.3f} s."
            )
        return replace(work, data=work.data.copy().crop(max(start, first), min(stop, last)))
