"""What nodes and models share about networks.

tfmot and TFX work with tf_keras, not with Keras 3. TensorFlow chooses when it is imported, so every
package with a module that imports TensorFlow imports this one first.
"""

import os

from ml.postponed_imports import postpone

os.environ["TF_USE_LEGACY_KERAS"] = "1"
postpone()
