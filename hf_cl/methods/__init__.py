"""Named compositions: adapter, head, losses, rule and optimizer of a published method."""

from hf_cl.methods.adapt_sessions import adapt_sessions
from hf_cl.methods.baselines import LinearProbeSettings, LoraSettings, NearestClassMeanSettings, linear_probe, lora, nearest_class_mean
from hf_cl.methods.clip_fusion import ClipFusionSettings, clip_fusion
from hf_cl.methods.coact import CoactSettings, coact
from hf_cl.methods.compose import ComposeSettings, compose
from hf_cl.methods.cpe_clip import CpeClipSettings, cpe_clip
from hf_cl.methods.dkvb import DkvbSettings, dkvb
from hf_cl.methods.dst import DstSettings, dst
from hf_cl.methods.etf import EtfSettings, etf
from hf_cl.methods.frozen import FrozenSettings, frozen
from hf_cl.methods.glad import GladSettings, glad
from hf_cl.methods.hyper_lora import HyperLoraSettings, hyper_lora
from hf_cl.methods.mamba_fscil import MambaFscilSettings, mamba_fscil
from hf_cl.methods.mask_tuning import MaskTuningSettings, mask_tuning
from hf_cl.methods.maxsim import MaxsimSettings, maxsim
from hf_cl.methods.mvp import MvpSettings, mvp
from hf_cl.methods.ovor import OvorSettings, ovor
from hf_cl.methods.pela import PelaSettings, pela
from hf_cl.methods.prd import PrdSettings, prd
from hf_cl.methods.prompt_pools import CodaPromptSettings, DualPromptSettings, L2PSettings
from hf_cl.methods.sara import SaraSettings, sara
from hf_cl.methods.session_norm import SessionNormSettings, session_norm
from hf_cl.methods.slca import SlcaSettings, slca
from hf_cl.settings import RunSettings

METHODS: dict[str, type[RunSettings]] = {
    "ovor": OvorSettings,
    "linear_probe": LinearProbeSettings,
    "nearest_class_mean": NearestClassMeanSettings,
    "frozen": FrozenSettings,
    "clip_fusion": ClipFusionSettings,
    "lora": LoraSettings,
    "coact": CoactSettings,
    "cpe_clip": CpeClipSettings,
    "glad": GladSettings,
    "sara": SaraSettings,
    "mask_tuning": MaskTuningSettings,
    "dst": DstSettings,
    "pela": PelaSettings,
    "slca": SlcaSettings,
    "prd": PrdSettings,
    "dkvb": DkvbSettings,
    "etf": EtfSettings,
    "maxsim": MaxsimSettings,
    "mamba_fscil": MambaFscilSettings,
    "l2p": L2PSettings,
    "dualprompt": DualPromptSettings,
    "coda_prompt": CodaPromptSettings,
    "hyper_lora": HyperLoraSettings,
    "mvp": MvpSettings,
    "session_norm": SessionNormSettings,
    "compose": ComposeSettings,
}
"""Method name -> its settings; `settings.method()` is the composition."""

__all__ = [
    "METHODS",
    "ClipFusionSettings",
    "CoactSettings",
    "CodaPromptSettings",
    "ComposeSettings",
    "CpeClipSettings",
    "DkvbSettings",
    "DstSettings",
    "DualPromptSettings",
    "EtfSettings",
    "FrozenSettings",
    "GladSettings",
    "HyperLoraSettings",
    "L2PSettings",
    "LinearProbeSettings",
    "LoraSettings",
    "MambaFscilSettings",
    "MaskTuningSettings",
    "MaxsimSettings",
    "MvpSettings",
    "NearestClassMeanSettings",
    "OvorSettings",
    "PelaSettings",
    "PrdSettings",
    "SaraSettings",
    "SessionNormSettings",
    "SlcaSettings",
    "adapt_sessions",
    "clip_fusion",
    "coact",
    "compose",
    "cpe_clip",
    "dkvb",
    "dst",
    "etf",
    "frozen",
    "glad",
    "hyper_lora",
    "linear_probe",
    "lora",
    "mamba_fscil",
    "mask_tuning",
    "maxsim",
    "mvp",
    "nearest_class_mean",
    "ovor",
    "pela",
    "prd",
    "sara",
    "session_norm",
    "slca",
]
