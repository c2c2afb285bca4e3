"""The Hamiltonian of a structure that no engine has seen, from atoms and a trained network."""

from tracegrad.prediction.folder import PREDICTION_FILE as PREDICTION_FILE
from tracegrad.prediction.folder import predict_to_folder as predict_to_folder
from tracegrad.prediction.folder import write_prediction as write_prediction
from tracegrad.prediction.inputs import read_atoms as read_atoms
from tracegrad.prediction.inputs import read_overlap as read_overlap
from tracegrad.prediction.inputs import structure_from_atoms as structure_from_atoms
from tracegrad.prediction.predictor import Predictor as Predictor
from tracegrad.prediction.predictor import predict as predict
from tracegrad.prediction.predictor import predict_like as predict_like
