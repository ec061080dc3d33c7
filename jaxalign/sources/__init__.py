"""Where stimuli and responses come from. DATASETS and STIMULI are the only tables of them; mne is imported when used."""

from jaxalign.sources.arrays import Arrays
from jaxalign.sources.audio_files import Sounds
from jaxalign.sources.bids import Bids
from jaxalign.sources.image_files import Images
from jaxalign.sources.mne_epochs import MneEpochs
from jaxalign.sources.mne_raw import MneRaw
from jaxalign.sources.nifti import Nifti
from jaxalign.sources.nsd import Nsd
from jaxalign.sources.nsd_images import NsdImages
from jaxalign.sources.pictures import Pictures
from jaxalign.sources.rdm_files import RdmFile
from jaxalign.sources.simulated import SimulatedEeg
from jaxalign.sources.speech import Alice, Ds004408
from jaxalign.sources.text_files import Texts
from jaxalign.sources.things_eeg2 import ThingsEeg2
from jaxalign.sources.things_raw import ThingsEeg2Raw

DATASETS = {
    "mne_raw": MneRaw,
    "bids": Bids,
    "alice": Alice,
    "ds004408": Ds004408,
    "mne_epochs": MneEpochs,
    "simulated_eeg": SimulatedEeg,
    "rdm_file": RdmFile,
    "arrays": Arrays,
    "nifti": Nifti,
    "nsd": Nsd,
    "things_eeg2": ThingsEeg2,
    "things_eeg2_raw": ThingsEeg2Raw,
}
"""Kind in the configuration -> frozen dataclass, which is the schema of its own configuration."""

STIMULI = {"pictures": Pictures, "images": Images, "sounds": Sounds, "texts": Texts, "nsd_images": NsdImages}
"""Kind of stimulus set -> frozen dataclass."""
