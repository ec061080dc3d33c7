"""Where stimuli and responses come from. DATASETS and STIMULI are the only tables of them; mne is imported when used."""

from jaxalign.sources.audio_files import Sounds
from jaxalign.sources.image_files import Images
from jaxalign.sources.mne_epochs import MneEpochs
from jaxalign.sources.pictures import Pictures
from jaxalign.sources.rdm_files import RdmFile
from jaxalign.sources.simulated import SimulatedEeg
from jaxalign.sources.text_files import Texts

DATASETS = {"mne_epochs": MneEpochs, "simulated_eeg": SimulatedEeg, "rdm_file": RdmFile}
"""Kind in the configuration -> frozen dataclass, which is the schema of its own configuration."""

STIMULI = {"pictures": Pictures, "images": Images, "sounds": Sounds, "texts": Texts}
"""Kind of stimulus set -> frozen dataclass."""
