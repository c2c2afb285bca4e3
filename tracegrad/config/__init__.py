"""Configuration of a run: dataclasses with a reason per field, presets, YAML and ``key=value`` changes."""

from tracegrad.config.changes import changed_keys as changed_keys
from tracegrad.config.checks import check_budget as check_budget
from tracegrad.config.load import config_from_dict as config_from_dict
from tracegrad.config.load import load_config as load_config
from tracegrad.config.load import merge as merge
from tracegrad.config.load import read_preset as read_preset
from tracegrad.config.schema import PRESETS as PRESETS
from tracegrad.config.schema import RECIPES as RECIPES
from tracegrad.config.schema import SETTINGS as SETTINGS
from tracegrad.config.schema import Config as Config
from tracegrad.config.schema import DataConfig as DataConfig
from tracegrad.config.schema import ModelConfig as ModelConfig
from tracegrad.config.schema import TrainingConfig as TrainingConfig
from tracegrad.config.schema import option_rows as option_rows
from tracegrad.config.yaml_files import read_yaml as read_yaml
