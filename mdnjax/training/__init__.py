"""Training: state, step, fit, checkpoints; knows no network by name."""

from mdnjax.training._folder import check_folder as check_folder
from mdnjax.training._metrics import read_metrics as read_metrics
from mdnjax.training.adam import adam as adam
from mdnjax.training.checkpoints import find_checkpoint as find_checkpoint
from mdnjax.training.checkpoints import load_model as load_model
from mdnjax.training.checkpoints import package_versions as package_versions
from mdnjax.training.checkpoints import read_config as read_config
from mdnjax.training.checkpoints import restore_checkpoint as restore_checkpoint
from mdnjax.training.checkpoints import save_checkpoint as save_checkpoint
from mdnjax.training.config import ConfigError as ConfigError
from mdnjax.training.config import build as build
from mdnjax.training.config import describe as describe
from mdnjax.training.errors import CheckpointError as CheckpointError
from mdnjax.training.errors import SaveError as SaveError
from mdnjax.training.fit import FitResult as FitResult
from mdnjax.training.fit import fit as fit
from mdnjax.training.model import Model as Model
from mdnjax.training.muon import muon as muon
from mdnjax.training.muon import orthogonalize as orthogonalize
from mdnjax.training.muon import scale_by_muon as scale_by_muon
from mdnjax.training.schedule import Schedule as Schedule
from mdnjax.training.sharding import PaddedBatch as PaddedBatch
from mdnjax.training.sharding import pad_batch as pad_batch
from mdnjax.training.sharding import replicate as replicate
from mdnjax.training.sharding import split_batch as split_batch
from mdnjax.training.state import TrainState as TrainState
from mdnjax.training.state import init_state as init_state
from mdnjax.training.step import Loss as Loss
from mdnjax.training.step import NonFiniteError as NonFiniteError
from mdnjax.training.step import Step as Step
from mdnjax.training.step import StepMetrics as StepMetrics
from mdnjax.training.step import checked_names as checked_names
from mdnjax.training.step import make_step as make_step
from mdnjax.training.validation import make_validation as make_validation
from mdnjax.training.weights import read_safetensors as read_safetensors
from mdnjax.training.weights import write_safetensors as write_safetensors

__all__ = [
    "CheckpointError",
    "ConfigError",
    "FitResult",
    "Loss",
    "Model",
    "NonFiniteError",
    "PaddedBatch",
    "SaveError",
    "Schedule",
    "Step",
    "StepMetrics",
    "TrainState",
    "adam",
    "build",
    "check_folder",
    "checked_names",
    "describe",
    "find_checkpoint",
    "fit",
    "init_state",
    "load_model",
    "make_step",
    "make_validation",
    "muon",
    "orthogonalize",
    "package_versions",
    "pad_batch",
    "read_config",
    "read_metrics",
    "read_safetensors",
    "replicate",
    "restore_checkpoint",
    "save_checkpoint",
    "scale_by_muon",
    "split_batch",
    "write_safetensors",
]
